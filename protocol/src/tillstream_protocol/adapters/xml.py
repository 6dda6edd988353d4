"""Reading XML that a stranger sent: no DTD, no entities, bounded in size, depth and number of elements.

The interpreter's expat does the parsing. What an adapter takes from an element is remembered, so that `rest` can give
what nobody took: that goes into `ext`, and nothing is lost silently. Places in errors are paths as people write them,
`POSLog/Transaction[3]/RetailTransaction/LineItem[2]/Sale`, counted from one where a name stands more than once.

Names are local names in the format's own namespace, or in none at all. In another namespace they carry a prefix: the
one that the format's adapter knows the namespace by, else the document's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

from ..errors import InvalidInput, shown
from ..limits import KIB, MAX_LONG_TEXT
from ..transaction import Transaction
from .base import MAX_DEPTH, check_size, checked

MAX_ELEMENTS: Final = 500_000
"""Elements in one document."""
MAX_NAME: Final = 128
"""Characters of an element's or attribute's name, with its namespace taken off."""
MAX_REST: Final = 256 * KIB
"""Characters that `rest` gives of one element: with its original a sale has to fit into a record."""
_ENCODINGS: Final = re.compile(
    r"utf-8|utf-16|us-ascii|ascii|latin-1|windows-125[0-8]|cp(?:437|850|852|858)|iso-8859-(?:[1-9]|10|13|14|15|16)",
    re.IGNORECASE,
)
_SEPARATOR: Final = "\n"


@dataclass(slots=True, eq=False)
class Element:
    """An element, and how much of it was taken.

    `start` and `end` are where it stands in the bytes of the document. `attributes` are named like elements.
    """

    name: str
    parent: Element | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    """Its own text, without white space around it."""
    children: list[Element] = field(default_factory=list)
    start: int = 0
    end: int = 0
    ordinal: int = 1
    """Which one it is of those beside it that have its name."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many children of each name there are."""
    _taken: set[str] = field(default_factory=set)
    """Names of the attributes that were taken, and `""` for the text."""

    @property
    def place(self) -> str:
        """Where it stands, as errors say it."""
        if self.parent is None:
            return self.name
        return f"{self.parent.place}/{self.step}"

    @property
    def step(self) -> str:
        """Its name as it stands in a path, with its number where it is not the only one."""
        alone = self.parent is None or self.parent.counts[self.name] == 1
        return self.name if alone else f"{self.name}[{self.ordinal}]"

    def add(self, child: Element) -> None:
        """Put another child behind the others."""
        self.counts[child.name] = child.ordinal = self.counts.get(child.name, 0) + 1
        self.children.append(child)

    def take(self) -> str:
        """Its text, which counts as taken from now on."""
        self._taken.add("")
        return self.text

    def attribute(self, name: str) -> str:
        """An attribute's value, taken; empty where there is none."""
        self._taken.add(name)
        return self.attributes.get(name, "")

    def keep(self, *names: str) -> None:
        """Count attributes as not taken, so that `rest` tells them after all."""
        self._taken.difference_update(names)

    def all(self, name: str) -> list[Element]:
        """Its children of that name."""
        return [child for child in self.children if child.name == name]

    def first(self, *names: str) -> Element | None:
        """The first child that has one of the names; an earlier name goes before a later one."""
        for name in names:
            for child in self.children:
                if child.name == name:
                    return child
        return None

    def at(self, path: str) -> Element | None:
        """The element below it at a path of names with slashes between."""
        here: Element | None = self
        for name in path.split("/"):
            here = here.first(name) if here is not None else None
        return here

    def value(self, *paths: str) -> str:
        """The text below it at the first of the paths that has any, taken; else empty."""
        for path in paths:
            found = self.at(path)
            if found is not None and found.text:
                return found.take()
        return ""

    def need(self, name: str) -> Element:
        """The child of that name. Raises `InvalidInput` where there is none."""
        child = self.first(name)
        if child is None:
            raise InvalidInput("is missing", field=f"{self.place}/{name}")
        return child

    def wipe(self) -> None:
        """Count it as taken, with everything below it."""
        self._taken.update(self.attributes, [""])
        for child in self.children:
            child.wipe()

    def rest(self, *, but: str = "") -> dict[str, Any]:
        """What nobody took, by its path below this element: `{"Sale/ItemID@Type": "EAN8"}`. It counts as taken then.

        Children named as `but` says are left out. Its own text is not part of it.

        A text over `MAX_LONG_TEXT` characters is cut, and a path `…` says how many values found no room in `MAX_REST`
        characters: the original has them.
        """
        found: list[tuple[str, str]] = []
        _collect(self, "", found, but)
        rest: dict[str, Any] = {}
        room = MAX_REST
        for index, (path, whole) in enumerate(found):
            text = _cut(whole)
            room -= len(path) + len(text)
            if room < 0:
                return {**rest, "…": len(found) - index}
            rest[path] = text
        return rest


