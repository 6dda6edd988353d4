"""A payload is read part by part, and what nobody asked for is left over, bounded as `ext` is."""

from __future__ import annotations

from datetime import timedelta, timezone
from decimal import Decimal

import msgspec
import pytest

from tillstream_protocol.adapters.base import Setting
from tillstream_protocol.adapters.parts import Part, bounded, documents, local_date, personal, possible, revision_of
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.transaction import Ext, Moment


def test_what_was_read_is_known_and_the_rest_is_left() -> None:
    part = Part({"id": 7, "who": {"name": "Jo", "age": 3}, "lines": [{"a": 1, "b": 2}, {"a": 3}], "x": Decimal("1.50")})
    assert (part.need("id"), part.part("who").text("name"), part.text("none")) == ("7", "Jo", None)
    assert [one.take("a") for one in part.parts("lines", 5)] == [1, 3]
    assert part.rest() == {"who": {"age": 3}, "lines": [{"b": 2}, {}], "x": "1.50"}
    assert part.rest({"more": "y"})["more_said"] == "y"


def test_a_rest_always_fits_into_ext() -> None:
    deep = {"a": {"b": {"c": {"d": {"e": 1}}}}, "big": 10**30, "assumed": "theirs"} | {f"n{i}": i for i in range(500)}
    told = bounded(deep)
    assert msgspec.convert(told, Ext) == told
    assert told["a"] == {"b": {"c": {"d": '{"e": 1}'}}}
    assert (told["big"], told["assumed_said"]) == (str(10**30), "theirs")
    assert '"n499": 499' in told["more"]


def test_a_text_without_room_is_cut_and_left_whole() -> None:
    part = Part({"name": "n" * 300, "sku": "s" * 65})
    assert (part.text("name"), part.code("sku")) == ("n" * 256, None)
    assert part.rest() == part.fields
    with pytest.raises(InvalidInput, match="300 characters"):
        part.need("name")


def test_addresses_are_told_field_by_field_and_what_is_no_text_stays() -> None:
    home = Part({"city": "Lund", "zip": 22100, "tags": ["x"], "long": "l" * 5_000, "default": True}, "order.home")
    assert personal(home) == {"home.city": "Lund", "home.zip": "22100"}
    assert home.rest() == {"tags": ["x"], "long": "l" * 5_000, "default": True}
    assert personal(Part({})) is None


def test_revisions_rise_by_the_second_and_later_by_the_hour() -> None:
    made = Moment(0)
    seconds = [-5, 0, 1, 432_000, 432_000 + 3_600, 10**9, 10**12]
    revisions = [revision_of(made, Moment(1_000 * one)) for one in seconds]
    assert revisions == [0, 0, 1, 432_000, 432_001, 432_000 + (10**9 - 432_000) // 3_600, 1_000_000]
    assert revision_of(made, None) == 0


def test_the_local_date_is_the_one_on_the_shops_calendar() -> None:
    late = Moment(1_774_999_800_000, 120)  # 2026-03-31T23:30Z
    assert local_date(late) == "2026-04-01"
    assert local_date(late, Setting(zone=timezone(timedelta(hours=-5)))) == "2026-03-31"
    assert local_date(Moment(-62_135_596_800_000, -60)) == "0001-01-01"
    assert local_date(Moment(-62_135_596_800_000), Setting(zone=timezone(timedelta(hours=-5)))) == "0001-01-01"


def test_impossible_times_are_refused_by_place() -> None:
    for bad in (Moment(253_402_300_800_000), Moment(0, 1_081)):
        with pytest.raises(InvalidInput) as caught:
            possible(bad, "order.created_at")
        assert caught.value.field == "order.created_at"


@pytest.mark.parametrize(
    ("data", "places"),
    [
        (b'{"id": 1}', [""]),
        (b'{"order": {"id": 1}}', ["order"]),
        (b'[{"id": 1}, {"id": 2}]', ["[0]", "[1]"]),
        (b'{"orders": [{"id": 1}]}', ["orders[0]"]),
        (b'{"orders": null}', []),
    ],
)
def test_documents_stand_bare_wrapped_or_in_a_list(data: bytes, places: list[str]) -> None:
    assert [part.where for part, _ in documents(data, what="x", one="order", many="orders")] == places


@pytest.mark.parametrize("data", [b"7", b'{"order": 7}', b'{"orders": {}}', b"[7]", "[{}]".encode("utf-16")])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(documents(data, what="x", one="order", many="orders"))
    assert caught.value.field


def test_errors_do_not_quote_what_may_name_a_person() -> None:
    part = Part({"who": "Jo Example", "mail": ["jo@example.org"], "agreed": "Jo", "lines": "Jo"})
    for read in (
        lambda: part.part("who"),
        lambda: part.text("mail"),
        lambda: part.flag("agreed"),
        lambda: part.parts("lines", 5),
    ):
        with pytest.raises(InvalidInput) as caught:
            read()
        assert "Jo" not in caught.value.message
        assert "jo@" not in caught.value.message
