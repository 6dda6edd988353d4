"""The journal under fire, point by point: power cuts, failing calls, flipped bits, cut files.

Every campaign raises `Broken` with what it takes to see the same again, or returns its figures.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Literal

from support.medium import Manner
from support.simdisk import WRITING, Judge, Operation, SimDisk, Verdict, from_image
from tillstream_agent.journal import Name
from tillstream_protocol.framing import FRAMES_START

from .book import Book, Broken
from .look import SMALL, Reader
from .rig import Rig
from .script import heal, play, script

LOSING: Final[tuple[Manner, ...]] = ("dropped", "torn", "reordered")

_Taken = tuple[str, SimDisk, frozenset[Name]]
"""When the power went, what that left, and what must be there."""


@dataclass(frozen=True, slots=True)
class PowerCuts:
    """A power cut at each call that changes something, in every manner, `variants` times each.

    With `pretends` the disk only says that it synced, and promises have to break.
    """

    seed: int
    operations: int
    variants: int = 1
    every: int = 1
    pretends: bool = False

    def run(self) -> dict[str, int]:
        """Figures. The till itself lives on; what each cut leaves is looked at between its operations."""
        with closing(Rig(self.seed)) as rig:
            return self._cut(rig)

    def _cut(self, rig: Rig) -> dict[str, int]:
        points, cuts = 0, 0
        taken: list[_Taken] = []

        def judge(operation: Operation, name: str, index: int) -> Verdict:
            nonlocal points
            if operation in WRITING:
                points += 1
                if points % self.every == 0:
                    taken.extend(self._taken(rig, f"{operation} {name} (call {index})", points))
            return "lie" if self.pretends and operation.startswith("sync") else None

        def look() -> None:
            nonlocal cuts
            rig.disk.judge = judge
            cuts += len(taken)
            self._look(rig, taken)
            taken.clear()

        rig.disk.judge = judge
        play(rig, script(self.seed, self.operations), look)
        return {"operations": self.operations, "points": points, "cuts": cuts, "records": len(rig.book.attempts)}

    def _look(self, rig: Rig, taken: Sequence[_Taken]) -> None:
        for where, disk, promised in taken:
            try:
                check_cut(rig, disk, promised)
            except Broken as error:
                raise Broken(f"seed {self.seed}, power cut {where}: {error}") from error

    def _taken(self, rig: Rig, where: str, point: int) -> Iterator[_Taken]:
        promised = rig.book.safe()
        for manner in LOSING:
            for variant in range(self.variants if manner != "dropped" else 1):
                disk = rig.disk.power_cut(manner, Random(f"{self.seed}/{point}/{manner}/{variant}"))
                yield f"before {where}, {manner} {variant}", disk, promised


@dataclass(slots=True)
class Faults:
    """An error at each call of a script, once, or at every call from there on until the disk is mended."""

    seed: int
    operations: int
    every: int = 1
    refusals_us: list[float] = field(default_factory=list)
    healed_s: list[float] = field(default_factory=list)

    def run(self) -> dict[str, float]:
        """Figures."""
        runs = 0
        calls = self._play(lambda _operation, _name, _index: None)
        for at in range(0, calls, self.every):
            for code in (errno.EIO, errno.ENOSPC):
                for lasting in (False, True):
                    runs += 1
                    try:
                        self._play(_failing(at, code, lasting=lasting))
                    except Broken as error:
                        how = "and from there on" if lasting else "once"
                        raise Broken(
                            f"seed {self.seed}, {errno.errorcode[code]} at call {at} {how}: {error}"
                        ) from error
        return {"calls": calls, "runs": runs, "refusals": len(self.refusals_us), **self._times()}

    def _play(self, judge: Judge) -> int:
        """One life under a judge, and what it leaves; how many calls it made of the disk."""
        with closing(Rig(self.seed, disk=SimDisk(judge=judge, swift=self.seed % 2 == 0))) as rig:
            play(rig, script(self.seed, self.operations))
            calls = rig.disk.calls
            self.healed_s.append(heal(rig))
            self.refusals_us.extend(rig.refusals_us)
            _check(rig, rig.disk.power_cut("dropped", Random(self.seed)), rig.book.safe())
            rig.kill()
            _check(rig, from_image(rig.disk.image()), rig.book.all())
        return calls

    def _times(self) -> dict[str, float]:
        times = sorted(self.refusals_us) or [0.0]
        return {
            "refusal_p50_us": round(times[len(times) // 2], 1),
            "refusal_p99_us": round(times[int(len(times) * 0.99)], 1),
            "refusal_max_us": round(times[-1], 1),
            "healed_max_s": round(max(self.healed_s, default=0.0), 3),
        }


Ending = Literal["closed", "killed"]
"""How the chunk that is damaged ended: with a footer, or as it was when the process died."""
ENDINGS: Final[tuple[Ending, ...]] = ("closed", "killed")
CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Specimen:
    """A chunk of about 64 KiB, and what it holds."""

    book: Book
    reader: Reader
    name: str
    content: bytes
    ends: Sequence[int]
    """Where each frame ends in the file, in bytes."""


def specimen(seed: int, ending: Ending, size: int = CHUNK) -> Specimen:
    """One chunk, filled up to its size."""
    name = "0000000001.chunk"
    ends: list[int] = []
    with closing(Rig(seed, limits=replace(SMALL, chunk=2 * size))) as rig:
        rig.start()
        while not ends or ends[-1] < size - 1200:
            rig.capture(200 + rig.random.randrange(900))
            ends.append(len(rig.disk.image()[name]))
        rig.wait(1)
        if ending == "closed":
            rig.stop()
        else:
            rig.kill()
        return Specimen(rig.book, rig.reader, name, rig.disk.image()[name], ends)


@dataclass(frozen=True, slots=True)
class Flips:
    """One bit of one byte flipped, for each byte; with `all_bits`, each of the eight bits. `size` is in bytes."""

    seed: int
    ending: Ending
    every: int = 1
    size: int = CHUNK
    all_bits: bool = False

    def run(self) -> dict[str, int]:
        """Figures."""
        one = specimen(self.seed, self.ending, self.size)
        runs, costly = 0, 0
        for byte in range(0, len(one.content), self.every):
            for bit in range(8) if self.all_bits else (byte % 8,):
                disk = from_image({one.name: one.content})
                disk.flip(one.name, byte, bit)
                try:
                    costly += self._look(one, disk)
                except Broken as error:
                    raise Broken(f"seed {self.seed}, {self.ending}, byte {byte}, bit {bit}: {error}") from error
                runs += 1
        return {"bytes": len(one.content), "records": len(one.ends), "flips": runs, "flips_that_cost_a_record": costly}

    def _look(self, one: Specimen, disk: SimDisk) -> int:
        """How many records the flip cost."""
        before = disk.image()[one.name]
        found = one.reader.look(disk)
        promised = one.book.all()
        one.book.check(found, promised, excused=1)
        _check_nothing_deleted(one.name, before, disk.image())
        return len(promised) - len(found.records)


@dataclass(frozen=True, slots=True)
class Cuts:
    """The file cut after each byte."""

    seed: int
    ending: Ending
    every: int = 1

    def run(self) -> dict[str, int]:
        """Figures."""
        one = specimen(self.seed, self.ending)
        runs = 0
        for size in range(0, len(one.content), self.every):
            disk = from_image({one.name: one.content[:size]})
            try:
                self._look(one, disk, size)
            except Broken as error:
                raise Broken(f"seed {self.seed}, {self.ending}, cut to {size} bytes: {error}") from error
            runs += 1
        return {"bytes": len(one.content), "records": len(one.ends), "cuts": runs}

    def _look(self, one: Specimen, disk: SimDisk, size: int) -> None:
        """What is whole has to be there; a record cut in two has to be named."""
        names = sorted(one.book.all(), key=lambda name: name.seq)
        whole = sum(end <= size for end in one.ends)
        found = one.reader.look(disk)
        one.book.check(found, names[:whole])
        torn = FRAMES_START < size < one.ends[-1] and size not in (*one.ends, FRAMES_START)
        if torn and not found.says_lost(names[whole]):
            raise Broken(f"{names[whole]} was cut in two, and is not named")
        _check_nothing_deleted(one.name, one.content[:size], disk.image())


def _check(rig: Rig, disk: SimDisk, promised: Collection[Name]) -> None:
    """What is on a disk keeps what was promised, and a second start finds the same."""
    found = rig.reader.look(disk)
    rig.book.check(found, promised)


def check_cut(rig: Rig, disk: SimDisk, promised: Collection[Name]) -> None:
    """What a power cut left keeps what was promised, and the till knows of nothing that it cannot send: a POS that
    asks again would be told that it is captured.
    """
    found = rig.reader.look(disk)
    rig.book.check(found, promised)
    unfounded = set(found.told.values()) - found.records.keys()
    if unfounded:
        raise Broken(f"{unfounded} are known, and cannot be sent")


def _check_nothing_deleted(name: str, before: bytes, files: Mapping[str, bytes]) -> None:
    """Every byte of a damaged file is still in the folder: where it was, or, if its tail was cut, in another file."""
    stem = name.removesuffix(".chunk")
    kept = files.get(name) or files.get(f"{stem}.damaged", b"")
    if kept.startswith(before):
        return
    tails = [content for other, content in files.items() if other.startswith(stem) and other.endswith(".torn")]
    if not any(before.endswith(tail) and kept.startswith(before[: -len(tail)]) for tail in tails):
        raise Broken(f"bytes of {name} are gone; there are {sorted(files)}")


def _failing(at: int, code: int, *, lasting: bool) -> Judge:
    return lambda _operation, _name, index: code if index == at or (lasting and index > at) else None
