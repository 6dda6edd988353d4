"""The patterns that tell a receipt's lines of text from each other, with defaults for some languages.

A pattern is a regular expression, matched without regard to case against one line. `{amount}` in it stands for an
amount of money in the currency's own decimals, `{number}` for a decimal number. The page
`docs/reference/receipt-patterns.md` has a row for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final

from ..errors import InvalidInput
from ..limits import MAX_LONG_TEXT
from .base import Setting

_MONEY_END: Final = r"\s*(?:[A-Z]{3}|[€£$])?\s*$"
PATTERNS: Final[Mapping[str, str]] = {
    "total": r"^\W*(?:summe|gesamt\w*|zu zahlen|endbetrag|grand total|total|amount due|balance due|montant dû|à payer"
    r"|importe total|totale)\b(?!.*\b(?:tax|vat|mwst|savings|items|discount)\b).*?{amount}" + _MONEY_END,
    "ignore": r"^\W*(?:zwischensumme|sub-?\s?total|sous-total|netto|brutto|mwst|ust|vat|tax|tva|iva)\b",
    "line": r"^(?P<name>\S.*?)(?:\s{2,}|\s[€£$]\s?){amount}(?:\s+(?P<tax>[A-Z*]{1,2}))?" + _MONEY_END,
    "quantity": r"(?:^|\s)(?P<quantity>{number})\s*(?P<unit>kg|g|l|ml|m|st|stk|pcs|ea)?\s*[x×*@]\s*(?P<price>{number})",
    "count": r"^(?P<quantity>\d{1,4})\s*(?:[x×]\s*|\s)(?=\D)",
    "discount": r"\b(?:rabatt|nachlass|discount|remise|descuento|sconto|coupon)",
    "deposit": r"\b(?:pfand|leergut|deposit|consigne)\b",
    "change": r"^\W*(?:rückgeld|wechselgeld|zurück|change(?: due)?|rendu|monnaie|cambio|resto)\b.*?{amount}"
    + _MONEY_END,
    "tender": r"^\W*(?P<type>bar|bargeld|cash|ec-?\s?cash|ec-?karte|girocard|karte|kreditkarte|(?:credit|debit) card"
    r"|card|visa|mastercard|maestro|amex|gutschein|voucher|gift card|espèces|carte|efectivo|tarjeta|contanti|carta)\b"
    r".*?{amount}" + _MONEY_END,
    "receipt": r"\b(?:bon|beleg|rechnung|quittung|receipt|ticket|invoice|check|order|facture|factura)"
    r"[\s-]*(?:nr|nummer|no|number|n°|#)?\s*[.:#]*\s*(?P<receipt>[A-Z]{0,4}[-/]?\d[\w/-]*)",
    "loyalty": r"\b(?:kunden(?:karte|-?nr|nummer)|bonuskarte|loyalty|member(?:ship)?|club|fidélité|socio)\b"
    r"[^\d*]{0,20}(?P<loyalty>[\d*][\d* -]{2,30}\d)",
    "operator": r"\b(?:kassierer(?:in)?|bediener|cashier|operator|caissier|cajero)\s*(?:nr|no)?[.:#\s]*"
    r"(?P<operator>\w+)",
    "date": r"(?<!\d)(?:(?P<iso>\d{4}-\d{2}-\d{2})|"
    r"(?P<a>\d{1,2})[./-](?P<b>\d{1,2})[./-](?P<year>\d{4}|\d{2}))(?!\d)",
    "time": r"(?<!\d)(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?"
    r"(?:\.\d+)?\s*(?P<half>[ap]\.?m\b)?(?P<zulu>Z)?(?![\d.])",
    "training": r"^\W*(?:training|schulung|formation)s?\s?(?:mode|modus|receipt|beleg|bon)?\W*$",
}
"""Each pattern's default. The named groups are what is taken from a line that matches."""
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "total": ("amount",),
    "change": ("amount",),
    "tender": ("amount",),
    "line": ("name", "amount"),
}
"""Groups that a pattern has to have."""
_NUMBER: Final = r"\d{1,6}(?:[.,]\d{1,4})?"
_ORDERS: Final = ("dmy", "mdy")
_DIGITS: Final = "0123456789"
_MOST_DIGITS: Final = 12


