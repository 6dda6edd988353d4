"""Broken variants of a JSON sample: some nodes of it deleted, or replaced by what nobody expects there."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

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
    "\x00",
    "\ud800",
    "-0.0001",
    [None],
    [[[[10**40]]]],
    {"a": {"b": {"c": {"d": 1}}}},
)
_GONE = len(WRONG)


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every node inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield (*path, step)
        yield from places(one, (*path, step))


def broken(value: Any) -> st.SearchStrategy[bytes]:
    """A JSON value, or what JSON bytes hold, with one to three of its nodes replaced or taken out; as bytes."""
    whole = json.loads(value) if isinstance(value, bytes) else value
    changes = st.tuples(st.sampled_from(list(places(whole))), st.integers(0, _GONE))
    return st.lists(changes, min_size=1, max_size=3).map(lambda chosen: as_json(_changed(whole, chosen)))


def as_json(value: Any) -> bytes:
    """A value as JSON bytes, half surrogate pairs and all."""
    return json.dumps(value).encode()


def _changed(whole: Any, chosen: Sequence[tuple[Path, int]]) -> Any:
    made = copy.deepcopy(whole)
    for path, change in chosen:
        holder = made
        try:
            for step in path[:-1]:
                holder = holder[step]
            if change == _GONE:
                del holder[path[-1]]
            else:
                holder[path[-1]] = copy.deepcopy(WRONG[change])
        except (LookupError, TypeError):
            continue
    return made
