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

from .errors import InvalidInput, TooLarge
from .events import Record

T = TypeVar("T")

_AT = re.compile(r"(?P<what>.*) - at `(?:key )?(?:in )?`?\$\.?(?P<path>[^`]*)`", re.DOTALL)
_PATH_ONLY = re.compile(r"`\$\.?(?P<path>[^`]*)`")
_LIMIT = re.compile(r"Expected (?P<limit>.+?)(?:, got .*)?$", re.DOTALL)

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
    ours.
    """

    def loads(data: bytes) -> T:
        plain: Any = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=min(limit, 65_536),
            max_bin_len=limit,
            max_array_len=20_000,
            max_map_len=1_000,
            max_ext_len=0,
        )
        return msgspec.convert(plain, of, strict=True)

    return _bounded(loads, limit, "msgpack")


def _bounded(loads: Callable[[bytes], T], limit: int, form: str) -> Callable[[bytes], T]:
    def decode(data: bytes) -> T:
        if len(data) > limit:
            raise TooLarge(f"{len(data)} bytes of {form}", field="body", limit=f"{limit} bytes")
        try:
            return loads(data)
        except msgspec.ValidationError as error:
            raise invalid(error) from error
        except (ValueError, msgspec.DecodeError, msgpack.UnpackException) as error:
            raise InvalidInput(f"not valid {form}: {error}", field="body") from error
        except RecursionError as error:
            raise InvalidInput(f"the {form} is nested too deeply", field="body") from error

    return decode


def invalid(error: msgspec.ValidationError) -> InvalidInput:
    """A decoder's complaint as an error that names field and limit."""
    text = str(error)
    place = _AT.match(text)
    what = place["what"] if place else text
    path = place["path"] if place else ""
    unknown = re.search(r"unknown field `(?P<name>[^`]+)`", text)
    if unknown:
        path = f"{path}.{unknown['name']}" if path else unknown["name"]
        return InvalidInput(
            f"there is no field {unknown['name']!r}", field=path, hint="what has no field goes into `ext`"
        )
    missing = re.search(r"missing required field `(?P<name>[^`]+)`", text)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidInput(f"{missing['name']!r} is missing", field=path)
    expected = _LIMIT.match(what)
    return InvalidInput(what, field=path or "body", limit=expected["limit"].replace("`", "") if expected else None)
