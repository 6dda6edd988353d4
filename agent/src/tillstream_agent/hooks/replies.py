"""What a POS gets back, the same behind every door."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from tillstream_protocol.decisions import Decision
from tillstream_protocol.effects import Effect
from tillstream_protocol.errors import InvalidInput

Ack = Literal["os", "disk"]


class Outcome(Struct, frozen=True, omit_defaults=True):
    """One decision as a POS gets it: typed effects, or an explicit refusal."""

    offer: str
    campaign: str
    version: int
    outcome: str
    decided_at: str
    expires_ms: int
    reason: str | None = None
    lease: str | None = None
    effects: tuple[Effect, ...] = ()


class Reply(Struct, frozen=True):
    """What was captured, and what the POS should do now. Ids are hex."""

    till: str
    epoch: str
    seq: int
    ack: Ack
    effects: tuple[Outcome, ...] | UnsetType = UNSET


def outcomes(decisions: Iterable[Decision]) -> tuple[Outcome, ...]:
    """Decisions as a POS gets them: what was withheld it does not."""
    return tuple(_outcome(decision) for decision in decisions if decision.outcome != "withheld")


def _outcome(d: Decision) -> Outcome:
    lease = d.lease.hex() if d.lease is not None else None
    return Outcome(
        d.offer_id.hex(),
        d.campaign,
        d.campaign_version,
        d.outcome,
        d.decided_at,
        d.expires_ms,
        d.reason,
        lease,
        d.effects,
    )


def offer_id_of(text: str) -> bytes:
    """The 16 bytes of an offer's id in hex. Raises `InvalidInput`."""
    try:
        offer_id = bytes.fromhex(text)
    except ValueError:
        offer_id = b""
    if len(offer_id) != 16 or len(text) != 32:
        raise InvalidInput("this is not the id of an offer", field="offer", limit="32 hex digits")
    return offer_id
