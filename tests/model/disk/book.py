"""The plain list against which a journal is held: what a till tried to capture, and what it was promised of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tillstream_agent.journal import Damage, Name
from tillstream_protocol.framing import Spend


class Broken(AssertionError):
    """The journal did not keep what it promised."""


@dataclass(slots=True)
class Fact:
    """A record that was handed to `append`. `safe`: `synced` returned for it."""

    name: Name
    plain: bytes
    tag: bytes
    spends: tuple[Spend, ...]
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal holds after a start, and says of it."""

    records: Mapping[Name, bytes]
    tags: Mapping[bytes, Name]
    spent: Mapping[bytes, int]
    damage: tuple[Damage, ...]
    told: Mapping[bytes, Name]
    """What it would have told a POS that asked again before anything was sent, by tag."""

    def says_lost(self, name: Name) -> bool:
        """Whether the journal says that this record may be lost."""
        return any(
            one.epoch == name.epoch and one.first <= name.seq and (one.last is None or name.seq <= one.last)
            for one in self.damage
        )


@dataclass(slots=True)
class Book:
    """Everything one till did, over all its runs."""

    facts: dict[Name, Fact] = field(default_factory=dict)
    """What `append` accepted, and no restart took back."""
    attempts: dict[Name, list[Fact]] = field(default_factory=dict)
    """Whatever was ever handed to `append` under a name, accepted or not."""
    server: dict[Name, bytes] = field(default_factory=dict)
    """What arrived."""
    settled: dict[tuple[int, bytes], int] = field(default_factory=dict)
    """Units spent in chunks that were unlinked, as the till keeps them."""
    worn: set[Name] = field(default_factory=set)
    """What a flipped bit took from the till, though the server may have it: what it spent is known no more."""

    def attempt(self, fact: Fact) -> None:
        """Something is about to be captured; until it is accepted it may turn up, or not."""
        self.attempts.setdefault(fact.name, []).append(fact)

    def accept(self, fact: Fact) -> None:
        """`append` returned."""
        if fact.name in self.facts:
            raise Broken(f"{fact.name} was given to two records")
        self.facts[fact.name] = fact

    def arrive(self, records: Iterable[tuple[Name, bytes]]) -> None:
        """The server opened these."""
        for name, plain in records:
            self._check_content(name, plain, {name} if self._is_safe(name) else ())
            if self.server.setdefault(name, plain) != plain:
                raise Broken(f"{name} reached the server with two contents")

    def safe(self) -> frozenset[Name]:
        """What a power cut may not take."""
        return frozenset(name for name in self.facts if self._is_safe(name))

    def all(self) -> frozenset[Name]:
        """What a killed process may not lose."""
        return frozenset(self.facts)

    def check(self, found: Contents, promised: Collection[Name], *, excused: int = 0) -> None:
        """Hold a started journal against this book: what was promised must be there.

        `excused` says how many records damage may have cost; each has to be named by the journal.
        """
        for name, plain in found.records.items():
            self._check_content(name, plain, promised)
        missing = [name for name in promised if name not in found.records and name not in self.server]
        unnamed = [name for name in missing if not found.says_lost(name)]
        if len(missing) > excused or unnamed:
            raise Broken(f"lost: {missing}, of which the journal does not say so: {unnamed}")
        self._check_tags(found)
        self._check_spent(found)

    def forget_lost(self, found: Contents) -> None:
        """After a start: what is not there any more is gone for good, and what turned up is a fact."""
        for name in [name for name in self.facts if name not in found.records and name not in self.server]:
            del self.facts[name]
        for name, plain in found.records.items():
            self.facts.setdefault(name, next(one for one in self.attempts[name] if one.plain == plain))

    def _is_safe(self, name: Name) -> bool:
        fact = self.facts.get(name)
        return fact is not None and fact.safe

    def _check_content(self, name: Name, plain: bytes, promised: Collection[Name]) -> None:
        """A record that turned up is one that was captured under that name."""
        known = [one.plain for one in self.attempts.get(name, [])]
        if name in promised:
            known = [self.facts[name].plain]
        if plain not in known:
            raise Broken(f"{name} turned up with another content" if known else f"{name} was never captured")

    def _check_tags(self, found: Contents) -> None:
        """What is there is known by its tag, and nothing is known that is neither there nor at the server."""
        for name in found.records:
            tags = [one.tag for one in self.attempts[name]]
            if not any(found.tags.get(tag) == name for tag in tags):
                raise Broken(f"{name} is there, but not known by its tag")
        for tag, name in found.tags.items():
            if name not in found.records and name not in self.server and not found.says_lost(name):
                raise Broken(f"{tag.hex()} is known as {name}, which is not there")

    def _check_spent(self, found: Contents) -> None:
        """What is there drew on leases, and so did what is gone because the server has it; what was damaged may count
        or not.
        """
        least, most = Counter[bytes](), Counter[bytes]()
        for name in {**found.records, **self.server, **dict.fromkeys(filter(found.says_lost, self.attempts))}:
            plain = found.records.get(name, self.server.get(name))
            for fact in self.attempts.get(name, []):
                for spend in fact.spends if plain in (None, fact.plain) else ():
                    most[spend.lease] += spend.amount
                    least[spend.lease] += spend.amount if plain is not None and name not in self.worn else 0
        for lease in {*most, *found.spent}:
            if not least[lease] <= found.spent.get(lease, 0) <= most[lease]:
                raise Broken(f"{found.spent.get(lease, 0)} spent, but captured {least[lease]} to {most[lease]}")