class Patterns:
    """The patterns of a till for amounts of so many decimals. Raises `InvalidInput` naming the option."""

    def __init__(self, setting: Setting, exponent: int) -> None:
        own = setting.options.get("patterns", {})
        if not isinstance(own, Mapping):
            raise InvalidInput("is no map of patterns", field="options.patterns")
        for name in own:
            if name not in PATTERNS:
                raise InvalidInput(
                    "there is no such pattern", field=f"options.patterns.{name}", limit=", ".join(PATTERNS)
                )
        self._found = {name: _compiled(name, own.get(name, PATTERNS[name]), exponent) for name in PATTERNS}
        self.date_order = setting.options.get("date_order", "dmy")
        if self.date_order not in _ORDERS:
            raise InvalidInput("is no order of a date", field="options.date_order", limit=" or ".join(_ORDERS))

    def find(self, name: str, line: str) -> re.Match[str] | None:
        """Where a pattern matches in a line."""
        return self._found[name].search(line)

    def day(self, line: str) -> date | None:
        """The date in a line, if there is one that exists."""
        found = self.find("date", line)
        if found is None:
            return None
        parts = found.groupdict()
        try:
            if parts.get("iso"):
                return date.fromisoformat(parts["iso"])
            day, month = (parts["a"], parts["b"]) if self.date_order == "dmy" else (parts["b"], parts["a"])
            year = int(parts["year"])
            return date(year + 2000 if year < 100 else year, int(month), int(day))
        except (KeyError, ValueError, TypeError):
            return None

    def clock(self, line: str) -> tuple[int, int, int, bool] | None:
        """The time in a line: hour, minute, second, and whether it says that it is UTC."""
        found = self.find("time", line)
        if found is None:
            return None
        parts = found.groupdict()
        try:
            hour, minute, second = (int(parts.get(name) or 0) for name in ("hour", "minute", "second"))
        except ValueError:
            return None
        half = (parts.get("half") or "").lower()[:1]
        if half and 1 <= hour <= 12:
            hour = hour % 12 + (12 if half == "p" else 0)
        fits = hour < 24 and minute < 60 and second < 60
        return (hour, minute, second, bool(parts.get("zulu"))) if fits else None


def _compiled(name: str, pattern: Any, exponent: int) -> re.Pattern[str]:
    """A pattern with its placeholders filled in."""
    where = f"options.patterns.{name}"
    if not isinstance(pattern, str) or len(pattern) > MAX_LONG_TEXT:
        raise InvalidInput("is no pattern", field=where, limit=f"text of {MAX_LONG_TEXT} characters")
    try:
        compiled = re.compile(
            pattern.replace("{amount}", _amount(exponent)).replace("{number}", _NUMBER), re.IGNORECASE
        )
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidInput("is no regular expression", field=where) from error
    for group in _NEEDED.get(name, ()):
        if group not in compiled.groupindex:
            raise InvalidInput(f"has no group {group}", field=where, hint="write {amount}, or (?P<name>…)")
    return compiled


def _amount(exponent: int) -> str:
    grouped = r"(?:\d{1,3}(?:[., '’]\d{3}){1,2}|\d{1,9})"
    fraction = rf"[.,]\d{{{exponent}}}" if exponent else ""
    return rf"(?<![\d.,])(?P<amount>-?\s?[€£$]?\s?{grouped}{fraction}\s?-?)(?![\d.,]*\d)"


def money(match: re.Match[str]) -> int:
    """What `{amount}` matched, in minor units: its digits are all that counts, and a minus at either end."""
    text = match["amount"] or ""
    digits = int("".join(c for c in text if c in _DIGITS)[:_MOST_DIGITS] or "0")
    return -digits if "-" in text else digits


def number(text: str | None) -> str | None:
    """What `{number}` matched, as a decimal; None for what is no number."""
    return text.replace(",", ".") if text and re.fullmatch(_NUMBER, text, re.ASCII) else None


def at(day: date, clock: tuple[int, int, int, bool]) -> str:
    """Date and time as ISO 8601, with its offset where it says that it is UTC."""
    hour, minute, second, zulu = clock
    return datetime(day.year, day.month, day.day, hour, minute, second).isoformat() + ("Z" if zulu else "")  # noqa: DTZ001
