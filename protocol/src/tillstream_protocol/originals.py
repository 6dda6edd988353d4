"""Cutting a POS's own bytes: what names a card is overwritten in place, and every other byte stays what it was.

Bytes are read as whoever gets them reads them: as UTF-8, as UTF-16 with or without a mark, and with the escapes of JSON
(`\\u0034`) and XML (`&#52;`) undone. Card numbers are cut, also in base64, and the values of fields that hold a card's
verification value, its track or its PIN block go altogether, in JSON and in XML. What is overwritten keeps its form:
what was JSON or XML is still, and has the same length.

Every pass looks at each character a bounded number of times.
"""

from __future__ import annotations

import binascii
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from typing import Final

from .cards import NEVER_KEPT, NEVER_KEPT_WORDS, NOT_A_CARD, cut_numbers, drop_tracks

_STAR: Final = "*"
_NO_CHARACTER: Final = "\ufffd"
_MARKUP: Final = frozenset('"\\<>&')
"""Characters that mean something else when they are written as an escape."""
_WITH_DIGITS: Final = "0[06-9a-fA-F]|1[0-9a-cA-C]|20|[aA][6-9a-bA-B]|[fF][fF]"
"""The upper bytes of characters that are a digit in some script, a separator or ASCII. Other escapes part a number just
as their characters would, and are many where a name is Chinese or Russian."""
_ESCAPE: Final = re.compile(rf"\\u((?:{_WITH_DIGITS})[0-9a-fA-F]{{2}})|&#(?:([0-9]{{1,7}})|[xX]([0-9a-fA-F]{{1,6}}));")
_ESCAPES: Final = ("\\u", "&#")
_MOST_CHARACTER: Final = 0x10FFFF

_JSON_KEY: Final = re.compile(rf'"(?:{NEVER_KEPT})"\s*+:\s*+')
_JSON_STRING: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"?', re.DOTALL)
_JSON_NUMBER: Final = re.compile(r"-?[0-9][0-9.eE+-]*")
_JSON_TOKEN: Final = re.compile(
    r'"(?P<string>(?:[^"\\]|\\.)*+)"?+(?!\s*+:)|(?P<number>-?[0-9][0-9.eE+-]*)|(?P<bracket>[\[\]{}])|"(?:[^"\\]|\\.)*+"',
    re.DOTALL,
)
_JSON_OTHER: Final = re.compile(rf'("(?:{NOT_A_CARD})"\s*+:\s*+)([0-9]++)')
_NOT_SPACE: Final = re.compile(r"\S")
_PREFIX: Final = r"(?:[\w.-]++:)?"
_XML_TEXT: Final = re.compile(
    rf"<{_PREFIX}(?:{NEVER_KEPT})(?:\s[^<>]*)?(?<!/)>\s*+(?:<!\[CDATA\[(.*?)(?:\]\]>|\Z)|([^<]++))", re.DOTALL
)
_XML_ATTRIBUTE: Final = re.compile(rf"""\s{_PREFIX}(?:{NEVER_KEPT})\s*+=\s*+(?:"([^"<]*)|'([^'<]*))""")

_BASE64: Final = re.compile(r"[MNO](?<![A-Za-z0-9+/].)[A-Za-z0-9+/]{17,59}={0,2}(?![A-Za-z0-9+/=])")
"""What digits, or the second track's sentinel and digits, may look like in base64; the rare letter is sought first."""
_WIDE: Final = (
    re.compile(rb"(?:[\t\n\r -~]\x00){13,}"),
    re.compile(rb"(?:\x00[\t\n\r -~]){13,}"),
)
"""Text in UTF-16 without a mark, the lower byte first or last."""


