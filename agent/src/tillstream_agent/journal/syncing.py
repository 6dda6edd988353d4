"""Making what was written survive a power cut, and housing it elsewhere where a file cannot.

A failed sync leaves nobody knowing what is on the disk, and the next one may report success without having written
anything. So a file is never trusted again after it: what it had not synced is sealed anew, under its own names, into
a new chunk, from memory. While that fails it is tried again with growing pauses. Who waits for a disk that fails or
hangs is told so after a while, and the records stay where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from tillstream_protocol.framing import NO_TAG
from tillstream_protocol.limits import Limits
from tillstream_protocol.messages import Range

from ..clock import Clock
from .chain import Chain
from .chunks import Chunk, OpenChunk, Unsynced, sum_spends
from .directory import Directory, FailedBefore
from .doubts import Doubts
from .errors import PATIENCE_S, JournalError, unsafe
from .inherited import RENEW_AFTER_S, Inherited
from .observer import JournalObserver
from .room import Room
from .seqs import common
from .shelf import Shelf
from .tags import Tags
from .writer import index_in_mind

KEPT_COPIES: Final = 2
"""How many files that are not trusted stay while no sync succeeds, though all they hold was written elsewhere."""
AT_ONCE: Final = 20
"""How many records are sealed anew before captures have their turn."""
LONGEST_PAUSE_S: Final = 2.0
MAX_BURDEN: Final = 32 * 1024 * 1024
"""Bytes of records that wait for the disk: past this, no more are captured."""


class Syncer:
    """Syncs within `sync_interval` of a write. Runs on the loop that opened the journal."""

    def __init__(
        self,
        directory: Directory,
        doubts: Doubts,
        chain: Chain,
        shelf: Shelf,
        tags: Tags,
        room: Room,
        inherited: Inherited,
        clock: Clock,
        limits: Limits,
        observer: JournalObserver,
    ) -> None:
        self._directory = directory
        self._doubts = doubts
        self._chain = chain
        self._shelf = shelf
        self._tags = tags
        self._room = room
        self._inherited = inherited
        self._clock = clock
        self._limits = limits
        self._observer = observer
        self._homeless: list[Unsynced] = []
        self._forsaken: list[Chunk] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._synced_before = 0
        self._began = -limits.sync_interval
        """When the last pass began, by the monotonic clock."""
        self._failures = 0
        self._failed = False
        """Whether the disk failed in this pass."""
        self._moved = False
        """Whether a file was left in this pass for what had failed before."""
        self._failing_since: float | None = None
        self._pending_since: float | None = None
        """When the sync that the disk has not answered yet was asked for."""
        self._told = False
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()
        self._passing = False
        """Whether a pass is under way."""
        self._ended = False
        """Whether the last pass was made."""
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self.burden = 0
        """Bytes of the records that have not reached the disk."""
        self.wakeup: Callable[[], None] = lambda: None
        """Called whenever there may be something new to send."""

    def start(self) -> None:
        """Sync from now on."""
        self._task = asyncio.create_task(self._run(), name="journal sync")
        self._dirty.set()

    def stir(self) -> None:
        """There is something to sync."""
        self._dirty.set()

    def wrote(self, size: int) -> None:
        """A record of so many bytes was captured."""
        self.burden += size
        self._dirty.set()

    @property
    def homeless(self) -> int:
        """How many records lie in no file that is trusted."""
        return len(self._homeless)

    @property
    def safe(self) -> bool:
        """Whether a power cut would take nothing."""
        return self._inherited.safe and not self._homeless and not list(self._chain.unsynced())

    async def synced(self, seq: int) -> None:
        """Return when a record survives a power cut. Raises `JournalError` while the disk fails for long."""
        if seq < self._synced_before:
            return
        if self._stuck():
            raise unsafe()
        await asyncio.sleep(0)  # whoever comes at the same time shares the sync
        if seq < self._synced_before or self._sync_at_once():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((seq, waiter))
        self._urgent.set()
        self._dirty.set()
        if self._ended:
            waiter.cancel()
        await waiter

    async def stop(self) -> None:
        """Sync everything once more, and end. Who still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._again is not None:
            self._again.cancel()
        await self.sync_all()
        if self._chain.open is not None:  # a sync failed, and what it left has a new home
            self._chain.close()
        if self._chain.closing:
            await self.sync_all()
        while self._inherited.waiting:
            await self._inherited.step(self._patience)
        self._inherited.end()
        self._ended = True
        for _, waiter in self._waiters:
            waiter.cancel()

    async def sync_all(self) -> None:
        """One pass over everything that is not synced."""
        self._passing = True
        try:
            await self._pass()
        finally:
            self._passing = False

    async def _pass(self) -> None:
        self._failed = self._moved = False
        await self._inherited.step(self._patience)
        if self._inherited.waiting:
            self._dirty.set()
        await self._house()
        for target in list(self._chain.closing):
            await self._sync(target)
            if target in self._chain.closing:
                _close(target)
                self._chain.closing.remove(target)
        opened = self._chain.open
        if opened is not None and opened.synced_changes < opened.changes:
            await self._sync(opened)
        self._note_failure()
        self._release()
        self._room.refresh()
        if not self._homeless:
            for number in self._shelf.give_room(self._room):
                self._tags.forget(number)
        self._tags.tidy()
        self.wakeup()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._dirty.wait()
            if self._failures:
                await asyncio.sleep(self._pause())
            else:
                await self._gather()
            self._dirty.clear()
            self._urgent.clear()
            self._began = self._clock.monotonic()
            await self.sync_all()
            if self._inherited.doubtful and self._again is None:
                self._again = loop.call_later(RENEW_AFTER_S, self._try_again)

    async def _gather(self) -> None:
        """Let records come together for one sync; one that comes alone does not wait."""
        wait = self._began + self._limits.sync_interval - self._clock.monotonic()
        timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._urgent.set)
        await self._urgent.wait()
        timer.cancel()

    def _try_again(self) -> None:
        self._again = None
        self._dirty.set()

    def _pause(self) -> float:
        return float(min(LONGEST_PAUSE_S, self._limits.sync_interval * 2 ** min(self._failures, 16)))

    def _sync_at_once(self) -> bool:
        """Sync while the loop waits, if only the open chunk is to be synced; whether everything is now on the disk."""
        target = self._chain.open
        busy = self._passing or self._failures or self._chain.closing  # what lost its file counts as a failure
        if target is None or busy or not self._directory.holds(target.directory_entry):
            return False
        started = self._clock.monotonic()
        if not target.file.sync_now():
            return False
        self._note_synced(target, len(target.unsynced), target.changes, target.chunk.frames_end, started)
        self.wakeup()
        return True

    async def _sync(self, target: OpenChunk) -> None:
        pending, changes, end = len(target.unsynced), target.changes, target.chunk.frames_end
        started = self._clock.monotonic()
        try:
            with self._patience():
                await self._directory.sync(target.directory_entry)
                await target.file.sync()
        except OSError as error:
            self._observer.sync_failed(target.chunk.number, str(error))
            if isinstance(error, FailedBefore):
                self._moved = True
            else:
                self._failed = True
            await self._distrust(target)
            return
        self._note_synced(target, pending, changes, end, started)
        if target.chunk.closed and not target.unsynced:
            self._release()  # nobody waits for a footer
            await self._finish(target)
            self._tags.settle(target.chunk.number)

    def _note_synced(self, target: OpenChunk, pending: int, changes: int, end: int, started: float) -> None:
        """A sync that began after so many changes to the file has made so many records safe."""
        target.synced_changes = changes
        target.chunk.synced_end = max(target.chunk.synced_end, end)
        if pending:
            last = target.unsynced[pending - 1].seq
            self.burden -= sum(len(record.plain) for record in target.unsynced[:pending])
            del target.unsynced[:pending]
            self._shelf.note_synced(last)
            self._observer.synced(pending, self._clock.monotonic() - started)
        self._synced_before = self._first_unsynced()

    async def _finish(self, target: OpenChunk) -> None:
        """Give a chunk whose frames are on the disk its footer. Where that fails, the next start scans the frames."""
        if not target.wants_footer:
            return
        target.wants_footer = False
        self._chain.writer.finish(target)
        try:
            with self._patience():
                await target.file.sync()
        except OSError as error:
            self._observer.sync_failed(target.chunk.number, str(error))

    def _first_unsynced(self) -> int:
        """Every seq of this epoch before this one survives a power cut."""
        waiting = [target.unsynced[0].seq for target in self._chain.unsynced()]
        waiting.extend(record.seq for record in self._homeless[:1])
        return min(waiting, default=self._chain.next_seq)

    async def _distrust(self, target: OpenChunk) -> None:
        """Never trust a file again whose sync failed: what it did not sync is to be sealed anew."""
        chunk = target.chunk
        self._doubts.mark(chunk.number)
        kept = len(target.entries) - len(target.unsynced)
        del target.entries[kept:]
        chunk.spends = sum_spends(target.entries)
        chunk.frames_end = min(chunk.frames_end, chunk.synced_end)
        first = chunk.header.first_seq
        chunk.present = common(chunk.present, (Range(first, first + kept - 1),))
        chunk.closed = True
        index_in_mind(target)
        if target in self._chain.closing:
            self._chain.closing.remove(target)
        else:
            self._chain.open = None
        _close(target)
        self._homeless.extend(target.unsynced)
        self._forsaken.append(chunk)
        target.unsynced = []
        await self._house()
        self._shelf.settle(chunk)

    async def _house(self) -> None:
        """Seal what lost its file into a new chunk, under its own names. Tried again at every pass."""
        if self._homeless:
            self._homeless.sort(key=lambda record: record.seq)
            with contextlib.suppress(JournalError, OSError):
                while self._homeless:
                    for record in self._homeless[:AT_ONCE]:
                        self._rewrite(self._home_of(record.seq), record)
                        del self._homeless[0]
                    await asyncio.sleep(0)
            opened = self._chain.open
            if opened is not None and opened.chunk.end != self._chain.next_seq:
                self._chain.close()

    def _clear_up(self, keep: int) -> None:
        """Leave files whose records were all sealed anew elsewhere; the newest `keep` of them stay."""
        while not self._homeless and len(self._forsaken) > keep:
            chunk = self._forsaken.pop(0)
            self._tags.settle(chunk.number)
            self._doubts.clear(chunk.number)
            if not chunk.present and self._shelf.remove_copy(chunk):
                self._tags.forget(chunk.number)

    def _home_of(self, seq: int) -> OpenChunk:
        """A chunk whose next record may be `seq`. Raises `JournalError`."""
        opened = self._chain.open
        if opened is not None and opened.chunk.end == seq:
            return opened
        self._chain.close()
        return self._chain.begin(seq)

    def _rewrite(self, target: OpenChunk, record: Unsynced) -> None:
        """Seal one record again. Raises `OSError`; what a failed write left behind is cut, or the chunk left."""
        writer = self._chain.writer
        try:
            writer.write(target, record.seq, record.kind, record.entry, record.plain)
        except OSError:
            if not writer.cut_back(target):
                self._chain.give_up(target)
            raise
        if record.entry.tag != NO_TAG:
            self._tags.move(record.entry.tag, target.chunk.number)

    def _note_failure(self) -> None:
        if self._failed or self._homeless:
            self._dirty.set()
            self._failures += 1
            self._clear_up(KEPT_COPIES)
            if self._failing_since is None:
                self._failing_since = self._clock.monotonic()
        elif self._moved:  # to a new file, which the next pass syncs: nothing says that it must wait
            self._dirty.set()
            self._failures = 0
            self._clear_up(KEPT_COPIES)
        else:
            self._failures = 0
            self._clear_up(0)
            self._failing_since = None
            self._told = False

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        """While the disk is asked: if it does not answer, who waits is told so all the same."""
        self._pending_since = self._clock.monotonic()
        timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._release)
        try:
            yield
        finally:
            timer.cancel()
            self._pending_since = None

    def _troubled_for(self) -> float:
        """Seconds since the disk began to fail, or was asked and did not answer."""
        since = [at for at in (self._failing_since, self._pending_since) if at is not None]
        return self._clock.monotonic() - min(since) if since else 0.0

    def _stuck(self) -> bool:
        return self._troubled_for() >= PATIENCE_S

    def _release(self) -> None:
        """Tell who waits that the record is safe, or, after a while, that it is not."""
        stuck = self._stuck()
        still: list[tuple[int, asyncio.Future[None]]] = []
        for seq, waiter in self._waiters:
            if waiter.done():
                continue
            if seq < self._synced_before:
                waiter.set_result(None)
            elif stuck:
                waiter.set_exception(unsafe())
            else:
                still.append((seq, waiter))
        self._waiters = still
        if stuck and not self._told:
            self._told = True
            waiting = sum(len(target.unsynced) for target in self._chain.unsynced()) + len(self._homeless)
            self._observer.sync_stuck(waiting, self._troubled_for())


def _close(target: OpenChunk) -> None:
    """Close a file whose sync has spoken already: what closing says changes nothing."""
    with contextlib.suppress(OSError):
        target.file.close()
