"""The floor of the libraries' calls: it does the pipeline's work, and shows that it did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bare import Took
from benchmarks.ledgers import NotStored, join
from benchmarks.libraries import LibraryCalls
from benchmarks.stand import data
from tillstream_server.app import Parts

OTHER_KEY = bytes(range(32))


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with data(tmp_path / "server") as parts:
        yield parts


async def test_each_batch_comes_to_the_rows_that_the_pipeline_wrote(parts: Parts) -> None:
    first, second = await join(parts, 2)
    await parts.intake.pipeline.process(first.device, first.batch(2))
    took = Took()
    with closing(LibraryCalls(parts)) as calls:
        for till, size in ((first, 30), (second, 40), (first, 1)):  # the second's members are partly the first's
            batch = till.batch(size)
            await parts.intake.pipeline.process(till.device, batch)
            before = took.wall
            await calls.take([batch], took)
            assert took.wall > before
        both = [first.batch(7), second.batch(5)]
        for till, batch in zip((first, second), both, strict=True):
            await parts.intake.pipeline.process(till.device, batch)
        await calls.take(both, took)


@pytest.mark.parametrize(
    ("key", "what"),
    [("digest_key", "digest is another"), ("identifier_key", "identifier is another"), ("vault_key", "vault holds")],
)
async def test_work_with_another_key_is_noticed(parts: Parts, key: str, what: str) -> None:
    (till,) = await join(parts, 1)
    other: dict[str, Any] = {key: OTHER_KEY}
    wrong = replace(parts, keys=replace(parts.keys, **other))
    with closing(LibraryCalls(wrong)) as calls:
        batch = till.batch(3)
        await parts.intake.pipeline.process(till.device, batch)
        with pytest.raises(NotStored, match=what):
            await calls.take([batch], Took())


@pytest.mark.parametrize("column", ["digest", "content", "idem", "body"])
async def test_a_row_that_the_calls_do_not_come_to_is_noticed(parts: Parts, column: str) -> None:
    (till,) = await join(parts, 1)
    with closing(LibraryCalls(parts)) as calls:
        batch = till.batch(3)
        await parts.intake.pipeline.process(till.device, batch)
        async with parts.database.write() as conn:
            await conn.exec_driver_sql(f"UPDATE ledger SET {column} = zeroblob(16) WHERE seq = 2")
        with pytest.raises(NotStored, match=f"{column} is another"):
            await calls.take([batch], Took())


async def test_another_batch_than_was_taken_is_noticed(parts: Parts) -> None:
    (till,) = await join(parts, 1)
    with closing(LibraryCalls(parts)) as calls:
        await parts.intake.pipeline.process(till.device, till.batch(3))
        with pytest.raises(NotStored, match="digest is another"):
            await calls.take([till.batch(3)], Took())


async def test_a_batch_that_was_not_taken_is_noticed(parts: Parts) -> None:
    (till,) = await join(parts, 1)
    with closing(LibraryCalls(parts)) as calls, pytest.raises(NotStored, match="of 3 records the ledger has 0"):
        await calls.take([till.batch(3)], Took())
