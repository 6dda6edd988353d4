"""Finding and cutting card numbers in text.

A card number is 13 to 19 digits, with an issuer's prefix and a valid Luhn digit, in one piece or in groups parted by
up to three separators. In a row of groups every stretch of whole groups is tried, so that neither a date behind a
number nor a till's number before it hides it. Digits without any break belong together: longer ones are no card.
Prefixes: ISO/IEC 7812 and the card schemes' published ranges.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_SEPARATORS: Final = r" \t\r\n\xa0\u2000-\u200b\u202f.\-\u2010-\u2015_/,:|*+"
_RUN: Final = re.compile(rf"\d(?:[{_SEPARATORS}]{{0,3}}\d){{12,}}")
_GROUP: Final = re.compile(r"\d+")
_TRACK: Final = re.compile(r"%[A-Z]\d{12,19}\^[^?]{2,80}\??|;?\d{12,19}[=D]\d{4,40}\??")
_ISSUER: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|3(?:0[0-5]|[68]\d)\d{11,16}|62\d{14,17}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}|60\d{14}|220[0-4]\d{12,15}",
    re.ASCII,
)
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
SHORTEST: Final = 13
LONGEST: Final = 19


def is_card_number(digits: str) -> bool:
    """Whether ASCII digits alone have an issuer's prefix and a valid Luhn digit (ISO/IEC 7812-1, annex B)."""
    if _ISSUER.fullmatch(digits) is None:
        return False
    total = sum(_DOUBLED[int(digit)] if place % 2 else int(digit) for place, digit in enumerate(reversed(digits)))
    return total % 10 == 0


def drop_tracks(text: str, replacement: str = "") -> tuple[str, int]:
    """The text without the data of a magnetic stripe, and how often there was some.

    A `replacement` of one character stands for each character dropped.
    """
    return _TRACK.subn(lambda match: replacement * len(match[0]), text)


def cut_numbers(text: str) -> tuple[str, int]:
    """The text with all but the first six and last four digits of each card number starred, and how many there were."""
    if len(text) < SHORTEST:
        return text, 0
    count = 0

    def cut(match: re.Match[str]) -> str:
        nonlocal count
        places = _digits_to_star(match[0])
        count += len(places)
        starred = {place for cut in places for place in cut}
        return "".join("*" if place in starred else character for place, character in enumerate(match[0]))

    return _RUN.sub(cut, text), count


def _digits_to_star(run: str) -> list[list[int]]:
    """For each card number in a run of groups, the places of the digits that must go."""
    groups = [(found.start(), _ascii(found[0])) for found in _GROUP.finditer(run)]
    found: list[list[int]] = []
    for first in range(len(groups)):
        digits, places = "", list[int]()
        for start, group in groups[first:]:
            digits += group
            places.extend(range(start, start + len(group)))
            if len(digits) > LONGEST:
                break
            if len(digits) >= SHORTEST and is_card_number(digits):
                found.append(places[6:-4])
    return found


def _ascii(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(unicodedata.digit(digit)) for digit in digits)


def may_hold_card(encoded: bytes) -> bool:
    """Whether msgpack may hold a card number in text or as an integer: a cheap look before a careful one.

    It errs on the safe side. What stands between two texts in msgpack may look like a digit or a separator, so every
    stretch of digits is tried, whole groups or not.
    """
    bare = encoded.translate(_BARE, _SEPARATOR_BYTES)
    shape = bare.translate(_SHAPE)
    start = shape.find(_ENOUGH)
    while start >= 0:
        end = len(bare) - len(bare[start:].lstrip(_DIGITS))
        if _may_be_card(bare[start:end], bare[end : end + 1]):
            return True
        start = shape.find(_ENOUGH, end)
    if _other_lead(encoded) and len(_OTHER_DIGITS.findall(encoded)) >= SHORTEST:
        return True
    return _WIDE in encoded and any(
        is_card_number(str(int.from_bytes(number))) for number in _WIDE_INTEGERS.findall(encoded)
    )


_SEPARATOR_BYTES: Final = b" \t\r\n._/,:|*+-\xc2\xe2" + bytes(range(0x80, 0xC0))
_DIGITS: Final = b"0123456789"
_AFTER_A_TRACK: Final = b"=D^"
"""What separates the number from the rest on a magnetic stripe."""
_BARE: Final = bytes(value if value in _DIGITS + _AFTER_A_TRACK else ord(".") for value in range(256))
_SHAPE: Final = bytes(ord("0") if value in _DIGITS else ord(".") for value in range(256))
_ENOUGH: Final = b"0" * 12
_WIDE: Final = b"\xcf"
_WIDE_INTEGERS: Final = re.compile(rb"\xcf(.{8})", re.DOTALL)
_OTHER_DIGITS: Final = re.compile(rb"\xef\xbc[\x90-\x99]|\xd9[\xa0-\xa9]|\xdb[\xb0-\xb9]|\xe0\xa5[\xa6-\xaf]")


def _other_lead(encoded: bytes) -> bool:
    """Whether there is what the digits of the scripts that tills write begin with in UTF-8.

    These are full-width, two Arabic forms and Devanagari.
    """
    if b"\xd9" in encoded or b"\xdb" in encoded:
        return True
    return (b"\xef" in encoded and b"\xef\xbc" in encoded) or (b"\xe0" in encoded and b"\xe0\xa5" in encoded)


def _may_be_card(digits: bytes, following: bytes) -> bool:
    if following and following in _AFTER_A_TRACK:
        return True
    text = digits.decode()
    for start in range(len(text) - SHORTEST + 1):
        for size in range(SHORTEST, min(LONGEST, len(text) - start) + 1):
            if is_card_number(text[start : start + size]):
                return True
    return False
