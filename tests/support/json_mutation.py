"""Broken variants of a JSON sample: any one node of it deleted, or replaced by what nobody expects there."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]

ODD: tuple[Any, ...] = (
    None,
    "",
    [],
    {},
    -1,
    10**30,
    1e300,
    True,
    "x" * 300,
    "\x00",
    [[]],
    [None],
    {"a": {}},
    "-0.0001",
)
_DELETED = object()


def paths(value: Any, at: Path = ()) -> list[Path]:
    """Every node of a JSON value."""
    found = [at]
    if isinstance(value, dict):
        for name, inner in value.items():
            found += paths(inner, (*at, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += paths(inner, (*at, index))
    return found


def put(value: Any, at: Path, new: Any) -> Any:
    """A copy of a JSON value with another node at a place."""
    if not at:
        return new
    made = copy.deepcopy(value)
    inner = made
    for step in at[:-1]:
        inner = inner[step]
    if new is _DELETED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return made


def broken(sample: bytes) -> st.SearchStrategy[bytes]:
    """The sample with one node deleted or replaced."""
    value = json.loads(sample)
    places = st.sampled_from(paths(value)[1:])
    return st.builds(
        lambda at, new: json.dumps(put(value, at, new)).encode(), places, st.sampled_from((_DELETED, *ODD))
    )
