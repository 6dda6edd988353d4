"""Numbers on a command line: what both sides' commands take, and how they refuse what they do not.

A bound keeps out what Python would take for a number and no command could use: `nan`, `inf`, a wait without an end.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Final

MAX_WHOLE: Final = 2**63 - 1

_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")


def whole(least: int, most: int = MAX_WHOLE) -> Callable[[str], int]:
    """A whole number from `least` to `most`; argparse names the flag of one that is not."""
    allowed = f"a whole number from {least} to {most}" if most < MAX_WHOLE else f"a whole number, at least {least}"

    def parse(text: str) -> int:
        if _WHOLE.fullmatch(text) is None or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is not allowed; give {allowed}")
        return int(text)

    return parse


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A number of seconds from `least` to `most`, likewise."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:  # nor is anything that is no number
            raise ArgumentTypeError(f"{text!r} is not allowed; give seconds from {least:g} to {most:g}")
        return number

    return parse
