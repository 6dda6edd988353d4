"""Which revision of each transaction holds, and whether it counts: the fold at the heart of the projections.

The outcome depends on what has arrived, never on the order of arrival, but where a POS dates its changes alike:

- Of the contents that came under one idempotency key, the one with the highest (revision, changed_at, captured_ms,
  seq, content) holds. A content that came several times has the highest of its ranks.
- Where the POS says when it changed something, a content has the rank under which the ledger got it first, for what is
  only said again is no later change; and its ledger id stands for seq, which begins anew with each epoch. Vendors'
  times are of whole seconds, or of none at all, so that what came first has to decide often enough.
- A transaction is voided while a void that holds names it, whichever of the two came first. A void that was replaced
  by a revision without that link voids no more.
- Effects are applied once when a transaction begins to count, and taken back once when it ceases to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

from tillstream_protocol.transaction import Transaction

from .figures import sells

Rank = tuple[int, int, int, int, bytes, bytes]
_NEVER_SAID: Final = -(2**63)
"""The rank of a content of which nobody says when it changed: behind those of which somebody does."""


class Entry(Struct, frozen=True, gc=False):
    """One transaction of the ledger as the fold takes it: `body` is pseudonymous. `targets` are the idempotency keys
    (hashed) of what it voids, if it is a void. `till_id` is the till under whose name it came, `first_till` the one
    under whose name the ledger has it: they differ where a content came several times."""

    idem: bytes
    ledger_id: int
    captured_ms: int
    seq: int
    content: bytes
    body: Transaction
    till_id: bytes
    first_till: bytes
    subject: bytes | None
    targets: frozenset[bytes]

    @property
    def rank(self) -> Rank:
        """What decides between the contents of one transaction; the till only between copies of one content."""
        body = self.body
        if body.changed_at is None:
            return (body.revision, _NEVER_SAID, self.captured_ms, self.seq, self.content, self.till_id)
        return (body.revision, body.changed_at, self.captured_ms, self.ledger_id, self.content, self.till_id)


def voided(body: Transaction, links: Iterable[tuple[str, bytes]]) -> frozenset[bytes]:
    """What a transaction voids, by its links: nothing, unless it is a void and meant."""
    if body.kind != "void" or body.training or body.test:
        return frozenset()
    return frozenset(target for relation, target in links if relation == "voids")


class Taken(Struct, frozen=True, gc=False):
    """What became of an entry: whether it holds now, and whether it counts in the figures."""

    holds: bool
    counts: bool


class Holding(Struct, gc=False):
    """The entry that holds for one idempotency key, and whether its effects are applied."""

    entry: Entry
    counted: bool


Apply = Callable[[Entry, int], None]
"""Applies a transaction's figures with the sign +1 or -1."""


class Sales:
    """Folds the entries of one retailer into what holds. `known` and `voided_by` are what the database has on all
    keys that the entries touch."""

    def __init__(self, known: Mapping[bytes, Holding], voided_by: Mapping[bytes, set[bytes]], apply: Apply) -> None:
        self._holdings = dict(known)
        self._rows = {idem: holding.entry.ledger_id for idem, holding in known.items()}
        self._voided_by = {target: set(idems) for target, idems in voided_by.items()}
        self._apply = apply
        self.changed: dict[bytes, Holding] = {}
        """Every holding that is another than before, or counts where it did not, or the other way round."""
        self.voidings: dict[tuple[bytes, bytes], bool] = {}
        """(target, void) → whether it voids now; only what changed."""

    def take(self, entry: Entry) -> Taken:
        """Fold one entry in."""
        held = self._holdings.get(entry.idem)
        if held is None:
            return Taken(holds=True, counts=self._hold(entry).counted)
        if held.entry.rank >= entry.rank:
            return Taken(holds=False, counts=False)
        if held.entry.content == entry.content:
            held.entry = entry
        else:
            self._release(held)
            self._hold(entry)
        return Taken(holds=True, counts=self._holdings[entry.idem].counted)

    def voided(self, idem: bytes) -> bool:
        """Whether some void that holds names this transaction."""
        return bool(self._voided_by.get(idem))

    def outdated(self) -> list[int]:
        """The ledger ids of what the database has on `changed`."""
        return [self._rows[idem] for idem in self.changed if idem in self._rows]

    def _hold(self, entry: Entry) -> Holding:
        holding = Holding(entry, counted=False)
        self._holdings[entry.idem] = self.changed[entry.idem] = holding
        for target in entry.targets:
            self._void(target, entry.idem)
        self._settle_held(holding)
        return holding

    def _release(self, held: Holding) -> None:
        if held.counted:
            self._apply(held.entry, -1)
        for target in held.entry.targets:
            self._unvoid(target, held.entry.idem)

    def _void(self, target: bytes, void: bytes) -> None:
        self._voided_by.setdefault(target, set()).add(void)
        self.voidings[target, void] = True
        self._settle(target)

    def _unvoid(self, target: bytes, void: bytes) -> None:
        self._voided_by[target].discard(void)
        self.voidings[target, void] = False
        self._settle(target)

    def _settle(self, idem: bytes) -> None:
        """Apply or take back a transaction's effects, if it has come to count or ceased to."""
        held = self._holdings.get(idem)
        if held is not None:
            self._settle_held(held)

    def _settle_held(self, held: Holding) -> None:
        entry = held.entry
        counts = sells(entry.body) and not self._voided_by.get(entry.idem)
        if counts != held.counted:
            self._apply(entry, 1 if counts else -1)
            held.counted = counts
            self.changed[entry.idem] = held
