"""What the doctor says of one thing it looked at."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeVar

from msgspec import Struct

Verdict = Literal["ok", "problem"]
T = TypeVar("T")


class Finding(Struct, frozen=True, omit_defaults=True):
    """One thing looked at. A problem names its cause and what to do."""

    check: str
    verdict: Verdict
    detail: str
    cause: str = ""
    fix: str = ""


def ok(check: str, detail: str) -> Finding:
    """Nothing is wrong there."""
    return Finding(check, "ok", detail)


def problem(check: str, detail: str, cause: str, fix: str) -> Finding:
    """Something is wrong there."""
    return Finding(check, "problem", detail, cause, fix)


def some(names: list[str], most: int = 5) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


async def patiently(work: Callable[[], T], seconds: float) -> T:
    """Do blocking work in a thread of its own. Raises `TimeoutError` after `seconds`, and what the work raises.

    A thread that hangs in a dead disk or resolver is left behind: it keeps neither the doctor nor its end waiting.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 (handed on, whatever it is)
            failure = error
        with suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True, name="doctor").start()
    return await asyncio.wait_for(done, seconds)
