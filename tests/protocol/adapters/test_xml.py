"""XML is read without DTD or entities, in bounds, and nothing that was not taken is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol.adapters import base, xml
from tillstream_protocol.adapters.xml import Element, cut, parse
from tillstream_protocol.errors import InvalidInput, TooLarge

HOME = "http://example.org/home"


def read(text: str) -> Element:
    return parse(text.encode(), what="a list", home=HOME, known={"http://example.org/more": "more"})


def test_names_are_local_at_home_and_carry_a_prefix_elsewhere() -> None:
    root = read(
        f'<h:a xmlns:h="{HOME}" xmlns:m="http://example.org/more" xmlns:z="urn:z" m:x="1" y="2">'
        '<m:b/><z:c/><d xmlns="urn:d"/><more:e xmlns:more="urn:e"/><plain/></h:a>'
    )
    assert root.name == "a"
    assert root.attributes == {"more:x": "1", "y": "2"}
    assert [child.name for child in root.children] == ["more:b", "z:c", "other:d", "other-more:e", "plain"]


def test_places_count_from_one_where_a_name_stands_more_than_once() -> None:
    root = read("<a><b/><c><d/><d><e/></d></c><b/></a>")
    assert root.children[0].place == "a/b[1]"
    assert root.children[2].place == "a/b[2]"
    assert root.need("c").all("d")[1].need("e").place == "a/c/d[2]/e"
    with pytest.raises(InvalidInput) as caught:
        root.need("c").need("f")
    assert caught.value.field == "a/c/f"


def test_what_was_not_taken_is_told_by_its_path() -> None:
    root = read('<a x="1"><b>one</b><b k="v">two</b><c> <d>three</d> </c><e/><f g="h">four</f></a>')
    assert root.value("nothing", "c/nothing", "b") == "one"
    assert root.need("f").attribute("g") == "h"
    assert root.rest() == {"@x": "1", "b[2]": "two", "b[2]@k": "v", "c/d": "three", "e": "", "f": "four"}
    assert root.rest() == {}


def test_the_rest_leaves_out_what_is_read_elsewhere_and_what_was_wiped() -> None:
    root = read('<a v="2"><b><c>1</c></b><d><e>2</e></d><f><g>3</g></f></a>')
    root.need("f").wipe()
    assert root.rest(but="b") == {"@v": "2", "d/e": "2"}
    assert root.need("b").rest() == {"c": "1"}


def test_an_attribute_may_be_kept_after_all() -> None:
    root = read('<a v="2"/>')
    assert root.attribute("v") == "2"
    root.keep("v")
    assert root.rest() == {"@v": "2"}


def test_the_rest_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "MAX_REST", 10)
    monkeypatch.setattr(xml, "MAX_LONG_TEXT", 4)
    assert read("<a><b>12345</b><c>1234</c><d/><e/></a>").rest() == {"b": "123…", "c": "1234", "…": 2}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1", "cp1252"])
def test_an_element_is_cut_out_exactly_in_any_encoding(encoding: str) -> None:
    declared = {"utf-8-sig": "utf-8", "utf-16-le": "utf-16", "utf-16-be": "utf-16", "cp1252": "windows-1252"}
    parts = ['<b x="1/&gt;"/>', "<b></b>", "<b>/></b>", "<b> é <c/></b>", "<b ><!-- /> --></b >", "<b/>", "<b><b/></b>"]
    text = f'<?xml version="1.0" encoding="{declared.get(encoding, encoding)}"?><a>' + " \n".join(parts) + "</a>\n"
    data = text.encode(encoding)
    if encoding in ("utf-16-le", "utf-16-be"):
        data = "\ufeff".encode(encoding) + data
    root = parse(data, what="a list", home=HOME)
    inner = "utf-16-le" if encoding == "utf-16" else "utf-8" if encoding == "utf-8-sig" else encoding
    assert [cut(data, child).decode(inner) for child in root.children] == parts
    assert cut(data, root).decode(inner).startswith("<a>")
    assert root.all("b")[3].text == "é"


@pytest.mark.parametrize(
    "encoding",
    [
        *("UTF-8", "us-ascii", "ascii", "latin-1", *(f"windows-125{n}" for n in range(9))),
        *("cp437", "cp850", "cp852", "cp858", *(f"ISO-8859-{n}" for n in (*range(1, 11), 13, 14, 15, 16))),
    ],
)
def test_every_encoding_that_is_allowed_is_known(encoding: str) -> None:
    assert read(f'<?xml version="1.0" encoding="{encoding}"?><a>text</a>').text == "text"


def test_an_element_far_into_a_large_document_is_cut_out_exactly() -> None:
    data = ("<a>" + "<b>é<c/></b>" * 90_000 + "<d>\n</d></a>").encode()
    assert cut(data, parse(data, what="a list", home=HOME).children[-1]) == b"<d>\n</d>"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "line 1, column 1"),
        ("<a>\n<b></a>", "line 2, column 6"),
        ("<a>&nbsp;</a>", "line 1, column 4"),
        ('<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "line 2"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "line 1"),
        ('<?xml version="1.0" encoding="rot13"?><a/>', "line 1"),
        ('<?xml version="1.0" encoding="utf-7"?><a/>', "line 1"),
        ("<b:a/>", "line 1, column 1"),
    ],
)
def test_what_is_no_such_xml_is_refused_by_its_line(text: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(text)
    assert caught.value.field == field
    assert "passwd" not in caught.value.message


def test_depth_elements_names_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "MAX_ELEMENTS", 3)
    monkeypatch.setattr(xml, "MAX_DEPTH", 2)
    monkeypatch.setattr(xml, "MAX_NAME", 4)
    assert len(read("<a><b/><b/></a>").children) == 2
    for text in ("<a><b/><b/><b/></a>", "<a><b><c/></b></a>", "<a><bcdef/></a>", '<a bcdef="1"/>'):
        with pytest.raises(InvalidInput, match="too large") as caught:
            read(text)
        assert caught.value.limit is not None
    monkeypatch.setattr(base, "MAX_PAYLOAD", 5)
    with pytest.raises(TooLarge):
        read("<a></a>")


@given(st.binary(max_size=200))
def test_whatever_bytes_are_read_or_refused(data: bytes) -> None:
    for sent in (data, b"<a>" + data + b"</a>", b'<?xml version="1.0" encoding="' + data + b'"?><a/>'):
        field, end = _read_or_refused(sent)
        assert field or end <= len(sent)


def _read_or_refused(data: bytes) -> tuple[str, int]:
    try:
        return "", parse(data, what="a list", home=HOME).end
    except InvalidInput as error:
        return error.field or "", len(data) + 1
