"""Web pages on a port of their own, under whatever name a browser calls them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

BLANK = "<!doctype html><meta charset=utf-8><title>a page</title>"


@asynccontextmanager
async def pages(files: Mapping[str, Path], html: str = BLANK) -> AsyncIterator[int]:
    """Serve `html` at /, and these files by name; the port."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    async def file(request: web.Request) -> web.StreamResponse:
        found = files.get(request.match_info["name"])
        return web.FileResponse(found) if found is not None else web.Response(status=404)

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/{name:.+}", file)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
