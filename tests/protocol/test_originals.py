"""Whatever a POS's own bytes are written in, no card leaves the till in them; and nothing else of them changes."""

from __future__ import annotations

import base64
import html
import json
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.golden import DATA
from tillstream_protocol.originals import cut_bytes

VISA = "4111111111111111"
CUT = "411111******1111"
WITH_A_TRACK = "version-6.xml"
SAMPLES = sorted(path for path in DATA.rglob("*") if path.is_file() and ".golden" not in path.name)


def as_json_escapes(text: str) -> str:
    return "".join(f"\\u{ord(one):04x}" for one in text)


def as_xml_escapes(text: str, form: str = "d") -> str:
    return "".join(f"&#{'x' if form[-1] in 'xX' else ''}{ord(one):{form}};" for one in text)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_what_holds_no_card_stays_as_it_is(path: Path) -> None:
    data = path.read_bytes()
    kept, count = cut_bytes(data)
    assert (kept == data, count) == ((False, 1) if path.name == WITH_A_TRACK else (True, 0))


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_a_card_is_found_in_whatever_encoding_it_is_written(codec: str) -> None:
    text = f'{{"note": "é paid by {VISA} today", "n": 12}}'
    given_ = text.encode(codec)
    if codec == "utf-16":
        assert given_[:2] in (b"\xff\xfe", b"\xfe\xff")
    data, count = cut_bytes(given_)
    assert (data.decode(codec), count) == (text.replace(VISA, CUT), 1)
    assert len(data) == len(given_)


def test_the_other_byte_order_and_an_odd_end_are_read_too() -> None:
    text = f"x\u00a0\U0001d7d9 {VISA}"
    data, count = cut_bytes(b"\xfe\xff" + text.encode("utf-16-be") + b"!")
    assert (data, count) == (b"\xfe\xff" + text.replace(VISA, CUT).encode("utf-16-be") + b"!", 1)


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_a_mark_that_lies_hides_nothing(mark: bytes) -> None:
    assert cut_bytes(mark + VISA.encode()) == (mark + CUT.encode(), 1)


def test_digits_of_other_scripts_keep_their_places_in_utf_16() -> None:
    wide = VISA.translate({ord(str(digit)): 0x1D7CE + digit for digit in range(10)})
    data, count = cut_bytes(b"\xff\xfe" + wide.encode("utf-16-le"))
    assert (data[2:].decode("utf-16-le"), count) == (wide[:6] + "*" * 12 + wide[-4:], 1)


def test_escapes_of_json_hide_nothing_and_it_is_json_still() -> None:
    said = {"a": "before", "pan": VISA, "b": 'x "quoted" \\ \U0001f600'}
    written = json.dumps(said).replace(VISA, as_json_escapes(VISA[:9]) + VISA[9:]).encode()
    data, count = cut_bytes(written)
    assert (json.loads(data), count) == ({**said, "pan": CUT}, 1)
    assert len(data) == len(written)


def test_escaped_digits_and_separators_of_any_script_are_found() -> None:
    for zero in (0x30, 0x660, 0x966, 0x1040, 0x17E0, 0xA620, 0xABF0, 0xFF10):
        digits = "".join(chr(zero + int(one)) for one in VISA)
        spaced = "\u2003".join((digits[:4], digits[4:8], digits[8:12], digits[12:]))
        data, count = cut_bytes(json.dumps({"名": "名 Имя", "pan": spaced}).encode())
        assert (json.loads(data)["pan"].count("*"), count) == (6, 1)
        assert json.loads(data)["名"] == "名 Имя"


@pytest.mark.parametrize("form", ["d", "04d", "x", "04X"])
def test_escapes_of_xml_hide_nothing_and_it_is_xml_still(form: str) -> None:
    written = f"<a b='1'>x &amp; {as_xml_escapes(VISA, form)} &lt;</a>".encode()
    data, count = cut_bytes(written)
    assert (ET.fromstring(data).text, count) == (f"x & {CUT} <", 1)
    assert len(data) == len(written)


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("cvv", "123", "***"),
        ("CVC2", "12\\n4", "*****"),
        ("c\\u0076v", "123", "***"),
        ("cvv", as_json_escapes("123"), as_json_escapes("***")),
        ("track2_data", 'B;4111=\\"x', "**********"),
        ("Pin Block", "0A1B", "****"),
    ],
)
def test_what_a_secret_field_says_in_json_goes(name: str, value: str, left: str) -> None:
    written = f'{{"{name}" : "{value}", "total": "12.50"}}'
    data, count = cut_bytes(written.encode())
    assert (data.decode(), count) == (f'{{"{name}" : "{left}", "total": "12.50"}}', 1)
    assert json.loads(data)["total"] == "12.50"


def test_a_secret_number_becomes_nought_and_a_secret_map_is_emptied() -> None:
    said = {"cvv": 123, "card": {"track": {"one": "B4", "n": [1.5, {"deep": "x"}], "none": None}, "brand": "visa"}}
    data, count = cut_bytes(json.dumps(said).encode())
    assert json.loads(data) == {
        "cvv": 0,
        "card": {"track": {"one": "**", "n": [0, {"deep": "*"}], "none": None}, "brand": "visa"},
    }
    assert count == 4


