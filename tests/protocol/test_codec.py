"""Whatever strangers send becomes a typed value, or an error that names the field and the limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillstream_protocol import messages
from tillstream_protocol.codec import encode, invalid, json_decoder, message_decoder, msgpack_decoder, record_decoder
from tillstream_protocol.decisions import Campaign
from tillstream_protocol.errors import InvalidInput, TillstreamError, TooLarge, shown
from tillstream_protocol.events import MemberIdentified
from tillstream_protocol.limits import DEFAULT, MAX_MINOR
from tillstream_protocol.pack import Pack
from tillstream_protocol.transaction import Transaction

SALE: dict[str, Any] = {
    "source": {"system": "pos"},
    "kind": "sale",
    "pos_id": "1",
    "business_date": "2026-01-02",
    "end": {"at": 0},
}
LINE = {"seq": 1, "amount": 100}
NOBODY = {"scheme": "loyalty", "value": ""}

Decoder = Callable[[bytes], Any]
FROM_JSON: list[Decoder] = [
    json_decoder(Transaction, limit=10_000),
    json_decoder(MemberIdentified, limit=10_000),
    json_decoder(Campaign, limit=10_000),
]
FROM_MSGPACK: list[Decoder] = [
    msgpack_decoder(Transaction, limit=10_000),
    record_decoder(limit=10_000),
    message_decoder(Pack, limit=10_000),
    messages.decode_hello,
    messages.decode_introduction,
    messages.decode_enrol_request,
    messages.decode_enrol_reply,
    messages.decode_batch,
    messages.decode_batch_reply,
    messages.decode_to_till,
    messages.decode_to_server,
    messages.decode_vitals,
]


def decode_sale(document: object) -> Transaction:
    return json_decoder(Transaction, limit=DEFAULT.hook_body)(json.dumps(document).encode())


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"deeper": value}
    return value


def refusal(decode: Callable[[Any], Any], data: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as error:
        decode(data)
    assert len(error.value.message) < 300
    assert len(error.value.field or "") < 300
    return error.value


@pytest.mark.parametrize(
    ("changes", "field", "limit"),
    [
        ({"colour": "red"}, "colour", None),
        ({"lines": [{**LINE, "colour": "red"}]}, "lines[0].colour", None),
        ({"x" * 5000: 1}, "x" * 200 + "…", None),
        ({"total": "12.34"}, "total", "int"),
        ({"total": 12.34}, "total", "int"),
        ({"total": True}, "total", "int"),
        ({"total": MAX_MINOR + 1}, "total", f"int <= {MAX_MINOR}"),
        ({"total": -MAX_MINOR - 1}, "total", f"int >= -{MAX_MINOR}"),
        ({"total": 2**70}, "total", f"int <= {MAX_MINOR}"),
        ({"lines": [LINE, {**LINE, "amount": 2**63}]}, "lines[1].amount", f"int <= {MAX_MINOR}"),
        ({"lines": [{**LINE, "quantity": 2}]}, "lines[0].quantity", "str"),
        ({"lines": [{**LINE, "sku": "s" * 65}]}, "lines[0].sku", "str of length <= 64"),
        ({"lines": [{**LINE, "sku": ""}]}, "lines[0].sku", "str of length >= 1"),
        ({"lines": [{"amount": 1}]}, "lines[0].seq", None),
        ({"lines": [LINE] * 5001}, "lines", "array of length <= 5000"),
        ({"lines": {"seq": 1}}, "lines", "array"),
        ({"tenders": [{"type": "cash", "amount": 1}] * 101}, "tenders", "array of length <= 100"),
        ({"note": "n" * 4001}, "note", "str of length <= 4000"),
        ({"customer": {"identifiers": [NOBODY]}}, "customer.identifiers[0].value", "str of length >= 1"),
        ({"customer": {"personal": {"street": 5}}}, "customer.personal[...]", "str"),
        ({"customer": {"personal": {str(n): "" for n in range(51)}}}, "customer.personal", "object of length <= 50"),
        ({"kind": "gift"}, "kind", None),
        ({"kind": "g" * 5000}, "kind", None),
        ({"type": "refund"}, "type", None),
        ({"end": {"at": 10**18}}, "end.at", "int <= 253402300799999"),
        ({"exponent": 5}, "exponent", "int <= 4"),
        ({"ext": {str(n): n for n in range(201)}}, "ext", "object of length <= 200"),
        ({"ext": {"a": nested(4)}}, "ext[...][...][...][...]", "bool | int | float | str | null"),
        ({"ext": {"a": 2**63}}, "ext[...]", f"int <= {2**63 - 1}"),
        ({"ext": {"a": [-(2**63) - 1]}}, "ext[...][0]", f"int >= {-(2**63)}"),
    ],
)
def test_a_bad_transaction_is_refused_by_field_and_limit(
    changes: dict[str, Any], field: str, limit: str | None
) -> None:
    error = refusal(decode_sale, {**SALE, **changes})
    assert error.code == "invalid_input"
    assert error.field == field
    assert error.limit == limit


def test_an_unknown_field_is_told_where_it_may_go() -> None:
    error = refusal(decode_sale, {**SALE, "colour": "red"})
    assert error.hint == "what has no field goes into `ext`"
    assert decode_sale({**SALE, "ext": {"colour": "red"}}).ext == {"colour": "red"}


def test_a_missing_field_is_named() -> None:
    document = {key: value for key, value in SALE.items() if key != "pos_id"}
    error = refusal(decode_sale, document)
    assert (error.field, error.message) == ("pos_id", "'pos_id' is missing")


def test_ext_holds_four_levels() -> None:
    assert decode_sale({**SALE, "ext": {"a": nested(3)}}).ext == {"a": nested(3)}


def test_what_a_field_name_says_cannot_break_the_error() -> None:
    for name in ("y` - at `$.total", "unknown field `z`", "` - at `key` in `$", "", "\n`$", "Expected , got "):
        error = refusal(decode_sale, {**SALE, name: 1})
        assert "there is no field" in error.message


@pytest.mark.parametrize("data", [b"", b"{", b"[1", b'{"kind": "sa', b"\xff", b"nul", b"{}}", b'"\\ud800"', b"1e999"])
@pytest.mark.parametrize("decode", FROM_JSON)
def test_what_is_no_json_is_refused(decode: Decoder, data: bytes) -> None:
    assert refusal(decode, data).field is not None


@pytest.mark.parametrize("decode", FROM_JSON)
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"ext":[', b'{"x":['])
def test_json_nested_without_end_is_refused(decode: Decoder, opening: bytes) -> None:
    refusal(decode, opening * 1500)
    refusal(decode, (b'{"ext":' + opening * 1500)[:10_000])


def test_more_bytes_than_the_limit_are_not_looked_at() -> None:
    for decode in (FROM_JSON[0], FROM_MSGPACK[0]):
        with pytest.raises(TooLarge) as refused:
            decode(b"\0" * 10_001)
        assert (refused.value.field, refused.value.limit) == ("body", "10000 bytes")


@pytest.mark.parametrize("decode", FROM_MSGPACK)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 3000,
        b"\x81\xa1a" * 1000,
        b"\xdc\x4e\x20" * 1000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\0",
        b"\xc7\x00\xff",
        b"\xc7\x00\x05",
        b"\xd6\xff\0\0\0\0",
        b"\x81\xc4\x01a\x01",
        b"\x81\x01\x01",
        b"\x81\x90\x01",
        b"\xa1\xff",
        b"\x80\x80",
    ],
)
def test_msgpack_that_lies_or_is_cut_short_is_refused(decode: Decoder, data: bytes) -> None:
    assert refusal(decode, data).field is not None


def test_huge_counts_are_refused_before_room_is_made_for_them() -> None:
    for field in ("lines", "ext", "decisions"):
        head = {**SALE, "type": "transaction"} if field != "decisions" else {}
        packed = msgpack.packb({**head, field: 0})[:-1]
        for count in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdd\x05\x00\x00\x00"):
            refusal(FROM_MSGPACK[1 if field == "decisions" else 0], packed + count)


def test_nesting_is_named_as_such() -> None:
    assert refusal(messages.decode_hello, b"\x91" * 3000).message == "the msgpack is nested too deeply"


def test_text_never_stands_for_bytes() -> None:
    error = refusal(messages.decode_hello, msgpack.packb({"nonce": "AAAAAAAAAAAAAAAAAAAAAA==", "protocol": 1}))
    assert (error.field, error.limit) == ("nonce", "bytes")


def test_a_complaint_about_a_key_names_its_map() -> None:
    packed = msgpack.packb({**SALE, "ext": {1: 1}})
    assert refusal(FROM_MSGPACK[0], packed).field == "ext"


def test_a_complaint_of_another_form_is_still_an_error() -> None:
    error = invalid(msgspec.ValidationError("something new"))
    assert (error.field, error.limit, error.message) == ("body", None, "something new")


# Arbitrary input

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted(
    {field for of in (Transaction, Pack, Campaign, messages.Vitals, messages.Batch) for field in of.__struct_fields__}
    | {"type", "body", "captured_at", "nonce", "secret", "proof", "signature", "acked", "dead", "pace"}
)
msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=20)
    | st.sampled_from(["transaction", "push", "vitals", "challenge", "present", "sale", bytes(16), bytes(64)])
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=3)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4) | st.binary(max_size=4), inner, max_size=5)
    ),
    max_leaves=15,
)


def takes_or_refuses(decode: Decoder, data: bytes) -> None:
    try:
        value = decode(data)
    except TillstreamError:
        return
    assert encode(value)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), json_values, max_size=6) | json_values)
def test_any_json_is_taken_or_refused(value: object) -> None:
    for decode in FROM_JSON:
        takes_or_refuses(decode, json.dumps(value).encode())


@given(st.dictionaries(st.sampled_from(sorted(Transaction.__struct_fields__)), json_values, max_size=4))
def test_any_value_in_a_transaction_is_taken_or_refused(changes: dict[str, object]) -> None:
    takes_or_refuses(FROM_JSON[0], json.dumps({**SALE, **changes}).encode())


@given(st.dictionaries(st.sampled_from(FIELDS), msgpack_values, max_size=6) | msgpack_values)
def test_any_msgpack_is_taken_or_refused(value: object) -> None:
    for decode in FROM_MSGPACK:
        takes_or_refuses(decode, msgpack.packb(value))


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    for decode in (*FROM_JSON, *FROM_MSGPACK):
        takes_or_refuses(decode, data)


@given(kind=st.sampled_from(["transaction", "member_identified", "offer_shown", "offer_answered"]), cut=st.data())
def test_a_record_cut_short_is_refused(kind: str, cut: st.DataObject, vectors: Callable[[str], Any]) -> None:
    whole = bytes.fromhex(vectors("records")[kind])
    refusal(record_decoder(limit=10_000), whole[: cut.draw(st.integers(0, len(whole) - 1))])


def test_the_vector_records_come_back_as_they_are(vectors: Callable[[str], Any]) -> None:
    for kind, data in vectors("records").items():
        record = record_decoder(limit=10_000)(bytes.fromhex(data))
        assert type(record.body).__struct_config__.tag == kind
        assert encode(record).hex() == data


def test_what_an_error_quotes_is_cut() -> None:
    assert shown("x" * 1000, 10) == repr("x" * 10)
    assert shown([1] * 1000, 10) == "[1, 1, 1, …"
    assert shown("short") == "'short'"
