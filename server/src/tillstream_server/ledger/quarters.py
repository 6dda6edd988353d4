"""Time as `sales_by_quarter` has it: hours of UTC, whose quarters are numbered from 0."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

QUARTER_MS: Final = 15 * 60_000
"""What `sales_by_quarter` counts by."""
QUARTERS: Final = 4
HOUR_MS: Final = QUARTERS * QUARTER_MS
COUNTED: Final = ("transactions", "amount_minor")


class Piece(Struct, frozen=True):
    """Hours of UTC, half-open, and which of their quarters are meant."""

    from_ms: int
    to_ms: int
    quarters: range

    def sums(self) -> dict[str, str]:
        """What adds up these quarters of a row, as SQL, by what is counted."""
        return {name: " + ".join(f"{name}_{quarter}" for quarter in self.quarters) for name in COUNTED}


def pieces(from_ms: int, to_ms: int) -> list[Piece]:
    """A span of time as rows of `sales_by_quarter` have it: an hour's last quarters, whole hours, an hour's first."""
    first, after = (-(-at_ms // QUARTER_MS) for at_ms in (from_ms, to_ms))
    hour, last = -(-first // QUARTERS), after // QUARTERS
    if hour > last:
        found = [(last, hour, first % QUARTERS, after % QUARTERS)]
    else:
        head = (hour - 1, hour, first % QUARTERS or QUARTERS, QUARTERS)
        found = [head, (hour, last, 0, QUARTERS), (last, last + 1, 0, after % QUARTERS)]
    made = [Piece(begin * HOUR_MS, end * HOUR_MS, range(*quarters)) for begin, end, *quarters in found]
    return [piece for piece in made if piece.from_ms < piece.to_ms and piece.quarters]