def _cut(text: str) -> str:
    return text if len(text) <= MAX_LONG_TEXT else text[: MAX_LONG_TEXT - 1] + "…"


def _collect(element: Element, path: str, found: list[tuple[str, str]], but: str = "") -> None:
    taken = element._taken
    if "" not in taken and (element.text or not (element.children or element.attributes)) and path:
        found.append((path, element.text))
    found += [(f"{path}@{name}", value) for name, value in element.attributes.items() if name not in taken]
    taken.update(element.attributes, [""])
    for child in element.children:
        if child.name != but or not but:
            _collect(child, f"{path}/{child.step}".lstrip("/"), found)


def parse(data: bytes, *, what: str, home: str, known: Mapping[str, str] | None = None) -> Element:
    """The root element of a document. `home` is the format's namespace, `known` maps others to their prefixes.

    Raises `TooLarge`, or `InvalidInput` whose field is a line or a place.
    """
    check_size(data)
    reader = _Reader(data, what, {home: "", **(known or {})})
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, "it cannot be read")
        raise InvalidInput(
            f"this is not {what}: no valid XML, {reason}", field=f"line {error.lineno}, column {error.offset + 1}"
        ) from None
    assert reader.root is not None
    return reader.root


def checked_at(element: Element, transaction: Transaction) -> Transaction:
    """The transaction that was read from an element, as `checked` does, but errors begin with the element's place."""
    try:
        return checked(transaction)
    except InvalidInput as error:
        error.field = f"{element.place}: {error.field}"
        raise


def cut(data: bytes, element: Element) -> bytes:
    """The bytes of the document that an element was read from, exactly."""
    return data[element.start : element.end]


class _Reader:
    """What expat calls while it reads."""

    def __init__(self, data: bytes, what: str, prefixes: dict[str, str]) -> None:
        self.root: Element | None = None
        self._data = data
        self._what = what
        self._prefixes = prefixes
        self._names: dict[str, str] = {}
        self._open: list[Element] = []
        self._texts: list[list[str]] = []
        self._count = 0
        parser = self.parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
        parser.namespace_prefixes = True
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and _ENCODINGS.fullmatch(encoding) is None:
            raise InvalidInput(f"the encoding {shown(encoding)} is not read", field="line 1", limit="UTF-8 or ISO-8859")

    def _refuse(self, *_: object) -> None:
        raise InvalidInput(
            f"this is not {self._what}: a DTD or an entity is declared",
            field=f"line {self.parser.CurrentLineNumber}",
            limit="XML without DTD and entities",
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise self._too_much(f"{MAX_ELEMENTS} elements")
        if len(self._open) >= MAX_DEPTH:
            raise self._too_much(f"{MAX_DEPTH} levels")
        parent = self._open[-1] if self._open else None
        named = {self._name(attribute): value for attribute, value in attributes.items()}
        element = Element(self._name(name), parent, named, start=self.parser.CurrentByteIndex)
        if parent is None:
            self.root = element
        else:
            parent.add(element)
        self._open.append(element)
        self._texts.append([])

    def _text(self, text: str) -> None:
        self._texts[-1].append(text)

    def _end(self, _name: str) -> None:
        element, text = self._open.pop(), "".join(self._texts.pop())
        element.text = text.strip()
        element.end = self._end_of(element, self.parser.CurrentByteIndex, empty=not (text or element.children))

    def _end_of(self, element: Element, at: int, *, empty: bool) -> int:
        """Where an element ends. Of `<a/>` expat gives the end itself, else where the closing tag begins.

        No character that a name may have looks like `>` in UTF-16, not even across two of them.
        """
        data = self._data
        wide = 2 if b"\x00" in data[element.start : element.start + 2] else 1
        slash, close = (b"/>", b">") if wide == 1 else (b"/\x00>\x00", b">\x00")
        if wide == 2 and data[element.start] == 0:
            slash, close = b"\x00/\x00>", b"\x00>"
        if empty and data[element.start : at].endswith(slash):
            return at
        return data.index(close, at) + wide

    def _name(self, name: str) -> str:
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = self._new_name(name)
        return known

    def _new_name(self, name: str) -> str:
        """A name as expat gives it is `namespace local prefix`, `namespace local` or `local`, on lines of their own."""
        namespace, local, prefix = (*name.split(_SEPARATOR), "", "")[:3] if _SEPARATOR in name else ("", name, "")
        if len(local) > MAX_NAME or len(prefix) > MAX_NAME:
            raise self._too_much(f"{MAX_NAME} characters in a name")
        own = self._prefixes.get(namespace)
        if own is None:
            own = prefix if prefix not in self._prefixes.values() else f"other-{prefix}".rstrip("-")
        return f"{own}:{local}" if namespace and own else local

    def _too_much(self, limit: str) -> InvalidInput:
        return InvalidInput(
            f"this is not {self._what}: its XML is too large",
            field=f"line {self.parser.CurrentLineNumber}",
            limit=limit,
        )
