"""Deciding at the till, offline too, inside the limits that the centre has leased to it."""
