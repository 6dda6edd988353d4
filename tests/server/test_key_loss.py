"""A queue outlives the keys it was sealed to: the short form of `model.key_loss`."""

from __future__ import annotations

from pathlib import Path

from model import key_loss

RECORDS = 300


async def test_every_record_is_read_through_rotation_and_loss_of_the_online_key(tmp_path: Path) -> None:
    figures = await key_loss.run(tmp_path, RECORDS)
    assert figures.stored == figures.queued == RECORDS
    assert len(figures.keys_used) == 3


async def test_without_the_escrow_key_exactly_what_was_sealed_to_the_lost_key_stays_shut(tmp_path: Path) -> None:
    figures = await key_loss.run(tmp_path, RECORDS)
    assert figures.opening_without_escrow == RECORDS - RECORDS // 3
