"""From a template and what it shows to a page, and the headers that every page carries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from importlib.resources import files
from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept-Language, Cookie, HX-Request",
    "X-Frame-Options": "DENY",
}
"""Nothing but this server's own files runs or is shown, nobody frames the pages, and nothing is kept in a cache."""

OWN: Final = ("console.css", "console.js", "icon.svg")
VENDORED: Final = ("htmx.min.js", "uPlot.iife.min.js", "uPlot.min.css")
"""What `make assets` puts beside our own; without it pages work too."""
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Pages:
    """Every template and asset, read once."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader(__package__ or ""),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.assets = dict(_assets())
        self._environment.globals.update(has_asset=self.assets.__contains__, place=place, with_query=with_query)

    def text(self, template: str, context: Mapping[str, object]) -> str:
        """A template, filled in. Raises `jinja2.UndefinedError` for what is not there."""
        return self._environment.get_template(template).render(context)

    def response(self, template: str, context: Mapping[str, object], status: int = 200) -> web.Response:
        """A page."""
        body = self.text(template, context)
        return web.Response(text=body, status=status, content_type="text/html", headers=HEADERS)

    def routes(self) -> list[web.RouteDef]:
        """The assets."""
        return [web.get(f"/assets/{name}", partial(_serve, name, data)) for name, data in self.assets.items()]


def place(*parts: str) -> str:
    """An address on this server of path segments, which may hold anything."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def with_query(path: str, values: Mapping[str, object], **more: object) -> str:
    """An address with a query string; None and empty are left out."""
    given = {name: value for name, value in {**values, **more}.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def _assets() -> Iterable[tuple[str, bytes]]:
    folder = files(__package__).joinpath("assets")
    for name in OWN:
        yield name, folder.joinpath(name).read_bytes()
    for name in VENDORED:
        file = folder.joinpath("vendor", name)
        if file.is_file():
            yield name, file.read_bytes()


async def _serve(name: str, data: bytes, _: web.Request) -> web.Response:
    """An asset; it is asked for anew with every page, and is small."""
    headers = {**HEADERS, "Cache-Control": "no-cache"}
    return web.Response(body=data, content_type=_TYPES[name.rpartition(".")[2]], charset="utf-8", headers=headers)
