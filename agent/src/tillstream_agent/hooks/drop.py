"""The door for a POS that writes files: a folder is looked at now and then, and what lies in it is captured.

A file is taken up when size and time have not changed for the settle time. It is read, captured with its bytes, and
leaves the folder only when the disk has confirmed that: whenever the agent is killed, the file is either still there,
and a repeat at the next start, or safe in the journal. A file that cannot be read as what it should be goes to
`error/`; a journal that takes nothing leaves files where they are, and they are tried again.

The folder may lie on a share that hangs. Whatever touches it runs in a thread that nothing waits for at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from tillstream_protocol.errors import InvalidInput, TillstreamError

from ..capture import Captured
from ..clock import Clock
from ..config_doors import DropSetting
from ..events import Events
from ..journal import JournalError
from .drop_folder import DropFolder, Dropped, Look, Report, Shape, printable
from .payloads import Payloads

LONGEST_PAUSE_S: Final = 60.0
PATIENCE_S: Final = 30.0
"""How long a file waits for the disk to confirm it: no POS stands there."""
AT_HAND_MS: Final = 60_000
"""A file older than this tells of a customer who has left: the cashier's page does not turn to it."""
T = TypeVar("T")


class NoFolder(TillstreamError):
    """A watched folder, or a file in it, cannot be used as the agent's user."""

    code = "drop_folder"


class DropDoor:
    """Watches one folder."""

    def __init__(
        self,
        setting: DropSetting,
        payloads: Payloads,
        events: Events,
        clock: Clock,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._setting = setting
        self._folder = DropFolder(setting.folder, setting.pattern)
        self._payloads = payloads
        self._events = events
        self._clock = clock
        self._patience_s = patience_s
        self._seen: dict[str, tuple[Shape, float]] = {}
        """What lay there at the last look, and since when it has not changed; seconds of the monotonic clock."""
        self._captured: dict[str, Shape] = {}
        """What was captured and could not be taken out of the folder."""
        self._told: set[str] = set()
        self._failures = 0
        self._trouble = ""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            pause = await self.round()
            await asyncio.sleep(pause)

    async def round(self) -> float:
        """Look once, and take up what has settled. Returns the seconds until the next look."""
        setting, trouble = self._setting, ""
        try:
            look = await _in_thread(self._folder.look)
            self._tell(look)
            for file in self._settled(look):
                trouble = await self._tried(file) or trouble
        except OSError as error:
            trouble = f"{setting.folder}: {error.strerror or error}"
            self._failures += 1
        except JournalError as error:
            self._events.capture_failed("drop", error)
            self._failures += 1
        else:
            self._failures = 0
        self._say(trouble)
        pause = setting.poll_s * float(2 ** min(self._failures, 10))
        return min(pause, max(LONGEST_PAUSE_S, setting.poll_s))

    async def _tried(self, file: Dropped) -> str:
        """Take up one file. Why it could not be read or moved, which holds up no other. Raises `JournalError`."""
        try:
            await self._take_up(file)
        except OSError as error:
            return f"{self._setting.folder}/{printable(file.place)}: {error.strerror or error}"
        return ""

    def _settled(self, look: Look) -> list[Dropped]:
        now, seen = self._clock.monotonic(), {}
        settled = []
        for file in look.files:
            key = file.place
            shape, since = self._seen.get(key, (None, now))
            if shape != file.shape:
                since = now
            seen[key] = (file.shape, since)
            if now - since >= self._setting.settle_s:
                settled.append(file)
        self._seen = seen
        self._captured = {key: shape for key, shape in self._captured.items() if key in seen}
        return settled

    async def _take_up(self, file: Dropped) -> None:
        """Capture a file, and have it leave. Raises `JournalError` or `OSError`: then it stays."""
        key = file.place
        if self._captured.get(key) == file.shape:
            await self._leave(file, kept=self._setting.keep)
            return
        started = self._clock.monotonic()
        try:
            captured = await self._capture(file)
        except InvalidInput as error:
            await self._refuse(file, error)
            return
        except (JournalError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 (a defect: one file must not hold up the others)
            self._events.crashed("drop", error)
            await self._refuse(file, TillstreamError("the agent failed on this file"))
            return
        if captured is None:
            return
        sold, whole = captured
        self._captured[key] = file.shape
        self._count(sold, self._clock.monotonic() - started)
        await self._leave(file, kept=self._setting.keep or not sold or not whole)

    async def _capture(self, file: Dropped) -> tuple[Sequence[Captured], bool] | None:
        """What was captured of a file, and whether with all of its bytes; None if it changed while it was read."""
        data = await _in_thread(self._folder.read, file)
        if data is None:
            return None
        written_ms = file.shape.mtime_ns // 1_000_000
        sales = await self._payloads.read(self._setting.adapter, data, received_ms=written_ms)
        at_hand = abs(self._clock.now_ms() - written_ms) < AT_HAND_MS
        whole = all(sale.original.form != "left_out" for sale in sales)
        return await self._payloads.capture(sales, durable=self._patience_s, at_hand=at_hand), whole

    async def _leave(self, file: Dropped, *, kept: bool) -> None:
        """What was sealed is removed; what was not, because it sells nothing, is kept."""
        await _in_thread(self._folder.keep if kept else self._folder.remove, file)
        self._captured.pop(file.place, None)

    async def _refuse(self, file: Dropped, error: TillstreamError) -> None:
        report = Report(printable(file.name), self._setting.adapter, error.body())
        await _in_thread(self._folder.set_aside, file, report)
        self._events.drop_refused(error)

    def _count(self, captured: Sequence[Captured], seconds: float) -> None:
        for one in captured:
            self._events.captured("drop", "transaction", "disk", repeat=one.repeat)
        self._events.adapted("drop", seconds)
        new = any(not one.repeat for one in captured)
        self._events.dropped("captured" if new else "repeat" if captured else "nothing")

    def _say(self, trouble: str) -> None:
        """Tell of trouble with the folder once, and when it is over."""
        if trouble and not self._trouble:
            self._events.drop_unusable(NoFolder(trouble, field="drop", hint="see tillstream-agent doctor"))
        elif self._trouble and not trouble:
            self._events.drop_usable(str(self._setting.folder))
        self._trouble = trouble

    def _tell(self, look: Look) -> None:
        """Say once what is left alone, and that others may look in."""
        odd = set(look.odd)
        for name in sorted(odd - self._told):
            self._events.drop_left_alone(str(self._setting.folder), printable(name))
        if look.open_to_others and "" not in self._told:
            self._events.drop_open(str(self._setting.folder))
        self._told = odd | ({""} if look.open_to_others else set())


async def _in_thread(call: Callable[..., T], *arguments: object) -> T:
    """The result of a call that may hang. Its thread is nobody's: the process ends without it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error is not None else done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failed = None, None
        try:
            result = call(*arguments)
        except BaseException as error:  # noqa: BLE001 (told to whoever waits)
            failed = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=work, name="drop", daemon=True).start()
    return await done
