"""What an adapter makes of a sample, compared exactly with the file that was reviewed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from tillstream_protocol.adapters import Adapter, Reading, Setting
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Transaction

DATA = Path(__file__).parents[1] / "data"


def sample(folder: str, name: str) -> bytes:
    """A sample's bytes."""
    return (DATA / folder / name).read_bytes()


def golden(folder: str, name: str) -> list[Any]:
    """The canonical transactions that were reviewed."""
    text = (DATA / folder / f"{Path(name).stem}.golden.json").read_text(encoding="utf-8")
    found: list[Any] = json.loads(text)
    return found


def written(readings: list[Reading]) -> list[Any]:
    """Readings as a golden file has them."""
    return [json.loads(msgspec.json.encode(reading.transaction)) for reading in readings]


def read_or_refused(adapter: Adapter, data: bytes, setting: Setting) -> bool:
    """Whether bytes are read as what can be written again, or refused by an error that names a place."""
    try:
        found = adapter.read(data, setting)
    except InvalidInput as refused:
        return bool(refused.field)
    return all(msgspec.msgpack.encode(reading.transaction) for reading in found)


def ext_of(transaction: Transaction) -> Any:
    """The `ext` of a transaction, for tests that look into it."""
    return msgspec.to_builtins(transaction.ext)
