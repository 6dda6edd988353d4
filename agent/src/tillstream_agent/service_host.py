"""What Windows' service manager starts: it reports to it, and runs the agent until it says stop.

The manager wants a process to hand it a thread at once, by StartServiceCtrlDispatcherW; it calls the service's main
function on another one, and says what it wants on a third. Only advapi32 is needed, so no library is.

Checked by mypy for Windows. It has not been run there yet.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import asyncio
    import ctypes
    from collections.abc import Awaitable, Callable
    from ctypes import wintypes
    from typing import Final

    _OWN_PROCESS: Final = 0x10
    _START_PENDING, _STOP_PENDING, _RUNNING, _STOPPED = 2, 3, 4, 1
    _ACCEPTS: Final = 0x1 | 0x4
    """Stop, and the machine's shutdown."""
    _STOP: Final = 1
    _SHUTDOWN: Final = 5
    _INTERROGATE: Final = 4
    _NOT_IMPLEMENTED: Final = 120
    _SPECIFIC: Final = 1066
    """The error is the service's own: its exit code."""
    _WAIT_MS: Final = 30_000

    BeAgent = Callable[[asyncio.Event, Callable[[int], None]], Awaitable[None]]
    """Is the agent until the event is set, and tells when its doors are open."""

    class _Status(ctypes.Structure):
        _fields_ = tuple(
            (name, wintypes.DWORD)
            for name in ("kind", "state", "accepts", "exit_code", "own_exit_code", "checkpoint", "wait_hint")
        )

    _Main = ctypes.WINFUNCTYPE(None, wintypes.DWORD, ctypes.POINTER(wintypes.LPWSTR))
    _Handler = ctypes.WINFUNCTYPE(wintypes.DWORD, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID, wintypes.LPVOID)

    class _Entry(ctypes.Structure):
        _fields_ = (("name", wintypes.LPWSTR), ("main", _Main))

    class Host:
        """One run of the service."""

        def __init__(self, name: str, be_agent: BeAgent) -> None:
            self._name = name
            self._be_agent = be_agent
            self._advapi = ctypes.WinDLL("advapi32", use_last_error=True)
            self._advapi.RegisterServiceCtrlHandlerExW.restype = wintypes.HANDLE
            self._advapi.SetServiceStatus.argtypes = [wintypes.HANDLE, ctypes.POINTER(_Status)]
            self._handle = wintypes.HANDLE()
            self._loop: asyncio.AbstractEventLoop | None = None
            self._stop = asyncio.Event()
            # Windows keeps the addresses of both, so they have to live as long as the process.
            self._main_callback = _Main(self._main)
            self._handler_callback = _Handler(self._handle_control)

        def run(self) -> None:
            """Hand this thread to the service manager until the service ends. Raises `OSError`."""
            table = (_Entry * 2)(_Entry(self._name, self._main_callback), _Entry(None, _Main()))
            if not self._advapi.StartServiceCtrlDispatcherW(table):
                raise ctypes.WinError(ctypes.get_last_error())

        def _main(self, _count: int, _arguments: object) -> None:
            register = self._advapi.RegisterServiceCtrlHandlerExW
            self._handle = wintypes.HANDLE(register(self._name, self._handler_callback, None))
            self._report(_START_PENDING)
            try:
                asyncio.run(self._serve())
            except BaseException:
                self._report(_STOPPED, failed=True)
                raise
            self._report(_STOPPED)

        async def _serve(self) -> None:
            self._loop = asyncio.get_running_loop()
            await self._be_agent(self._stop, lambda _port: self._report(_RUNNING))

        def _handle_control(self, control: int, _event: int, _data: object, _context: object) -> int:
            if control in (_STOP, _SHUTDOWN):
                self._report(_STOP_PENDING)
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(self._stop.set)
                return 0
            return 0 if control == _INTERROGATE else _NOT_IMPLEMENTED

        def _report(self, state: int, *, failed: bool = False) -> None:
            pending = state in (_START_PENDING, _STOP_PENDING)
            status = _Status(
                _OWN_PROCESS,
                state,
                _ACCEPTS if state == _RUNNING else 0,
                _SPECIFIC if failed else 0,
                1 if failed else 0,
                1 if pending else 0,
                _WAIT_MS if pending else 0,
            )
            self._advapi.SetServiceStatus(self._handle, ctypes.byref(status))
