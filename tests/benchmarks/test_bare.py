"""The floors of `ingest` insert every row that they claim to, and say so where they did not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from benchmarks.bare import EveryRow, LedgerRows, Took
from benchmarks.ledgers import join
from benchmarks.stand import data


async def test_the_floors_take_what_is_new_and_what_has_changed(tmp_path: Path) -> None:
    async with data(tmp_path / "server") as parts:
        (till,) = await join(parts, 1)
        path, took = parts.database.path, Took()
        await parts.intake.pipeline.process(till.device, till.batch(2))
        with (
            closing(LedgerRows(path, tmp_path / "ledger-rows.db")) as bare,
            closing(EveryRow(path, tmp_path / "every-row.db")) as whole,
        ):
            assert whole.missing() == 0
            for size, so_far in ((30, 30), (1, 31)):  # the thirty have far more narrow rows than go in one statement
                await parts.intake.pipeline.process(till.device, till.batch(size))
                assert bare.missing(so_far) == size
                assert whole.missing() > 2 * size
                bare.insert(took)
                whole.insert(took)
            assert (bare.missing(31), whole.missing()) == (0, 0)
    assert took.wall > 0
