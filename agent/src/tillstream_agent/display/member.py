"""Who stands at the till, as far as a screen may tell: a key without meaning, a kind, a few characters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tillstream_protocol.cards import cut_numbers, drop_tracks
from tillstream_protocol.transaction import Identifier

Mode = Literal["tail", "kind", "none"]
"""What a screen tells of a member: the kind of identifier and its last characters, the kind alone, or nothing."""

SHORTEST: Final = 4
"""An identifier of fewer characters than this has no tail that would not be most of it."""
LONGEST_TAIL: Final = 4


@dataclass(frozen=True, slots=True)
class Strip:
    """What the screen says. The tail is empty where none may be shown."""

    scheme: str
    tail: str


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody who was identified. The key means nothing outside this run of the agent."""

    key: str
    marks: frozenset[bytes]
    """Stand for the identifiers given so far."""
    strip: Strip | None

    def is_same(self, other: Known) -> bool:
        """Whether both gave one identifier in common."""
        return bool(self.marks & other.marks)

    def joined(self, other: Known) -> Known:
        """The same person, of whom more is known now."""
        return replace(self, marks=self.marks | other.marks)


def known(identifiers: Sequence[Identifier], secret: bytes, mode: Mode) -> Known | None:
    """Who gave these, under a secret of this run; None if nobody gave any."""
    if not identifiers:
        return None
    marks = [_mark(secret, identifier) for identifier in identifiers]
    strip = None if mode == "none" else _strip(identifiers[0], tail=mode == "tail")
    return Known(marks[0].hex(), frozenset(marks), strip)


def _mark(secret: bytes, identifier: Identifier) -> bytes:
    content = f"member\0{identifier.scheme}\0{identifier.value}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=8, key=secret).digest()


def _strip(identifier: Identifier, *, tail: bool) -> Strip:
    if identifier.scheme == "card" or cut_numbers(identifier.value)[1] or drop_tracks(identifier.value)[1]:
        tail = False  # not one digit of what may be a card's number, whatever it is called
    return Strip(identifier.scheme, tail_of(identifier) if tail else "")


def tail_of(identifier: Identifier) -> str:
    """The last two to four letters or digits, at most a third of a long identifier; of an address, of what is before
    the @.
    """
    value = identifier.value.partition("@")[0] if identifier.scheme == "email" else identifier.value
    characters = [character for character in value if character.isalnum()]
    if len(characters) < SHORTEST:
        return ""
    return "".join(characters[-min(LONGEST_TAIL, max(2, len(characters) // 3)) :])
