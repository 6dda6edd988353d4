"""Head office's HTTP API: `/api/v1/…`, JSON, with a bearer key for every call."""
