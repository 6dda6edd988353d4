"""Finding and cutting card numbers in text.

A card number is 13 to 19 digits, with an issuer's prefix and a valid Luhn digit, in one piece or in groups parted by
up to three separators. In a row of groups every stretch of whole groups is tried, so that neither a date behind a
number nor a till's number before it hides it. Digits without any break belong together: longer ones are no card.
Prefixes: ISO/IEC 7812 and the card schemes' published ranges.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from itertools import accumulate
from typing import Final

NEVER_KEPT: Final = r"(?ai:cvv|cvc|cav|csc|cvn|track)[\s_-]?\d?(?:[\s_-]?(?ai:data))?|(?ai:pin)[\s_-]?(?ai:block)"
"""A pattern: names of fields whose values are kept nowhere."""
NEVER_KEPT_WORDS: Final = ("cvv", "cvc", "cav", "csc", "cvn", "track", "block")
"""One of these is in every name that the pattern above takes."""
NOT_A_CARD: Final = "ft(?:ReceiptCase|ChargeItemCase|PayItemCase|SignatureType|SignatureFormat|State|JournalType)"
"""A pattern: names of fields whose numbers are none of a card. fiskaltrust's are bits, of which every German one is as
long as a Visa's number and begins like one."""
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
_FIRST_DIGITS: Final = "23456"
"""What a number of one of these issuers begins with."""
_BEGINNINGS: Final = frozenset(
    str(number)
    for first, last in ((22, 27), (30, 30), (34, 38), (40, 55), (58, 58), (60, 60), (62, 65), (67, 67))
    for number in range(first, last + 1)
)
"""The first two digits of one: neither years nor a till's milliseconds are among them."""
_VALUES: Final = bytes(max(0, value - ord("0")) for value in range(256))
_DOUBLED: Final = bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)) + bytes(246)
SHORTEST: Final = 13
LONGEST: Final = 19
_TOO_LONG: Final = 10**LONGEST
_LONG_RUN: Final = 200
"""Digits in a row, whatever parts them, of which a careful look costs less than trying every stretch."""


def is_card_number(digits: str) -> bool:
    """Whether ASCII digits alone have an issuer's prefix and a valid Luhn digit (ISO/IEC 7812-1, annex B)."""
    if digits[:2] not in _BEGINNINGS or _ISSUER.fullmatch(digits) is None:
        return False
    backwards = digits[::-1].encode().translate(_VALUES)
    return (sum(backwards[::2]) + sum(backwards[1::2].translate(_DOUBLED))) % 10 == 0


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
        stretches = _digits_to_star(match[0])
        count += len(stretches)
        characters = list(match[0])
        for places in stretches:
            for place in places:
                characters[place] = "*"
        return "".join(characters)

    return _RUN.sub(cut, text), count


def _digits_to_star(run: str) -> list[list[int]]:
    """For each card number in a run of groups, the places of the digits that must go.

    Each stretch costs one subtraction: of two rows of sums, one doubles the digits at even places as Luhn's do, the
    other those at odd ones, and a stretch is weighed by the row that leaves its own last digit alone.
    """
    spans = [found.span() for found in _GROUP.finditer(run)]
    digits = _ascii("".join(run[start:end] for start, end in spans))
    places = [place for start, end in spans for place in range(start, end)]
    bounds = list(accumulate((end - start for start, end in spans), initial=0))
    rows = _luhn_rows(digits)
    found: list[list[int]] = []
    ending = 0
    for start in bounds[:-1]:
        while ending < len(bounds) and bounds[ending] < start + SHORTEST:
            ending += 1
        if digits[start] not in _FIRST_DIGITS:
            continue
        for end in bounds[ending : ending + LONGEST - SHORTEST + 1]:
            row = rows[end % 2]
            if end - start > LONGEST:
                break
            if (row[end] - row[start]) % 10 == 0 and _ISSUER.fullmatch(digits, start, end) is not None:
                found.append(places[start + 6 : end - 4])
    return found


def _luhn_rows(digits: str) -> tuple[list[int], list[int]]:
    """The sums of all digits before each place, with those at even places doubled, and with those at odd ones."""
    values = digits.encode().translate(_VALUES)
    doubled = values.translate(_DOUBLED)
    evens, odds = bytearray(values), bytearray(values)
    evens[::2], odds[1::2] = doubled[::2], doubled[1::2]
    return list(accumulate(evens, initial=0)), list(accumulate(odds, initial=0))


def _ascii(digits: str) -> str:
    return digits if digits.isascii() else "".join(str(unicodedata.digit(digit)) for digit in digits)


