"""A till's journal and the keys that open it, for tests that need no server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nacl.public import PrivateKey

from tillstream_agent.journal import Disk, Journal, JournalIdentity, JournalObserver, Lane, Slice
from tillstream_protocol.framing import ChunkHeader, Frame, Place, open_frame, scan, verify_header
from tillstream_protocol.limits import DEFAULT, Limits
from tillstream_protocol.messages import Range
from tillstream_protocol.sealing import RecordSeal, open_key
from tillstream_protocol.signing import SignKey


class TurnedClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ms += round(seconds * 1000)
        self._monotonic += seconds

    def jump(self, ms: int) -> None:
        """Somebody sets the wall clock; no time passes."""
        self._now_ms += ms


class Diary(JournalObserver):
    """Keeps what the journal reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def opened(self, chunk: int) -> None:
        self.lines.append(f"opened {chunk}")

    def sync_failed(self, chunk: int, reason: str) -> None:
        self.lines.append(f"sync failed {chunk}")

    def torn(self, chunk: int, size: int) -> None:
        self.lines.append(f"torn {chunk}")

    def damaged(self, chunk: int, start: int, end: int) -> None:
        self.lines.append(f"damaged {chunk}")

    def set_aside(self, name: str, reason: str) -> None:
        self.lines.append(f"set aside {name}")

    def discarded(self, chunk: int) -> None:
        self.lines.append(f"discarded {chunk}")

    def lost(self, chunk: int, first: int, last: int | None, reason: str) -> None:
        self.lines.append(f"lost {chunk} {first} {last} {reason}")

    def given_up(self, chunk: int, size: int) -> None:
        self.lines.append(f"given up {chunk} {size}")

    def sync_stuck(self, records: int, seconds: float) -> None:
        self.lines.append(f"stuck {records} {seconds:g}")


class Reasons(Diary):
    """A diary that keeps why a file was set aside or could not be synced, and where it is damaged."""

    def damaged(self, chunk: int, start: int, end: int) -> None:
        self.lines.append(f"damaged {chunk} from {start} to {end}")

    def torn(self, chunk: int, size: int) -> None:
        self.lines.append(f"torn {chunk} by {size}")

    def synced(self, records: int, seconds: float) -> None:
        self.lines.append(f"synced {records} in {seconds:g}")

    def sync_failed(self, chunk: int, reason: str) -> None:
        self.lines.append(f"sync failed {chunk}: {reason}")

    def set_aside(self, name: str, reason: str) -> None:
        self.lines.append(f"set aside {name}: {reason}")


@dataclass
class TillKeys:
    """Everything secret of one till and its server."""

    device: SignKey = field(default_factory=lambda: SignKey(os.urandom(32)))
    server: PrivateKey = field(default_factory=PrivateKey.generate)
    escrow: PrivateKey = field(default_factory=PrivateKey.generate)
    till_id: bytes = field(default_factory=lambda: os.urandom(16))
    tag_key: bytes = field(default_factory=lambda: os.urandom(32))

    def identity(self) -> JournalIdentity:
        """What the journal is given."""
        return JournalIdentity(self.till_id, self.device, bytes(self.server.public_key), bytes(self.escrow.public_key))

    def open(self, piece: Slice, *, by_escrow: bool = False) -> list[tuple[int, bytes]]:
        """Seqs and plain records of a slice, as the server would open it."""
        verify_header(piece.header, self.device.public)
        header = ChunkHeader.decode(piece.header)
        sealed = header.escrow_sealed_key if by_escrow else header.server_sealed_key
        private = self.escrow if by_escrow else self.server
        seal = RecordSeal(open_key(sealed, bytes(private)), limit=DEFAULT.record)
        place = Place(header.till, header.epoch, header.chunk)
        frames = [part for part in scan(piece.frames) if isinstance(part, Frame)]
        return [(frame.header.seq, open_frame(seal, place, frame)) for frame in frames]


class TestTill:
    """A till that can be started again and again on the same folder."""

    __test__ = False

    def __init__(self, folder: Path, limits: Limits = DEFAULT, disk: Disk | None = None) -> None:
        self.folder = folder
        self.limits = limits
        self.disk = disk
        self.keys = TillKeys()
        self.clock = TurnedClock()
        self.diary = Diary()

    async def start(
        self,
        acked: Mapping[bytes, Sequence[Range]] | None = None,
        settled: dict[tuple[int, bytes], int] | None = None,
        aside: Mapping[bytes, Sequence[Range]] | None = None,
    ) -> Journal:
        """A new epoch on what lies in the folder."""
        return await Journal.open(
            self.folder,
            identity=self.keys.identity(),
            clock=self.clock,
            randomness=os.urandom,
            acked=acked,
            settled=settled,
            aside=aside,
            limits=self.limits,
            disk=self.disk,
            observer=self.diary,
        )

    def drain(self, journal: Journal, max_bytes: int = 1 << 20) -> list[bytes]:
        """Everything that is ready to send, the live lane last, acknowledged as it comes."""
        plains: list[bytes] = []
        lanes: tuple[Lane, ...] = ("former", "backlog", "live")
        for lane in lanes:
            while (piece := journal.next_slice(lane, max_bytes)) is not None:
                plains.extend(plain for _, plain in self.keys.open(piece))
                journal.acknowledge(piece.epoch, [Range(piece.first, piece.last)])
        return plains


async def crash(journal: Journal) -> None:
    """End a journal as SIGKILL would: nothing is closed, nothing is synced."""
    task = journal._syncer._task
    assert task is not None
    task.cancel()
