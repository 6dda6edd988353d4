"""Which languages somebody's browser prefers, for every page that speaks several."""

from __future__ import annotations

from typing import Final

MAX_ACCEPTED: Final = 32
"""Languages that a browser may list before the rest is left unread."""


def preferred(accept_language: str) -> list[str]:
    """The languages of an `Accept-Language` header (RFC 9110) without their regions, the most wanted first."""
    weighed: list[tuple[float, str]] = []
    for part in accept_language.split(",")[:MAX_ACCEPTED]:
        tag, _, parameter = part.strip().partition(";")
        weight = _weight(parameter.strip())
        if tag and weight > 0:
            weighed.append((weight, tag.partition("-")[0].lower()))
    return [tag for _, tag in sorted(weighed, key=lambda pair: -pair[0])]


def _weight(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q=")) if parameter else 1.0
    except ValueError:
        return 0.0
