"""A bit turns, or the end of a file is gone: the till starts, one record is lost at most, and it says which."""

from __future__ import annotations

import pytest

from model.disk.campaigns import ENDINGS, Cuts, Ending, Flips


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_flipped_bit_costs_one_record_at_most_and_it_is_named(ending: Ending) -> None:
    figures = Flips(seed=1, ending=ending, every=997).run()
    assert figures["flips"] >= 64
    assert 0 < figures["flips_that_cost_a_record"] < figures["flips"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_of_a_small_chunk_header_and_footer_are_hit_too(ending: Ending) -> None:
    figures = Flips(seed=2, ending=ending, every=23, size=4096).run()
    assert figures["flips"] >= 100


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_cut_anywhere_keeps_what_was_whole_and_names_what_was_not(ending: Ending) -> None:
    assert Cuts(seed=1, ending=ending, every=991).run()["cuts"] >= 64
