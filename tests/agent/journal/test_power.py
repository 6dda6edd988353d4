"""The power goes at a write, a sync, a new name: what was called safe is there, and the till starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from random import Random

import pytest

from model.disk.book import Broken
from model.disk.campaigns import PowerCuts, check_cut
from model.disk.rig import Rig
from support.simdisk import WRITING, Operation, SimDisk


@pytest.mark.parametrize("seed", [1, 2])
def test_no_power_cut_takes_what_was_called_safe(seed: int) -> None:
    figures = PowerCuts(seed, operations=120, every=7).run()
    assert figures["cuts"] >= 40


def test_of_a_disk_that_only_pretends_to_sync_it_is_seen() -> None:
    with pytest.raises(Broken, match=r"lost|before it was synced"):
        PowerCuts(1, operations=120, every=7, pretends=True).run()


def rolls(rig: Rig) -> None:
    rig.roll()
    rig.wait(1)


def stops(rig: Rig) -> None:
    rig.stop()


def is_killed_and_starts(rig: Rig) -> None:
    rig.kill()
    rig.start()
    rig.wait(1)


@pytest.mark.parametrize("story", [rolls, stops, is_killed_and_starts])
def test_no_footer_survives_without_the_frames_before_it(story: Callable[[Rig], None]) -> None:
    """Or the till would know sales that it cannot send, and tell a POS that asks again that they are captured."""
    left: list[SimDisk] = []
    with closing(Rig(1)) as rig:

        def judge(operation: Operation, _name: str, _index: int) -> None:
            if operation in WRITING:
                left.extend(rig.disk.power_cut("reordered", Random(variant)) for variant in range(20))

        rig.start()
        rig.wait(1)
        for _ in range(3):
            rig.capture(50)
        rig.disk.judge = judge
        story(rig)
        for disk in left:
            check_cut(rig, disk, frozenset())
    assert left
