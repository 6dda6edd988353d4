"""What an adapter makes of a sample, compared exactly with the file that was reviewed by hand; and what it refuses."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tillstream_protocol.adapters import Adapter, Reading, Setting
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Transaction

DATA = Path(__file__).parents[1] / "data"
_LONGEST_MESSAGE = 400


def sample(path: str) -> bytes:
    """One file of `tests/data`."""
    return (DATA / path).read_bytes()


def golden(path: str) -> Any:
    """The canonical transactions that were reviewed for a sample: the golden file beside it."""
    return json.loads((DATA / path).with_suffix(".golden.json").read_text(encoding="utf-8"))


def written(readings: Sequence[Reading]) -> Any:
    """Readings as a golden file has them."""
    return [json.loads(msgspec.json.encode(reading.transaction)) for reading in readings]


def ext_of(transaction: Transaction) -> Any:
    """The `ext` of a transaction, for tests that look into it."""
    return msgspec.to_builtins(transaction.ext)


def read_or_refused(adapter: Adapter, data: bytes, setting: Setting, *, in_one_piece: bool = True) -> None:
    """It reads what a record can hold, or names the place: nothing else ever comes out of an adapter.

    `in_one_piece` says that what a transaction was read from stands in one place.
    """
    try:
        readings = adapter.read(data, setting)
    except InvalidInput as problem:
        readings, named = [], bool(problem.field) and len(problem.message) < _LONGEST_MESSAGE
    else:
        named = True
    assert named
    for reading in readings:
        encode(reading.transaction)
        assert reading.original in data or not in_one_piece
        assert 0 < reading.confidence <= 1


def refusal(call: Callable[[], object]) -> InvalidInput:
    """The `InvalidInput` that a call raises."""
    try:
        call()
    except InvalidInput as problem:
        return problem
    raise AssertionError("it was taken")


def blanks(size: int) -> bytes:
    """Blanks such as may stand around JSON, so mixed that no compressor makes less than a quarter of them."""
    return random.Random(1).randbytes(size).translate(b" \t\r\n" * 64)
