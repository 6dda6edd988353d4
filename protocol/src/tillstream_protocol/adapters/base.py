"""What all adapters share: the shape of one, and reading money, times and JSON exactly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from ..codec import invalid
from ..errors import InvalidInput, TooLarge, shown
from ..transaction import Moment, Source, Transaction, check

MAX_PAYLOAD: Final = 16 * 1024 * 1024
"""Bytes that an adapter looks at."""
MAX_DEPTH: Final = 32
"""Objects and lists inside each other in a JSON payload."""
_MOST_DIGITS: Final = 18
_MOST_PLACES: Final = 12
_WIDE: Final = Context(prec=_MOST_DIGITS + _MOST_PLACES + 1)
_NOISE: Final = Decimal("0.000001")
"""What a sum of binary fractions may be off, in units of the currency."""
_SURROGATE: Final = re.compile(rb"\\u[dD]")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a till's configuration says where a payload is silent.

    `zone` is where local times without an offset are read in. `options` are an adapter's own, such as patterns or a
    mapping; `None` for currency means that a payload without one is refused.
    """

    currency: str | None = None
    zone: tzinfo = UTC
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """One transaction that was read, and the bytes of the input that it was read from."""

    transaction: Transaction
    original: bytes
    confidence: float = 1.0
    """How sure the adapter is that it read rightly, 0 to 1: below 1 only where a format has no structure."""
    returns: frozenset[str] | None = None
    """Of an order that lists every return it has, their `pos_id`: one that it lists no more was deleted. None where the
    payload does not tell."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One format. `read` gives what a payload holds, and nothing for what is no transaction, such as a test ping.

    `tried` says on what genuine data it was tried; empty means built from public documentation alone.
    """

    name: str
    version: str
    media_type: str
    read: Callable[[bytes, Setting], list[Reading]]
    tried: str = ""
    also: tuple[str, ...] = ()
    """Other media types that the format goes by; none that the form of a web page can send."""

    def source(self, system: str, version: str = "") -> Source:
        """The source of what it reads."""
        return Source(system, version, self.name, self.version)


@dataclass(slots=True)
class Notes:
    """What is to be said of one reading: what was assumed from the setting, and which amounts were rounded."""

    assumed: list[str] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)

    def ext(self, /, **more: Any) -> dict[str, Any] | None:
        """As `ext` tells it, beside what else has no field; None where there is nothing to tell."""
        told = {name: value for name, value in more.items() if value not in (None, "", [], {}, ())}
        if self.assumed:
            told["assumed"] = sorted(set(self.assumed))
        if self.rounded:
            told["rounded"] = sorted(set(self.rounded))
        return told or None

    def currency(self, said: str | None, setting: Setting, where: str) -> str:
        """The payload's currency, or the setting's. Raises `InvalidInput` where neither has one."""
        if said:
            return said
        if setting.currency is None:
            raise InvalidInput(
                "no currency is said, and none is set", field=where, hint="set the currency of the till's adapter"
            )
        self.assumed.append("currency")
        return setting.currency

    def minor(self, value: object, exponent: int, where: str) -> int:
        """An amount in minor units. What lies between two is rounded half up and noted, unless it is a float's noise.

        Raises `InvalidInput` for what is no number.
        """
        scaled = decimal(value, where).scaleb(exponent)
        whole = scaled.to_integral_value(ROUND_HALF_UP)
        if abs(scaled - whole) > _NOISE.scaleb(exponent):
            self.rounded.append(where)
        return int(whole)


_WITHOUT: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_WITH_THREE: Final = "BHD IQD JOD KWD LYD OMR TND"
EXPONENTS: Final[Mapping[str, int]] = {
    **dict.fromkeys(_WITHOUT.split(), 0),
    **dict.fromkeys(_WITH_THREE.split(), 3),
    "CLF": 4,
    "UYW": 4,
}
"""Decimals of the currencies that do not have two (ISO 4217)."""


