"""What adapters of XML formats are tried with: every way to break a sample, and what of one was read nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any
from xml.etree import ElementTree as ET

from hypothesis import strategies as st

from support.golden import written
from tillstream_protocol.adapters import Reading

TEXTS = (
    "",
    "-1",
    "9" * 40,
    "x" * 300,
    "NaN",
    "1e400",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59",
    "  ",
    "\u0661",
    "true",
)


def lost(data: bytes, readings: Sequence[Reading]) -> set[str]:
    """Texts and attributes of a sample that stand nowhere in what was read, neither as they are nor as an amount."""
    strings: set[str] = set()
    numbers: set[int] = set()
    for value in _values(written(readings)):
        if isinstance(value, str):
            strings.add(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            numbers.add(abs(value))
    root = ET.fromstring(data)
    said = {text.strip() for one in root.iter() for text in (one.text or "", *one.attrib.values()) if text.strip()}
    return {text for text in said if text not in strings and not _counted(text, numbers) and not _within(text, strings)}


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)
    else:
        yield value


def _counted(text: str, numbers: set[int]) -> bool:
    """Whether a text is an amount, a line's number or a price that was read."""
    try:
        number = abs(Decimal(text))
    except InvalidOperation:
        return False
    return any(int((number * scale).to_integral_value(ROUND_HALF_UP)) in numbers for scale in (1, 100))


def _within(text: str, strings: set[str]) -> bool:
    """Whether a text is part of a longer one: a time of day, a phone's area, a number with its sign or point."""
    return len(text) > 3 and any(text.rstrip(".") in string for string in strings)


@st.composite
def broken(draw: st.DrawFn, data: bytes) -> bytes:
    """A sample with one or two of its elements or attributes gone, doubled or saying something else."""
    root = ET.fromstring(data)
    for _ in range(draw(st.integers(1, 2))):
        nodes = list(_nodes(root))
        if not nodes:
            break
        parent, node = nodes[draw(st.integers(0, len(nodes) - 1))]
        action = draw(st.sampled_from(("text", "text", "remove", "double", "empty", "attribute")))
        if action == "text":
            node.text = draw(st.sampled_from(TEXTS))
        elif action == "remove":
            parent.remove(node)
        elif action == "double":
            parent.append(node)
        elif action == "empty":
            node.clear()
        elif node.attrib:
            node.set(draw(st.sampled_from(sorted(node.attrib))), draw(st.sampled_from(TEXTS)))
    return ET.tostring(root)


def _nodes(element: ET.Element) -> Iterator[tuple[ET.Element, ET.Element]]:
    for child in element:
        yield element, child
        yield from _nodes(child)
