"""What a till and the server agree on. Pure: no I/O, no sockets, no clock, no asyncio."""
