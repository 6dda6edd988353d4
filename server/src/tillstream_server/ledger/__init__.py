"""The append-only store of records, and everything that lies in its database."""