def digits_of(number: float) -> str:
    """The digits of a whole number, without its sign; none for a fraction, and for what is longer than any card's."""
    whole = isinstance(number, int) or number.is_integer()
    return str(abs(int(number))) if whole and abs(number) < _TOO_LONG else ""


def may_hold_card(encoded: bytes) -> bool:
    """Whether msgpack may hold a card number in text or as a number: a cheap look before a careful one.

    It errs on the safe side. What stands between two texts in msgpack may look like a digit or a separator, so every
    stretch of digits is tried, whole groups or not; and wherever a number may begin, one is read.
    """
    return _in_text(encoded) or _in_numbers(encoded)


def _in_numbers(encoded: bytes) -> bool:
    for form, number in _NUMBERS.items():
        at = encoded.find(form)
        while 0 <= at < len(encoded) - number.size:
            if is_card_number(digits_of(number.unpack_from(encoded, at + 1)[0])):
                return True
            at = encoded.find(form, at + 1)
    return False


def _in_text(encoded: bytes) -> bool:
    if _has_other_script(encoded):
        encoded = _OTHER_DIGIT.sub(lambda found: OTHER_DIGITS[found[0]], encoded)
    bare = encoded.translate(_BARE, _SEPARATOR_BYTES)
    shape = bare.translate(_SHAPE)
    start = shape.find(_ENOUGH)
    while start >= 0:
        end = shape.find(b".", start)
        if end < 0:
            end = len(shape)
        if _may_be_card(bare[start:end], bare[end : end + 1]):
            return True
        start = shape.find(_ENOUGH, end)
    return False


def _may_be_card(digits: bytes, following: bytes) -> bool:
    if following in _AFTER_A_TRACK or len(digits) > _LONG_RUN:
        return True
    text = digits.decode()
    for start in range(len(text) - SHORTEST + 1):
        if text[start : start + 2] in _BEGINNINGS:
            for size in range(SHORTEST, min(LONGEST, len(text) - start) + 1):
                if is_card_number(text[start : start + size]):
                    return True
    return False


_SEPARATOR_BYTES: Final = b" \t\r\n._/,:|*+-\xc2\xe2" + bytes(range(0x80, 0xC0))
_DIGITS: Final = b"0123456789"
_AFTER_A_TRACK: Final = (b"=", b"D", b"^")
"""What follows the number on a magnetic stripe."""
_BARE: Final = bytes(value if value in _DIGITS + b"=D^" else ord(".") for value in range(256))
_SHAPE: Final = bytes(ord("0") if value in _DIGITS else ord(".") for value in range(256))
_ENOUGH: Final = b"0" * 12
_NUMBERS: Final = {b"\xcb": struct.Struct(">d"), b"\xcf": struct.Struct(">Q"), b"\xd3": struct.Struct(">q")}
"""How msgpack begins the numbers that are long enough for a card's, and how they go on."""

_ZEROS: Final = (
    0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20,
    0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0,
    0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0,
    0x11450, 0x114D0, 0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0,
    0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
    0x11F50, 0x1E4F0, 0x10D40, 0x116D0, 0x116DA, 0x11BF0, 0x16D70, 0x1CCF0, 0x1E5F1,
)  # fmt: skip
"""The zeros of all other scripts (category Nd up to Unicode 16.0). Nine more digits follow each."""
OTHER_DIGITS: Final = {chr(zero + digit).encode(): b"%d" % digit for zero in _ZEROS for digit in range(10)}
"""Other scripts' digits in UTF-8, and the ASCII digit that each stands for."""
_GOING_ON: Final = frozenset(bytes([value]) for value in range(0x80, 0xC0))
_OTHER_LEADS: Final = tuple({digit[:1] for digit in OTHER_DIGITS})


def _has_other_script(encoded: bytes) -> bool:
    """Whether a byte that such a digit may begin with goes on as UTF-8 does."""
    for lead in _OTHER_LEADS:
        at = encoded.find(lead)
        while at >= 0:
            if encoded[at + 1 : at + 2] in _GOING_ON:
                return True
            at = encoded.find(lead, at + 1)
    return False


def _other_digit() -> re.Pattern[bytes]:
    """One pattern for all of them, sorted by their first byte: text in those scripts is full of it."""
    ways: dict[bytes, list[bytes]] = {}
    for zero in (chr(point).encode() for point in _ZEROS):
        last = re.escape(zero[-1:]) + b"-" + re.escape(bytes([zero[-1] + 9]))
        ways.setdefault(re.escape(zero[:1]), []).append(re.escape(zero[1:-1]) + b"[" + last + b"]")
    return re.compile(b"|".join(lead + b"(?:" + b"|".join(ends) + b")" for lead, ends in ways.items()))


_OTHER_DIGIT: Final = _other_digit()
