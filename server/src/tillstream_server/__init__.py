"""The Tillstream server."""
