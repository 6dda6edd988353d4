"""Figures and moments as people read them: in their language, and in head office's time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from markupsafe import Markup

from .words import Words

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_SEPARATORS: Final = {"en": (",", "."), "de": (".", ",")}
_DIGITS: Final = {
    **dict.fromkeys(
        [
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ],
        0,
    ),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
}
"""ISO 4217: currencies whose minor unit is not a hundredth."""
_NOTHING: Final = "–"


@dataclass(frozen=True, slots=True)
class Showing:
    """How to show what, in one language. Templates call these."""

    words: Words
    zone: ZoneInfo
    now_ms: int

    def number(self, value: int) -> str:
        """A whole number with its thousands apart."""
        return f"{value:,}".replace(",", self._separators[0])

    def money(self, minor: int, currency: str) -> str:
        """An amount with its currency."""
        return f"{self.amount(minor, currency)}\N{NO-BREAK SPACE}{currency}"

    def amount(self, minor: int, currency: str) -> str:
        """An amount in minor units without its currency."""
        digits = _DIGITS.get(currency, 2)
        whole, rest = divmod(abs(minor), 10**digits)
        fraction = f"{self._separators[1]}{rest:0{digits}}" if digits else ""
        return f"{'−' if minor < 0 else ''}{self.number(whole)}{fraction}"

    def plain_amount(self, minor: int, currency: str) -> str:
        """An amount as programs read it."""
        digits = _DIGITS.get(currency, 2)
        whole, rest = divmod(abs(minor), 10**digits)
        return f"{'-' if minor < 0 else ''}{whole}{f'.{rest:0{digits}}' if digits else ''}"

    def change(self, now: int, before: int) -> str:
        """By how much something grew, in per cent; a dash where there was nothing before."""
        if before <= 0:
            return _NOTHING
        tenths = round((now - before) * 1000 / before)
        sign = "+" if tenths > 0 else "−" if tenths < 0 else "±"
        return f"{sign}{abs(tenths) // 10}{self._separators[1]}{abs(tenths) % 10}\N{NO-BREAK SPACE}%"

    def moment(self, at_ms: int | None, *, seconds: bool = False) -> Markup:
        """A moment in head office's time, as HTML; a dash for none, or one that no calendar has."""
        try:
            at = (_EPOCH + timedelta(milliseconds=at_ms or 0)).astimezone(self.zone)
        except OverflowError:
            at_ms = None
        if at_ms is None:
            return Markup(_NOTHING)  # noqa: S704 - ours
        text = at.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")
        return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), text)

    def clock(self, at_ms: int) -> Markup:
        """The time of a moment to the second, as HTML."""
        at = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(self.zone)
        text = at.strftime("%H:%M:%S")
        return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), text)

    def duration(self, ms: int) -> str:
        """A span of time in its two largest units; its sign only where it is negative."""
        left = abs(ms) // 1000
        parts: list[str] = []
        for unit, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min"), (1, "s")):
            count, left = divmod(left, unit)
            if count or (not parts and unit == 1):
                parts.append(f"{count}\N{NO-BREAK SPACE}{name}")
        return ("−" if ms < -999 else "") + " ".join(parts[:2])

    def ago(self, at_ms: int | None) -> str:
        """How long ago a moment was; a dash for none."""
        if at_ms is None:
            return _NOTHING
        return self.words("ago", duration=self.duration(max(0, self.now_ms - at_ms)))

    @property
    def _separators(self) -> tuple[str, str]:
        return _SEPARATORS[self.words.language]