def cut_bytes(data: bytes) -> tuple[bytes, int]:
    """A POS's own bytes with what names a card overwritten in place, and how often there was some."""
    marked = 0
    for mark, codec in ((BOM_UTF16_LE, "utf-16-le"), (BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            end = len(data) - len(data) % 2
            text, marked = _cut_encoded(data[2:end], codec, "surrogatepass")
            data = mark + text + data[end:]
    data, count = _cut_encoded(data, "utf-8", "surrogateescape")  # whatever a mark says
    count += marked
    if b"\x00" in data:
        for place, pattern in enumerate(_WIDE):
            data, more = _cut_wide(data, pattern, place)
            count += more
    return data, count


def drop_values(text: str) -> tuple[str, int]:
    """A text with the values of secret fields overwritten, where it is JSON or XML, and how many there were."""
    lowered = text.lower()
    if not any(word in lowered for word in NEVER_KEPT_WORDS):
        return text, 0
    found = [*_json_values(text), *(_xml_values(text) if "<" in text else ())]
    changes = [(start, new) for start, new in found if new.strip() and text[start : start + len(new)] != new]
    if not changes:
        return text, 0
    characters = list(text)
    for start, new in changes:
        characters[start : start + len(new)] = new
    return "".join(characters), len(changes)


# Fields that hold a secret: what to write over their values, and where


def _json_values(text: str) -> Iterator[tuple[int, str]]:
    key = _JSON_KEY.search(text)
    while key is not None:
        end = key.end()
        if text[end : end + 1] in ("{", "["):
            changes, end = _everything_in(text, end)
            yield from changes
        elif (string := _JSON_STRING.match(text, end)) is not None:
            yield string.start(1), _STAR * len(string[1])
            end = string.end()
        elif (number := _JSON_NUMBER.match(text, end)) is not None:
            yield end, _nought(number[0])
            end = number.end()
        key = _JSON_KEY.search(text, end)


def _everything_in(text: str, start: int) -> tuple[list[tuple[int, str]], int]:
    """Every value inside a map or a list, and where that ends."""
    changes: list[tuple[int, str]] = []
    depth = 0
    for token in _JSON_TOKEN.finditer(text, start):
        if token["bracket"]:
            depth += 1 if token["bracket"] in "{[" else -1
            if depth == 0:
                return changes, token.end()
        elif token["number"]:
            changes.append((token.start(), _nought(token["number"])))
        elif token["string"]:
            changes.append((token.start("string"), _STAR * len(token["string"])))
    return changes, len(text)


def _nought(number: str) -> str:
    return "0".ljust(len(number))


def _xml_values(text: str) -> Iterator[tuple[int, str]]:
    for pattern in (_XML_TEXT, _XML_ATTRIBUTE):
        for found in pattern.finditer(text):
            which = found.lastindex
            if which is not None:
                yield found.start(which), _NOT_SPACE.sub(_STAR, found[which])


# Texts


def _cut_encoded(data: bytes, codec: str, errors: str) -> tuple[bytes, int]:
    """Bytes of one encoding: a character of several is overwritten by as many stars as have its length."""
    before = data.decode(codec, errors)
    after, count = _cut(before)
    if not count:
        return data, 0
    unit = len(_STAR.encode(codec))
    kept = [
        new if new == old or old.isascii() else _STAR * (len(old.encode(codec, errors)) // unit)
        for new, old in zip(after, before, strict=True)
    ]
    return "".join(kept).encode(codec, errors), count


def _cut_wide(data: bytes, pattern: re.Pattern[bytes], place: int) -> tuple[bytes, int]:
    """Stretches of UTF-16, of which every second byte from `place` on is a character."""
    count = 0

    def cut(found: re.Match[bytes]) -> bytes:
        nonlocal count
        after, cuts = _cut(found[0][place::2].decode("ascii"))
        count += cuts
        whole = bytearray(found[0])
        whole[place::2] = after.encode("ascii")
        return bytes(whole)

    return pattern.sub(cut, data), count


def _cut(text: str) -> tuple[str, int]:
    """A text of the same length without what names a card."""
    if not any(mark in text for mark in _ESCAPES):
        return _cut_plain(text)
    spans = [found.span() for found in _ESCAPE.finditer(text)]
    plain = _ESCAPE.sub(_character, text)
    after, count = _cut_plain(plain)
    return (_escaped_again(text, plain, after, spans), count) if count else (text, 0)


def _cut_plain(text: str) -> tuple[str, int]:
    after, values = drop_values(text)
    shown = _JSON_OTHER.sub(lambda found: found[1] + "x" * len(found[2]), after)
    cut, tracks = drop_tracks(shown, _STAR)
    cut, numbers = cut_numbers(cut)
    cut, encoded = _cut_base64(cut)
    if tracks or numbers or encoded:
        after = "".join(new if new != was else old for new, was, old in zip(cut, shown, after, strict=True))
    return after, values + tracks + numbers + encoded


def _cut_base64(text: str) -> tuple[str, int]:
    """Some schemas, ARTS's among them, write a card's number in base64."""
    count = 0

    def cut(found: re.Match[str]) -> str:
        nonlocal count
        core = found[0].rstrip("=")
        try:
            plain = binascii.a2b_base64(core + "=" * (-len(core) % 4), strict_mode=True).decode("ascii")
        except ValueError:
            return found[0]
        after, tracks = drop_tracks(plain, _STAR)
        after, numbers = cut_numbers(after)
        count += tracks + numbers
        return binascii.b2a_base64(after.encode(), newline=False).decode()[: len(core)] + found[0][len(core) :]

    return _BASE64.sub(cut, text), count


# Escapes


def _character(escape: re.Match[str]) -> str:
    """What an escape stands for; a character that would mean something else without it is none."""
    wide, decimal, hexadecimal = escape.groups()
    code = int(decimal) if decimal else int(wide or hexadecimal, 16)
    character = chr(code) if code <= _MOST_CHARACTER else _NO_CHARACTER
    return _NO_CHARACTER if character in _MARKUP else character


def _escaped_again(text: str, plain: str, after: str, spans: list[tuple[int, int]]) -> str:
    """A text with the changes that were made to it with its escapes undone."""
    pieces: list[str] = []
    here = there = 0
    for start, end in spans:
        between = there + start - here
        pieces.append(after[there:between])
        escape, character = text[here:end][start - here :], after[between]
        pieces.append(escape if character == plain[between] else _as(escape, character))
        here, there = end, between + 1
    pieces.append(after[there:])
    return "".join(pieces)


def _as(escape: str, character: str) -> str:
    """A character written like an escape, with its length; the escape itself where there is no room."""
    if escape.startswith("\\u"):
        return f"\\u{ord(character):04x}"
    form, base = ("x", "x") if escape[2] in "xX" else ("", "d")
    room = len(escape) - len(f"&#{form};")
    made = f"&#{form}{format(ord(character), base):0>{room}};"
    return made if len(made) == len(escape) else escape
