"""The pack that the till decides by, and the deciding."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Protocol

from tillstream_protocol.decisions import Campaign, Decision, Occasion, Rule, Trigger, decide, due, ranked, ready
from tillstream_protocol.facts import LazyFacts
from tillstream_protocol.narrowing import RuleIndex
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
        self._rules: dict[Trigger, RuleIndex] = {}
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

    def has_rules(self, trigger: Trigger) -> bool:
        """Whether the pack has any rule to decide by on such an occasion."""
        return trigger in self._rules

    def accept(self, signed: SignedPack) -> bool:
        """Use a pack from now on; False if the one in use is as new.

        Raises `BadSignature`, `InvalidInput` or `ForeignPack`, and keeps the pack in use.
        """
        return any(self._accepting(signed))

    async def take(self, signed: SignedPack) -> bool:
        """Do as `accept` does, in small steps: a thousand campaigns are long to compile, and captures do not wait."""
        for done in self._accepting(signed):
            if done:
                return True
            await asyncio.sleep(0)
        return False

    def _accepting(self, signed: SignedPack) -> Iterator[bool]:
        """Step by step; the last one is true if the pack is in use then."""
        pack = open_pack(signed, self._server, self._till)
        if not self._is_newer(pack):
            return
        rules: list[Rule] = []
        for campaign in pack.campaigns:
            rule = ready(campaign)
            if not rule.at_edge:
                raise ForeignPack("the pack has campaigns that a till cannot decide", field="campaigns")
            rules.append(rule)
            yield False
        indexes: dict[Trigger, RuleIndex] = {}
        for rule in ranked(rules):
            indexes.setdefault(rule.campaign.trigger, RuleIndex()).add(rule)
            yield False
        leases: dict[str, list[Lease]] = {}
        for lease in pack.leases:
            leases.setdefault(lease.campaign, []).append(lease)
        if self._is_newer(pack):  # than what may have come meanwhile
            self._pack, self._rules, self._leases = pack, indexes, leases
            yield True

    def _is_newer(self, pack: Pack) -> bool:
        used = self._pack
        return used is None or (pack.version, pack.issued_ms) > (used.version, used.issued_ms)

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
        index = self._rules.get(trigger)
        now = self._clock.now_ms()
        if self._pack is None or index is None or now >= self._pack.expires_ms or not self.clock_trusted:
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
        rules: Iterable[Rule] = index.possible(occasion.facts)
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