@pytest.mark.parametrize("value", ["null", '""', "true", "0", "{}", "[]", '{"a": ""}'])
def test_a_secret_field_that_says_nothing_is_left(value: str) -> None:
    written = f'{{"cvv": {value}, "tracking_number": "123", "backtrack": 5}}'.encode()
    assert cut_bytes(written) == (written, 0)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("<CVV>123</CVV>", "<CVV>***</CVV>"),
        ("<r><x:Track2Data a='1'> B4 = </x:Track2Data></r>", "<r><x:Track2Data a='1'> ** * </x:Track2Data></r>"),
        ("<cvv><![CDATA[1<3]]></cvv>", "<cvv><![CDATA[***]]></cvv>"),
        ("<card cvv='123' n='1'/>", "<card cvv='***' n='1'/>"),
        ('<card\nTrack1Data = "B4"></card>', '<card\nTrack1Data = "**"></card>'),
        ("<cvv>&#49;23</cvv>", "<cvv>&#42;**</cvv>"),
    ],
)
def test_what_a_secret_field_says_in_xml_goes(written: str, left: str) -> None:
    assert cut_bytes(written.encode()) == (left.encode(), 1)
    assert cut_bytes(written.encode("utf-16")) == (left.encode("utf-16"), 1)


@pytest.mark.parametrize(
    "written", ["<cvv/>", "<cvv></cvv>", "<cvv> </cvv>", "<cvv/>12", "<tracks>1</tracks>", "<cvv>***"]
)
def test_an_element_that_holds_no_secret_is_left(written: str) -> None:
    assert cut_bytes(written.encode()) == (written.encode(), 0)


@pytest.mark.parametrize("number", [VISA, "4111 1111 1111 1111", "378282246310005"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_number_in_base64_is_cut_in_base64(number: str, padded: bool) -> None:
    inside = base64.b64encode(number.encode()).decode()
    inside = inside if padded else inside.rstrip("=")
    data, count = cut_bytes(f"<PrimaryAccountNumber>{inside}</PrimaryAccountNumber>".encode())
    text = data.decode()
    assert (count, len(text)) == (1, len(inside) + 45)
    back = base64.b64decode(text[22:-23] + "==").decode()
    assert (back[:4], back[-4:], "*" in back) == (number[:4], number[-4:], True)


def test_a_track_in_base64_goes() -> None:
    inside = base64.b64encode(f";{VISA}=25121010000?".encode()).decode()
    data, count = cut_bytes(f'{{"t": "{inside}"}}'.encode())
    assert count == 1
    assert set(base64.b64decode(json.loads(data)["t"])) == {ord("*")}


def test_bit_fields_that_look_like_cards_are_none() -> None:
    written = b'{"ftSignatureType": 4919338167972134933, "n": 4919338167972134933}'
    data, count = cut_bytes(written)
    assert (data, count) == (written[:-14] + b"*********" + written[-5:], 1)


@given(st.binary(max_size=200) | st.text().map(str.encode), st.sampled_from(["utf-8", "utf-16", "utf-16-le"]))
def test_any_bytes_come_back_as_long_as_they_were(data: bytes, codec: str) -> None:
    for given_ in (data, data + VISA.encode(codec), b'{"cvv":"' + data, b"<cvv>" + data, b"\xff\xfe" + data):
        after, count = cut_bytes(given_)
        assert len(after) == len(given_)
        assert count or after == given_
        again, _ = cut_bytes(after)
        assert len(again) == len(after)


@given(
    st.dictionaries(st.sampled_from(["cvv", "track2", "a", "pan"]), st.text() | st.integers() | st.none(), max_size=4)
)
def test_json_is_json_still(said: dict[str, object]) -> None:
    for ascii_ in (True, False):
        written = json.dumps(said, ensure_ascii=ascii_).encode(errors="surrogatepass")
        after = json.loads(cut_bytes(written)[0].decode(errors="surrogatepass"))
        assert list(after) == list(said)
        assert after.get("a") == said.get("a") or VISA[:1] in str(said["a"]) or str(said["a"])[:1].isdigit()


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30))
def test_xml_is_xml_still(text: str) -> None:
    written = f"<r><cvv a='{html.escape(text)}'>{html.escape(text)}</cvv><b>{html.escape(text)}</b></r>".encode()
    assert ET.fromstring(cut_bytes(written)[0]).find("b") is not None


HOSTILE = {
    "escapes": b"\\u0034" * 100_000,
    "xml escapes": b"&#52;" * 100_000,
    "open keys": b'"cvv":' * 100_000,
    "open maps": b'"cvv":{' * 100_000,
    "spaces behind a key": b'"cvv"' + b" " * 500_000,
    "open elements": b"<cvv>" * 100_000,
    "open sections": b"<cvv><![CDATA[" * 50_000,
    "long names": b"<" + b"a." * 250_000,
    "open attributes": b" cvv='" * 100_000,
    "base64": b"NDEx" * 125_000,
    "wide": b"4\x00" * 250_000,
    "backslashes": b'"cvv":"' + b"\\" * 500_001,
    "quotes": b'"' * 500_000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_cost_time_in_proportion(data: bytes) -> None:
    """Twice the bytes take about twice as long: a square would take four times."""

    def seconds(given_: bytes) -> float:
        began = time.process_time()
        cut_bytes(given_)
        return time.process_time() - began

    half, whole = min(seconds(data[: len(data) // 2]) for _ in range(2)), seconds(data)
    assert whole < 3.5 * half + 0.2