def exponent_of(currency: str) -> int:
    """How many decimals a currency has."""
    return EXPONENTS.get(currency, 2)


def decimal(value: object, where: str) -> Decimal:
    """A number of a payload, exactly. Raises `InvalidInput`."""
    try:
        number = Decimal(value.strip() if isinstance(value, str) else value)  # type: ignore[arg-type]
    except (InvalidOperation, TypeError, ValueError):
        raise InvalidInput(f"{shown(value)} is not a number", field=where) from None
    if isinstance(value, bool) or not number.is_finite() or number.adjusted() >= _MOST_DIGITS:
        raise InvalidInput(f"{shown(value)} is not a number", field=where, limit=f"{_MOST_DIGITS} digits")
    return number


def plain(number: Decimal) -> str:
    """A decimal as the canonical transaction writes it: as it was sent, but no more than twelve places."""
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -_MOST_PLACES:
        number = number.quantize(Decimal(1).scaleb(-_MOST_PLACES), context=_WIDE).normalize(_WIDE)
    return f"{number:f}"


def moment(text: object, setting: Setting, where: str, *, utc: bool = False) -> Moment:
    """An ISO 8601 time as a moment; one without an offset is read in the setting's zone, or as UTC where that is known.

    Raises `InvalidInput`.
    """
    try:
        read = datetime.fromisoformat(str(text).strip())
    except ValueError:
        raise InvalidInput(f"{shown(text)} is not a time", field=where, limit="ISO 8601") from None
    explicit = read.tzinfo is not None or utc
    if read.tzinfo is None:
        read = read.replace(tzinfo=UTC if utc else setting.zone)
    offset = read.utcoffset()
    assert offset is not None
    return Moment(
        at=round(read.timestamp() * 1000),
        offset_minutes=round(offset.total_seconds() / 60),
        offset_from="explicit" if explicit else "store",
        text=str(text).strip(),
    )


def load_json(data: bytes, *, what: str) -> Any:
    """A payload's JSON, its numbers exact (`int` or `Decimal`). Raises `InvalidInput` or `TooLarge`."""
    check_size(data)
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_float=Decimal, parse_constant=_no_constant)
        if _SURROGATE.search(data):  # half a character can be parsed, but never be written again
            json.dumps(value, default=str, ensure_ascii=False).encode()
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise InvalidInput(f"this is not {what}: no valid JSON", field="body") from error
    _check_depth(value)
    return value


def check_size(data: bytes) -> None:
    """Raise `TooLarge` for a payload that no adapter looks at."""
    if len(data) > MAX_PAYLOAD:
        raise TooLarge(f"{len(data)} bytes", field="body", limit=f"{MAX_PAYLOAD} bytes")


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _check_depth(value: object) -> None:
    level, here = 0, [value]
    while here:
        level += 1
        if level > MAX_DEPTH:
            raise InvalidInput("the JSON is nested too deeply", field="body", limit=f"{MAX_DEPTH} levels")
        inner: list[object] = []
        for one in here:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        here = inner


def object_at(value: object, where: str) -> dict[str, Any]:
    """What has to be an object. Raises `InvalidInput`."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{shown(value)} is not an object", field=where)
    return value


def list_at(value: object, where: str) -> list[Any]:
    """What has to be a list; nothing is an empty one. Raises `InvalidInput`."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInput(f"{shown(value)} is not a list", field=where)
    return value


def text_at(value: object, where: str) -> str:
    """What has to be there as text or a number. Raises `InvalidInput`."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise InvalidInput(f"{shown(value)} is no text" if value not in (None, "") else "is missing", field=where)
    return str(value)


def checked(transaction: Transaction) -> Transaction:
    """The transaction, if the canonical form takes it. Raises `InvalidInput` with the canonical field."""
    try:
        made = msgspec.convert(msgspec.to_builtins(transaction), Transaction)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    check(made)
    return made
