"""One till on the push channel, without sockets: bytes in, events and bytes out.

    challenge sent ── present ──▶ presented ── admit ──▶ open ── close
                                     │
                                     └─ a bad signature, a wrong version, any other message: refused

In `open`, pushes leave in the order of their seq, each once, none after its expiry. A push whose seq does not follow
the last one is not sent: the caller reads what is between from the outbox first, so that nothing is skipped. Before
the first push, what the till believes to be received and is not may be asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.messages import EpochRanges
from tillstream_protocol.signing import verify

from ..devices import Device

MAX_PUSH: Final = 2**53
MAX_RANGES: Final = messages.MAX_EPOCH_RANGES
"""In one message about what is missing; that makes it at most about 120 KiB."""
State = Literal["challenged", "presented", "open"]


class OutOfTurn(InvalidInput):
    """A message that has no place at this point of the session."""

    code = "out_of_turn"


class PushSession:
    """The server's side. `last_sent` is the highest push seq the till has, or has been sent."""

    def __init__(self, nonce: bytes, server_ms: int, revision: int = versions.REVISION) -> None:
        """`revision` is what both sides agreed on; what came later is neither sent nor taken."""
        self.revision = revision
        self.state: State = "challenged"
        self.last_sent = 0
        self.greeting = encode(messages.Challenge(nonce, server_ms))
        self._nonce = nonce
        self._pushed = False
        self._present: messages.Present | None = None
        self._device: Device | None = None

    def present(self, data: bytes) -> messages.Present:
        """The till's first message. Raises `InvalidInput`, `OutOfTurn` or `VersionMismatch`."""
        message = messages.decode_to_server(data)
        if self.state != "challenged" or not isinstance(message, messages.Present):
            raise OutOfTurn("the first message is a present, and the only one")
        versions.require_spoken(message.protocol)
        if message.last_push > MAX_PUSH:
            raise InvalidInput("no till has had that many pushes", field="last_push", limit=str(MAX_PUSH))
        self.state = "presented"
        self._present = message
        return message

    def admit(self, device: Device) -> None:
        """Open the session for the device that presented itself. Raises `BadSignature` or `OutOfTurn`."""
        present = self._present
        if self.state != "presented" or present is None:
            raise OutOfTurn("nobody has presented themself")
        if device.till_id != present.till_id:
            raise OutOfTurn("this device speaks for another till", field="till_id")
        verify(device.public_key, messages.challenge_bytes(self._nonce, present.till_id), present.signature)
        self.state = "open"
        self.last_sent = present.last_push
        self._device = device

    def ask_again(self, lacking: Sequence[EpochRanges]) -> list[bytes]:
        """What the server lacks of what the till believes it to hold, as messages; none where it lacks nothing.

        They come before any push, so that the till has it queued again before it hears of anything new. Raises
        `OutOfTurn`.
        """
        if self.state != "open" or self._pushed:
            raise OutOfTurn("what is missing is said right after a till was let in")
        return [encode(messages.Missing(epochs)) for epochs in _portions(lacking)]

    def receive(self, data: bytes) -> messages.Receipt | messages.Vitals:
        """What an admitted till says. Raises `InvalidInput`, `BadSignature` or `OutOfTurn`."""
        message = messages.decode_to_server(data)
        device = self._device
        if device is None or isinstance(message, messages.Present):
            raise OutOfTurn("a present has no place here")
        if isinstance(message, messages.Receipt):
            if message.seq > self.last_sent:
                raise OutOfTurn("a receipt for what was not sent", field="seq", limit=str(self.last_sent))
            return message
        vitals = messages.open_heartbeat(message, device.public_key)
        if vitals.till_id != device.till_id:
            raise OutOfTurn("a heartbeat of another till", field="till_id")
        if vitals.settings is not None and self.revision < 1:
            raise OutOfTurn("this channel does not speak of settings", field="settings")
        return vitals

    def follows(self, pushes: Sequence[messages.Push]) -> bool:
        """Whether nothing can lie between what was sent and these."""
        expected = self.last_sent
        for push in pushes:
            if push.seq > expected + 1:
                return False
            expected = max(expected, push.seq)
        return True

    def send(self, push: messages.Push, now_ms: int) -> bytes | None:
        """The push as bytes, or None when it was sent before, is of no more use, or the till does not know its kind."""
        if self.state != "open" or push.seq <= self.last_sent:
            return None
        self.last_sent = push.seq
        self._pushed = True
        known = messages.since(push.body) <= self.revision
        return encode(push) if known and push.expires_ms > now_ms else None


def _portions(lacking: Sequence[EpochRanges]) -> Iterator[tuple[EpochRanges, ...]]:
    """The same in portions of at most `MAX_RANGES` ranges, an epoch with more of them in several."""
    portion: list[EpochRanges] = []
    room = MAX_RANGES
    for one in lacking:
        ranges = one.ranges
        while ranges:
            portion.append(EpochRanges(one.epoch, ranges[:room]))
            ranges, room = ranges[room:], room - len(ranges[:room])
            if room == 0 or len(portion) == messages.MAX_EPOCHS:
                yield tuple(portion)
                portion, room = [], MAX_RANGES
    if portion:
        yield tuple(portion)
