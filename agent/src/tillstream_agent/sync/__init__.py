"""Everything that speaks to the server."""
