"""The Tillstream agent of one till."""
