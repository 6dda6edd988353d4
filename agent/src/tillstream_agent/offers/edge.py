"""The pack that the till decides by, and the deciding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from tillstream_protocol.decisions import Campaign, Decision, Occasion, Rule, Trigger, decide, due, ranked, ready
from tillstream_protocol.facts import LazyFacts
from tillstream_protocol.pack import ForeignPack, Lease, Pack, SignedPack, open_pack

from ..clock import Clock


class Spent(Protocol):
    """What was drawn on leases so far, by lease id: the journal knows."""

    @property
    def spent(self) -> Mapping[bytes, int]:
        """Units by lease."""
        ...


class Edge:
    """Decides by the newest pack that the server signed for this till. Without one it decides nothing."""

    def __init__(
        self, *, server_public_key: bytes, till_id: bytes, clock: Clock, trusted: Callable[[], bool] = lambda: True
    ) -> None:
        """`trusted` says whether the till's clock can be: otherwise offers that expire are off."""
        self._server = server_public_key
        self._till = till_id
        self._clock = clock
        self._pack: Pack | None = None
        self._rules: dict[Trigger, list[Rule]] = {}
        self._leases: dict[str, list[Lease]] = {}
        self._trusted = trusted

    @property
    def clock_trusted(self) -> bool:
        """Whether the till's clock can be trusted now, as far as is known."""
        return self._trusted()

    @property
    def pack_version(self) -> int:
        """The version of the pack in use; 0 is none."""
        return self._pack.version if self._pack is not None else 0

    @property
    def pack(self) -> Pack | None:
        """The pack in use."""
        return self._pack

    def accept(self, signed: SignedPack) -> bool:
        """Use a pack from now on; False if the one in use is as new.

        Raises `BadSignature`, `InvalidInput` or `ForeignPack`, and keeps the pack in use.
        """
        pack = open_pack(signed, self._server, self._till)
        if self._pack is not None and (pack.version, pack.issued_ms) <= (self._pack.version, self._pack.issued_ms):
            return False
        rules: dict[Trigger, list[Rule]] = {}
        for rule in ranked(map(ready, pack.campaigns)):
            if not rule.at_edge:
                raise ForeignPack("the pack has campaigns that a till cannot decide", field="campaigns")
            rules.setdefault(rule.campaign.trigger, []).append(rule)
        leases: dict[str, list[Lease]] = {}
        for lease in pack.leases:
            leases.setdefault(lease.campaign, []).append(lease)
        self._pack, self._rules, self._leases = pack, rules, leases
        return True

    def decide(
        self,
        trigger: Trigger,
        store: str,
        facts: LazyFacts,
        key: bytes,
        journal: Spent,
        *,
        among: Collection[bytes] | None = None,
        made: int = 0,
    ) -> list[Decision]:
        """What this till decides on an occasion. `key` is the occasion's, the same as at the server.

        `among` are the only offers to make, where that is settled already; `made` is how many the occasion has.
        """
        rules: Sequence[Rule] | None = self._rules.get(trigger)
        now = self._clock.now_ms()
        if self._pack is None or not rules or now >= self._pack.expires_ms or not self.clock_trusted:
            return []
        occasion = Occasion(
            trigger=trigger,
            store=store,
            facts=facts.all(),
            record_key=key,
            member_key=None,
            offer_key=self._pack.offer_key,
            now_ms=now,
            age_ms=0,
            side="edge",
        )
        if among is not None:
            rules = [rule for rule in rules if due(rule, occasion) in among]
        drawn: Counter[bytes] = Counter()

        def draw(campaign: Campaign) -> bytes | None:
            for lease in self._leases.get(campaign.id, ()):
                if journal.spent.get(lease.id, 0) + drawn[lease.id] < lease.units:
                    drawn[lease.id] += 1
                    return lease.id
            return None

        return decide(rules, occasion, draw=draw, made=made)
