"""The power goes at a write, a sync, a new name: what was called safe is there, and the till starts."""

from __future__ import annotations

import pytest

from model.disk.book import Broken
from model.disk.campaigns import PowerCuts


@pytest.mark.parametrize("seed", [1, 2])
def test_no_power_cut_takes_what_was_called_safe(seed: int) -> None:
    figures = PowerCuts(seed, operations=120, every=7).run()
    assert figures["cuts"] >= 40


def test_of_a_disk_that_only_pretends_to_sync_it_is_seen() -> None:
    with pytest.raises(Broken, match=r"lost|before it was synced"):
        PowerCuts(1, operations=120, every=7, pretends=True).run()
