"""What a call brought: the record that was captured, what the POS should do now, or why nothing came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RETRYABLE_FROM = 500
"""Statuses from here on are the agent's trouble, not the caller's."""


@dataclass(frozen=True)
class Captured:
    """The record's name, for ever, and what it survives: `os` a killed process, `disk` a power cut."""

    till: str
    epoch: str
    seq: int
    ack: str
    repeat: bool = False
    """It had been captured before; nothing was counted twice."""


@dataclass(frozen=True)
class Outcome:
    """One decision: an offer with its typed effects, or an explicit refusal with its reason."""

    offer: str
    campaign: str
    outcome: str
    """`offered` or `refused`."""
    version: int = 0
    decided_at: str = ""
    expires_ms: int = 0
    reason: str | None = None
    lease: str | None = None
    effects: tuple[Mapping[str, Any], ...] = ()
    """As the agent sent them; `type` says what each is, and types may be added."""


@dataclass(frozen=True)
class Answer:
    """What happened. A POS that asks for nothing but `effects` is never wrong: they are empty when there is trouble."""

    ok: bool
    captured: Captured | None = None
    """None where nothing is captured by the call (an open basket), or where it is not known."""
    effects: tuple[Outcome, ...] = ()
    error: str | None = None
    code: str | None = None
    """Stable and machine-readable; see the reference."""
    retryable: bool = False
    """Whether the same call may succeed later. Repeating it counts nothing twice."""
    field: str | None = None
    limit: str | None = None
    hint: str | None = None
    status: int = 0
    """The HTTP status; 0 where the agent did not answer."""
    records: tuple[Captured, ...] = ()
    """Every record of a call that may capture several, such as `adapt`."""

    def typed(self, *types: str) -> Iterator[Mapping[str, Any]]:
        """The effects that are offered, of these types; of any type without."""
        for outcome in self.effects:
            if outcome.outcome == "offered":
                yield from (one for one in outcome.effects if not types or one.get("type") in types)

    def messages(self, *types: str) -> tuple[str, ...]:
        """Their texts, in the agent's order."""
        return tuple(str(one["text"]) for one in self.typed(*types) if one.get("text"))


class TillError(Exception):
    """Raised instead of returned, where `strict` asks for it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.code}: {answer.error}")
        self.answer = answer


def failed(code: str, error: str, *, retryable: bool, hint: str | None = None) -> Answer:
    """The answer where the agent gave none."""
    return Answer(ok=False, code=code, error=error, retryable=retryable, hint=hint)


def read(status: int, body: bytes) -> Answer:
    """What the agent said. Raises `ValueError`, `KeyError` or `TypeError` for what an agent does not say."""
    said = json.loads(body)
    if not isinstance(said, dict):
        raise TypeError("not an object")
    if status not in (200, 201):
        return _refused(status, said["error"])
    repeat = status == 200
    if "transactions" in said:
        parts = said["transactions"]
        records = tuple(_captured(one, repeat=bool(one.get("repeat", repeat))) for one in parts)
        effects = tuple(outcome for one in parts for outcome in _outcomes(one))
        return Answer(
            ok=True,
            captured=records[0] if len(records) == 1 else None,
            effects=effects,
            status=status,
            records=records,
        )
    captured = _captured(said, repeat=repeat) if "seq" in said else None
    records = (captured,) if captured is not None else ()
    return Answer(ok=True, captured=captured, effects=tuple(_outcomes(said)), status=status, records=records)


def _captured(said: Mapping[str, Any], *, repeat: bool) -> Captured:
    return Captured(str(said["till"]), str(said["epoch"]), int(said["seq"]), str(said.get("ack", "os")), repeat)


def _outcomes(said: Mapping[str, Any]) -> Iterator[Outcome]:
    for one in said.get("effects", ()):
        yield Outcome(
            offer=str(one["offer"]),
            campaign=str(one["campaign"]),
            outcome=str(one["outcome"]),
            version=int(one.get("version", 0)),
            decided_at=str(one.get("decided_at", "")),
            expires_ms=int(one.get("expires_ms", 0)),
            reason=one.get("reason"),
            lease=one.get("lease"),
            effects=tuple(one.get("effects", ())),
        )


def _refused(status: int, error: Mapping[str, Any]) -> Answer:
    return Answer(
        ok=False,
        error=str(error["message"]),
        code=str(error["code"]),
        retryable=bool(error.get("retryable", False)) or status >= RETRYABLE_FROM,
        field=error.get("field"),
        limit=error.get("limit"),
        hint=error.get("hint"),
        status=status,
    )
