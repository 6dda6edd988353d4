"""The cashier's page: one strip, large type, never in the way.

It is complete as served, so that it also works where scripts do not run; the script keeps it up to date.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import Final

from .board import BoardView, CardView

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tillstream</title>
<link rel="stylesheet" href="/display/style.css">
<noscript><meta http-equiv="refresh" content="2"></noscript>
<script src="/display/app.js" defer></script>
</head>
<body>
<main id="strip" aria-live="polite" aria-label="Offers">{cards}</main>
<p id="offline" role="status"{hidden}>offline</p>
</body>
</html>
"""


def page(view: BoardView) -> str:
    """The page with what is on the board now."""
    return _PAGE.format(cards="".join(map(_card, view.offers)), hidden=" hidden" if view.online else "")


def _card(card: CardView) -> str:
    details = "".join(f"<p>{escape(text)}</p>" for text in card.details)
    return (
        f'<article data-offer="{escape(card.offer)}"><h1>{escape(card.title)}</h1>{details}'
        f'<p class="reason">{escape(card.reason)}</p></article>'
    )


def asset(name: str) -> bytes:
    """A file that the page loads: `app.js` or `style.css`."""
    return files(__package__).joinpath(name).read_bytes()
