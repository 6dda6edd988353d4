"""Whatever a till lives through, its journal keeps what it promised. `make crash` looks through many more stories."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from model.disk.machine import JournalMachine

TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
