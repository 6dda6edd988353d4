"""The demo: real baskets replayed through real tills, and its figures proved against the source data."""
