"""Effects as a cashier reads them: one line each, in the user's language."""

from __future__ import annotations

from collections.abc import Iterator

from trytond.i18n import gettext

from tillstream_pos import Answer

LABELS = {
    "discount": "msg_tillstream_discount",
    "points": "msg_tillstream_points",
    "gift": "msg_tillstream_gift",
    "cashier_message": "msg_tillstream_cashier_message",
    "customer_message": "msg_tillstream_customer_message",
    "receipt_line": "msg_tillstream_receipt_line",
    "prompt": "msg_tillstream_prompt",
    "reserve_coupon": "msg_tillstream_reserve_coupon",
}
"""A type that is not here, of a newer server, is shown by its text alone."""


def readable(answer: Answer, language: str) -> str:
    """Offers first, each effect on a line; then what was refused, with the reason."""
    return "\n".join([*_offered(answer, language), *_refused(answer, language)])


def _offered(answer: Answer, language: str) -> Iterator[str]:
    for effect in answer.typed():
        text = str(effect.get("text", ""))
        label = LABELS.get(str(effect.get("type")))
        if text and label:
            yield gettext(f"sale_point_tillstream.{label}", language, text=text)
        elif text:
            yield text


def _refused(answer: Answer, language: str) -> Iterator[str]:
    for outcome in answer.effects:
        if outcome.outcome == "refused":
            yield gettext(
                "sale_point_tillstream.msg_tillstream_refused",
                language,
                campaign=outcome.campaign,
                reason=(outcome.reason or "").replace("_", " "),
            )
