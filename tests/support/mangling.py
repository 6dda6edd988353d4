"""What an adapter's tests share: samples with their golden files, and payloads broken in every place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from tillstream_protocol.adapters import Adapter, Reading, Setting
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput

DATA = Path(__file__).parents[1] / "data"
WRONG: tuple[Any, ...] = (
    None,
    "",
    [],
    {},
    -1,
    10**40,
    1e300,
    True,
    "x" * 5_000,
    "\ud800",
    [[[[10**40]]]],
    {"a": {"b": {"c": {"d": 1}}}},
)


def sample(path: str) -> bytes:
    """One file of `tests/data`."""
    return (DATA / path).read_bytes()


def golden(path: str) -> Any:
    """The golden file beside a sample."""
    return json.loads((DATA / path).with_suffix(".golden.json").read_text(encoding="utf-8"))


def told(readings: Sequence[Reading]) -> Any:
    """Readings as golden files have them."""
    return json.loads(json.dumps([msgspec.to_builtins(reading.transaction) for reading in readings]))


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every node inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield (*path, step)
        yield from places(one, (*path, step))


def broken(value: Any) -> st.SearchStrategy[Any]:
    """The value with one to three of its nodes replaced or taken out."""
    changes = st.tuples(st.sampled_from(list(places(value))), st.sampled_from([*range(len(WRONG)), "gone"]))
    return st.lists(changes, min_size=1, max_size=3).map(lambda chosen: _apply(copy.deepcopy(value), chosen))


def _apply(value: Any, chosen: Sequence[tuple[tuple[str | int, ...], int | str]]) -> Any:
    for path, change in chosen:
        holder = value
        try:
            for step in path[:-1]:
                holder = holder[step]
            if isinstance(change, int):
                holder[path[-1]] = copy.deepcopy(WRONG[change])
            else:
                del holder[path[-1]]
        except (LookupError, TypeError):
            continue
    return value


def as_json(value: Any) -> bytes:
    """A value as JSON bytes, half surrogate pairs and all."""
    return json.dumps(value).encode()


def read_or_refused(adapter: Adapter, data: bytes, setting: Setting) -> None:
    """It reads what a record can hold, or names the place: nothing else ever comes out of an adapter."""
    try:
        readings = adapter.read(data, setting)
    except InvalidInput as problem:
        named, readings = bool(problem.field), []
    else:
        named = True
    assert named
    for reading in readings:
        encode(reading.transaction)
        assert reading.original in data
        assert 0 < reading.confidence <= 1


def refusal(call: Callable[[], object]) -> InvalidInput:
    """The `InvalidInput` that a call raises."""
    try:
        call()
    except InvalidInput as problem:
        return problem
    raise AssertionError("it was taken")
