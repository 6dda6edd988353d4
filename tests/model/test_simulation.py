"""The simulator in short: some seeds hold, a seed replays itself, and planted bugs are found."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from model.simulation.bugs import BUGS, Bug
from model.simulation.run import Verdict, prepared, simulate
from model.simulation.schedule import ACTIONS
from model.simulation.template import Template
from model.simulation.troubles import TROUBLES

SEEDS = 12
ENOUGH = 10
"""Seeds within which every planted bug is found."""


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    """A server with enrolled tills to begin from."""
    with prepared() as made:
        yield made


def _fails(verdict: Verdict) -> str:
    return "\n".join([f"seed {verdict.seed}: {verdict.violation}", *verdict.lines[-30:]])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_history_keeps_every_promise(template: Template, seed: int) -> None:
    verdict = simulate(seed, template)
    gc.collect()
    assert not verdict.violation, _fails(verdict)
    assert verdict.required > 0


def test_a_seed_replays_its_history_byte_for_byte(template: Template) -> None:
    first, again = simulate(4, template, sales=30), simulate(4, template, sales=30)
    assert first.lines == again.lines
    assert first.digest == again.digest
    assert simulate(5, template, sales=30).digest != first.digest


def test_a_seed_replays_itself_in_another_process(template: Template) -> None:
    here = simulate(4, template, sales=30)
    command = [sys.executable, "-m", "model.simulate", "--seeds", "1", "--from", "4", "--sales", "30"]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"seed 4: {here.digest}" in done.stderr


def test_every_kind_of_trouble_can_happen() -> None:
    assert set(TROUBLES) == set(ACTIONS)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_planted_bug_is_found_and_without_it_the_same_history_is_fine(template: Template, bug: Bug) -> None:
    with bug.plant():
        found = (verdict for seed in range(ENOUGH) if (verdict := simulate(seed, template, only=bug.only)).violation)
        first = next(found, None)
    assert first is not None, f"nothing was found within {ENOUGH} seeds"
    verdict = simulate(first.seed, template, only=bug.only)
    assert not verdict.violation, _fails(verdict)
