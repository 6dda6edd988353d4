"""A printer's bytes become the lines that a person would read, whatever commands stand between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol.adapters.printer_bytes import MAX_LINE, MAX_LINES, Printed, known_codec, printed

ESC, GS, FS, DLE = b"\x1b", b"\x1d", b"\x1c", b"\x10"


def job(data: bytes, dialect: str = "") -> Printed:
    return printed(data, {}, dialect=dialect)


def lines(data: bytes, dialect: str = "") -> list[str]:
    return [line for slip in job(data, dialect).slips for line in slip.lines]


@pytest.mark.parametrize(
    "command",
    [
        ESC + b"@",
        ESC + b"!\x30",
        ESC + b"a\x01",
        ESC + b"E\x01",
        ESC + b"p\x00\x32\x32",
        ESC + b"c5\x01",
        ESC + b"D\x08\x10\x00",
        ESC + b"*\x21\x02\x00abcdef",
        ESC + b"*\x00\x02\x00ab",
        ESC + b"&\x03\x41\x42\x01abc\x02abcdef",
        ESC + b"(A\x02\x00ab",
        ESC + b"2",
        GS + b"!\x11",
        GS + b"L\x10\x00",
        GS + b"v0\x00\x02\x00\x03\x00abcdef",
        GS + b"*\x01\x01abcdefgh",
        GS + b"(L\x04\x00abcd",
        GS + b"8L\x04\x00\x00\x00abcd",
        GS + b"^\x01\x00\x00",
        FS + b"p\x01\x00",
        FS + b"q\x01\x01\x00\x01\x00abcdefgh",
        FS + b"(A\x02\x00ab",
        DLE + b"\x04\x01",
        DLE + b"\x14\x01\x00\x05",
        b"\x00",
        b"\x07",
    ],
    ids=lambda command: command.hex(),
)
def test_what_is_no_text_leaves_no_trace(command: bytes) -> None:
    made = job(b"one" + command + b"two\n")
    assert [slip.lines for slip in made.slips] == [["onetwo"]]
    assert made.unknown == set()


def test_code_pages_switch_in_mid_line() -> None:
    switched = ESC + b"t\x02\x84 " + ESC + b"t\x10\xe4 " + ESC + b"t\x12\xac " + ESC + b"t\x13\xd5\n"
    assert lines(switched) == ["ä ä Č €"]


def test_a_reset_takes_the_first_code_page_again() -> None:
    assert lines(ESC + b"t\x10\xe4" + ESC + b"@\x84\n") == ["ää"]


def test_a_national_variant_changes_twelve_characters() -> None:
    assert lines(ESC + b"R\x02[\\]{|}~@" + ESC + b"R\x00[\n") == ["ÄÖÜäöüß§["]


def test_double_bytes_are_read_in_their_own_mode() -> None:
    made = printed(FS + b"&" + "上海".encode("gb18030") + FS + b".A\n", {}, double="gb18030")
    assert made.slips[0].lines == ["上海A"]


def test_a_tills_own_code_pages_come_first() -> None:
    assert printed(ESC + b"t\xff" + "ä€".encode() + b"\n", {255: "utf-8"}).slips[0].lines == ["ä€"]
    assert printed("ä".encode(), {}, first="utf-8").slips[0].lines == ["ä"]


def test_what_is_not_known_is_told() -> None:
    assert job(ESC + b"t\xfe" + ESC + b"~x\n").unknown == {"code page 254", "1b 7e"}


def test_codes_are_kept_beside_the_lines() -> None:
    qr = GS + b"(k\x04\x001A2\x00" + GS + b"(k\x08\x001P0hello" + GS + b"(k\x03\x001Q0"
    made = job(b"a\n" + GS + b"k\x02400638\x00" + GS + b"k\x49\x03{BX" + qr + b"b\n")
    (slip,) = made.slips
    assert slip.lines == ["a", "b"]
    assert slip.codes == [("barcode", "400638"), ("barcode", "{BX"), ("qr", "hello")]


@pytest.mark.parametrize("cut", [GS + b"V\x00", GS + b"VA\x03", ESC + b"i", ESC + b"m"], ids=lambda cut: cut.hex())
def test_a_cut_ends_a_slip(cut: bytes) -> None:
    data = b"one\n" + cut + b"\ntwo\n" + cut + ESC + b"p\x00\x01\x01"
    slips = job(data).slips
    assert [slip.lines for slip in slips] == [["one"], ["two"]]
    assert [slip.end for slip in slips] == [4 + len(cut), len(data)]


def test_moves_of_the_print_position_keep_columns_apart() -> None:
    assert lines(b"\tTea" + ESC + b"$\x40\x011,00\tA\n") == ["Tea  1,00  A"]


def test_feeds_and_returns_end_a_line() -> None:
    assert lines(b"a\r\nb\rc\x0cd" + ESC + b"d\x02" + ESC + b"J\x10e") == ["a", "b", "c", "d", "e"]


def test_stars_line_mode_is_told_by_its_second_prefix() -> None:
    qr = ESC + b"\x1dyS0\x02" + ESC + b"\x1dyD1\x00\x05\x00hello" + ESC + b"\x1dyP"
    bar = ESC + b"b\x06\x02\x02\x20400638\x1e"
    data = (
        *(ESC + b"@" + ESC + b"\x1da\x01SHOP\n" + ESC + b"W\x01" + ESC + b"i\x01\x01", ESC + b"\x1dt\x20\xe4\n"),
        *(ESC + b"E" + b"x" + ESC + b"F\n", ESC + b"\x1dA\x10\x00" + ESC + b"\x1dS\x01\x01\x00\x02\x00\x00ab", qr, bar),
        *(ESC + b"K\x02\x00ab" + ESC + b"\x1d)U\x02\x000\x01" + ESC + b"\x1e" + b"F\x01" + ESC + b"d\x02", b"next\n"),
    )
    made = job(b"".join(data))
    assert made.dialect == "star"
    assert [slip.lines for slip in made.slips] == [["SHOP", "ä", "x"], ["next"]]
    assert made.slips[0].codes == [("qr", "hello"), ("barcode", "400638")]


def test_lines_are_bounded() -> None:
    assert len(lines(b"x" * 1_000)[0]) == MAX_LINE
    many = job(b"x\n" * (MAX_LINES + 10))
    assert (len(many.slips[0].lines), many.lines) == (MAX_LINES, MAX_LINES + 10)


def test_codecs_are_of_text() -> None:
    assert [known_codec(name) for name in ("cp850", "utf-8", "no such", "hex", "rot13")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@given(st.binary(max_size=400), st.sampled_from(["", "epson", "star"]))
def test_any_bytes_are_printed(data: bytes, dialect: str) -> None:
    assert all(0 < slip.end <= len(data) for slip in job(data, dialect).slips)


@given(
    st.lists(st.sampled_from([ESC, GS, FS, DLE, b"\x1b\x1d", b"k", b"(", b"8", b"*", b"\x01", b"\xff", b"A"])).map(
        b"".join
    )
)
def test_any_commands_are_skipped(data: bytes) -> None:
    assert isinstance(job(data), Printed)
