"""Every bound in one place. Tests shrink them so that roll-over and refusal really happen."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

MAX_LINES = 5_000
MAX_TENDERS = 100
MAX_SHORT = 64
MAX_TEXT = 256
MAX_LONG_TEXT = 4_000
MAX_MINOR = 10**15
MAX_AMOUNT = 10**13
"""Minor units in one transaction, total and lines together, signs apart."""
MAX_QUANTITY = 10**9
"""Units in one transaction, signs apart."""
MAX_EXT_FIELDS = 200
MAX_SPENDS = 16
MAX_OFFERS_SHOWN = 3
MAX_DECISIONS = 5_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    hook_body: int = 1 * MIB
    record: int = 1 * MIB + 256 * KIB
    """A record before compression: a hook body and what the agent adds to it."""
    chunk: int = 4 * MIB
    chunk_age: float = 15 * 60
    sync_interval: float = 0.020
    """An `os`-acknowledged record is on the disk after at most this long."""
    batch: int = 256 * KIB
    """Frames sent together; a single larger frame travels alone."""
    batch_body: int = 4 * MIB
    push_message: int = 256 * KIB
    retain_age: float = 72 * 3600
    retain_bytes: int = 1024 * MIB
    reserve: int = 64 * MIB
    """Free room on the journal's disk that captures leave untouched."""
    tries: int = 3
    """How often the server may refuse one record before it is set aside."""


DEFAULT = Limits()
