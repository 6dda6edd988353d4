"""What must hold at every moment: nothing is sent that a power cut could still take, and no part of anything breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tillstream_protocol.framing import ChunkHeader
from tillstream_protocol.messages import decode_batch

from .fate import Violation
from .history import History
from .till import Machine

_DEFECTS: Final = (
    '"event": "unexpected_error"',
    '"event": "crashed"',
    '"event":"unexpected_error"',
    '"event":"crashed"',
)


class Watch:
    """Collects what must never happen."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.violations: list[str] = []
        history.heard = self.heard

    def heard(self, who: str, line: str) -> None:
        """A process wrote this into its log."""
        if any(mark in line for mark in _DEFECTS):
            self.violations.append(f"{who} has a defect: {line}")

    def sends_of(self, machine: Machine) -> Callable[[bytes], None]:
        """Told of every batch that leaves a machine."""

        def sends(body: bytes) -> None:
            batch = decode_batch(body)
            if not batch.frames:  # a header alone promises no record
                return
            name = f"{ChunkHeader.decode(batch.header).chunk:010d}.chunk"
            content = machine.disk.image().get(name, b"")
            start = content.find(batch.frames)
            if start < 0:
                self.violations.append(f"{machine.name} sends what does not lie in {name}")
            elif not machine.disk.betrayed(name) and not machine.disk.survives(name, start, batch.frames):
                self.violations.append(f"{machine.name} sends what is not on the disk: {name} from {start}")

        return sends

    def check(self) -> None:
        """Raises `Violation`."""
        if self.violations:
            raise Violation(self.violations[0])
