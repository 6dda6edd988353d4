"""Bounded decoding and typed encoding.

Three doors, by who stands before them. `json_decoder` takes what a POS sends; `message_decoder` takes what arrives
over the network, first through msgpack's own limits, then into its type; `record_decoder` takes what an authentic
till sealed, straight into its type. No wire type holds `Any`, so nothing can nest deeper than its type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack
import msgspec

from .errors import InvalidInput, TooLarge, UnknownField, shown
from .events import Record

T = TypeVar("T")

_MOST_QUOTED = 200

_AT = re.compile(r"(?P<what>.*) - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`", re.DOTALL)
_LIMIT = re.compile(r"Expected (?P<limit>.+?)(?:, got .*)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.DOTALL)

_encoder = msgspec.msgpack.Encoder()

encode: Callable[[object], bytes] = _encoder.encode
"""A typed value as msgpack, fields in the order of their definition."""


def json_decoder(of: type[T], *, limit: int) -> Callable[[bytes], T]:
    """A decoder of JSON of at most `limit` bytes. It raises `InvalidInput` or `TooLarge`."""
    return _bounded(msgspec.json.Decoder(of).decode, limit, "JSON")


def msgpack_decoder(of: type[T], *, limit: int) -> Callable[[bytes], T]:
    """A decoder of msgpack from a local POS, straight into its type. It raises `InvalidInput` or `TooLarge`."""
    return _bounded(msgspec.msgpack.Decoder(of).decode, limit, "msgpack")


def record_decoder(*, limit: int) -> Callable[[bytes], Record]:
    """A decoder of opened records. It raises `InvalidInput` or `TooLarge`."""
    return _bounded(msgspec.msgpack.Decoder(Record).decode, limit, "msgpack")


def message_decoder(of: type[T], *, limit: int) -> Callable[[bytes], T]:
    """A decoder of msgpack messages from the network. It raises `InvalidInput` or `TooLarge`.

    msgpack bounds text, binary, arrays, maps and depth (its parser's stack) before anything becomes an object of
    ours. Text never stands for bytes.
    """

    def loads(data: bytes) -> T:
        plain: Any = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=min(limit, 65_536),
            max_bin_len=limit,
            max_array_len=min(20_000, len(data)),  # room for every announced item is taken at once
            max_map_len=1_000,
            max_ext_len=0,
        )
        return msgspec.convert(plain, of, strict=True, builtin_types=(bytes,))

    return _bounded(loads, limit, "msgpack")


def _bounded(loads: Callable[[bytes], T], limit: int, form: str) -> Callable[[bytes], T]:
    def decode(data: bytes) -> T:
        if len(data) > limit:
            raise TooLarge(f"{len(data)} bytes of {form}", field="body", limit=f"{limit} bytes")
        try:
            return loads(data)
        except msgspec.ValidationError as error:
            raise invalid(error) from error
        except (RecursionError, msgpack.StackError) as error:
            raise InvalidInput(f"the {form} is nested too deeply", field="body") from error
        except (ValueError, msgspec.DecodeError, msgpack.UnpackException) as error:
            raise InvalidInput(f"not valid {form}: {_cut(str(error))}", field="body") from error

    return decode


def invalid(error: msgspec.ValidationError) -> InvalidInput:
    """A decoder's complaint as an error that names field and limit."""
    text = str(error)
    place = _AT.fullmatch(text)
    what = place["what"] if place else text
    path = place["path"] if place else ""
    for complaint, say in ((_UNKNOWN, _unknown), (_MISSING, _missing)):
        named = complaint.fullmatch(what)
        if named:
            return say(named["name"], f"{path}." if path else "")
    expected = _LIMIT.fullmatch(what)
    limit = _cut(expected["limit"].replace("`", "")) if expected else None
    return InvalidInput(_cut(what), field=_cut(path) or "body", limit=limit)


def _unknown(name: str, place: str) -> UnknownField:
    return UnknownField(
        f"there is no field {shown(name)}", field=_cut(place + name), hint="what has no field goes into `ext`"
    )


def _missing(name: str, place: str) -> InvalidInput:
    return InvalidInput(f"{name!r} is missing", field=place + name)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_QUOTED else text[:_MOST_QUOTED] + "…"
