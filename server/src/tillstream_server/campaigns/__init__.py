"""Who gets what when: the book of campaigns, what it decides, and what tills may decide by themselves."""
