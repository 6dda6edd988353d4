"""Whichever call of the disk fails, once or for good: nothing is promised falsely, and all is well when the disk is."""

from __future__ import annotations

from model.disk.campaigns import Faults


def test_no_failing_call_makes_a_false_promise_and_the_till_heals() -> None:
    figures = Faults(seed=1, operations=60, every=7).run()
    assert figures["runs"] >= 40
    assert figures["refusals"] > 0
    assert figures["healed_max_s"] < 5
