"""What tills and server say to each other: enrolment, batches, and the push channel. All of it is msgpack.

Ids are bytes: till, epoch and offer 16, keys 32, key ids 8. Times are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from msgspec import Meta, Struct

from .codec import encode, message_decoder
from .decisions import Decision
from .errors import InvalidInput
from .framing import HEADER_SIZE
from .limits import DEFAULT, MAX_LONG_TEXT, MAX_SHORT, MAX_TEXT
from .pack import MAX_PACK, SignedPack
from .settings import SettingsReport, SignedSettings
from .signing import SignKey, from_text, to_text, verify
from .transaction import Count, InstantMs

CONTENT_TYPE = "application/msgpack"

Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
KeyId = Annotated[bytes, Meta(min_length=8, max_length=8)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
SignatureBytes = Annotated[bytes, Meta(min_length=64, max_length=64)]
Seq = Count
Name = Annotated[str, Meta(min_length=1, max_length=MAX_SHORT)]
Short = Annotated[str, Meta(max_length=MAX_TEXT)]
MAX_EPOCHS = 1_000
MAX_EPOCH_RANGES = 5_000


# Enrolment


class Token(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An enrolment token: a secret, and the fingerprint of the server's key, so that the agent knows whom it joins."""

    secret: Id16
    fingerprint: Id16

    def text(self) -> str:
        """The token as people carry it."""
        return "ts1." + to_text(self.secret + self.fingerprint)

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token. Raises `InvalidInput`."""
        prefix, _, value = text.strip().partition(".")
        data = from_text(value) if prefix == "ts1" else b""
        if len(data) != 32:
            raise InvalidInput("this is not an enrolment token", field="token", hint="it begins with ts1.")
        return cls(data[:16], data[16:])


class Introduction(Struct, frozen=True, forbid_unknown_fields=True):
    """The server's answer to `POST /till/v1/hello`: its keys, signed together with the agent's nonce."""

    server_public_key: Key
    box_public_key: Key
    escrow_public_key: Key
    protocol_from: Count
    protocol_to: Count
    signature: SignatureBytes


class Hello(Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent sends first: a nonce, so that an old introduction cannot be played to it."""

    nonce: Id16
    protocol: Count


class EnrolRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Joins a till. `proof` is the new device's signature over the token's secret."""

    secret: Id16
    device_public_key: Key
    proof: SignatureBytes
    protocol: Count
    agent_version: Short
    platform: Short


class Certificate(Struct, frozen=True, forbid_unknown_fields=True):
    """That a device speaks for a till: the server's own word, by which it knows the till again after a restore."""

    till_id: Id16
    retailer: Name
    store: Name
    till: Name
    device_public_key: Key
    issued_ms: InstantMs


class SignedCertificate(Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate's bytes and the server's signature over them."""

    payload: Annotated[bytes, Meta(max_length=1024)]
    signature: SignatureBytes


class ReturnRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A till that the server has forgotten asks to be taken back. `proof` is its device's signature."""

    certificate: SignedCertificate
    proof: SignatureBytes


class ReturnReply(Struct, frozen=True, forbid_unknown_fields=True):
    """The till is known again, under this name."""

    till: Name


class RotateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A till takes another device key; the former one signs the request. `proof` is the new device's signature."""

    device_public_key: Key
    proof: SignatureBytes


class RotateReply(Struct, frozen=True, forbid_unknown_fields=True):
    """The server's word that the new device speaks for the till."""

    certificate: SignedCertificate


class EnrolReply(Struct, frozen=True, forbid_unknown_fields=True):
    """Who the agent now is."""

    till_id: Id16
    retailer: Name
    store: Name
    till: Name
    currency: Annotated[str, Meta(min_length=3, max_length=3)]
    pack: SignedPack
    certificate: SignedCertificate


def introduction_bytes(
    nonce: bytes, server: bytes, box: bytes, escrow: bytes, protocol_from: int, protocol_to: int
) -> bytes:
    """What the server signs to introduce itself."""
    spoken = protocol_from.to_bytes(8, "big") + protocol_to.to_bytes(8, "big")
    return b"tillstream-hello-1" + nonce + server + box + escrow + spoken


def proof_bytes(secret: bytes, device_public_key: bytes) -> bytes:
    """What a new device signs to show that it holds its key."""
    return b"tillstream-enrol-1" + secret + device_public_key


def rotate_bytes(till_id: bytes, former_public_key: bytes, device_public_key: bytes) -> bytes:
    """What a till's next device signs to take the former one's place."""
    return b"tillstream-rotate-1" + till_id + former_public_key + device_public_key


# Batches


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Consecutive frames of one chunk, as they lie on disk; none, to tell of an epoch that holds no record."""

    header: Annotated[bytes, Meta(min_length=HEADER_SIZE, max_length=HEADER_SIZE)]
    frames: bytes
    lane: Literal["live", "backlog"] = "live"


class Range(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Seqs from `first` to `last`, both included."""

    first: Seq
    last: Seq


class DeadLetter(Struct, frozen=True, forbid_unknown_fields=True):
    """A record that was received but could not be taken, and why."""

    seq: Seq
    code: Short
    reason: Annotated[str, Meta(max_length=MAX_LONG_TEXT)]


class Pace(Struct, frozen=True, forbid_unknown_fields=True):
    """How fast to go on: the size of the next batch, and the pause before it."""

    max_bytes: Annotated[int, Meta(ge=1024, le=2**31)]
    pause_ms: Annotated[int, Meta(ge=0, le=3_600_000)]


class BatchReply(Struct, frozen=True, forbid_unknown_fields=True):
    """What the server holds durably now. Dead letters are acknowledged too: they are the server's to keep."""

    epoch: Id16
    acked: tuple[Range, ...]
    repeated: Count
    dead: tuple[DeadLetter, ...]
    pace: Pace
    server_ms: InstantMs


class EpochRanges(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Ranges of seq in one epoch."""

    epoch: Id16
    ranges: Annotated[tuple[Range, ...], Meta(max_length=MAX_EPOCH_RANGES)]


# The push channel


class Challenge(Struct, frozen=True, forbid_unknown_fields=True, tag="challenge"):
    """Server → till, first: a nonce to sign, so that no clock is needed to know who calls."""

    nonce: Id16
    server_ms: InstantMs


class Present(Struct, frozen=True, forbid_unknown_fields=True, tag="present"):
    """Till → server, the answer. `last_push` is the highest push seq that the till holds durably.

    `acked` is what the till believes the server to hold, of the epochs that it still has chunks of.
    """

    till_id: Id16
    device_key_id: KeyId
    signature: SignatureBytes
    protocol: Count
    agent_version: Short
    last_push: Seq
    pack_version: Seq
    acked: Annotated[tuple[EpochRanges, ...], Meta(max_length=MAX_EPOCHS)] = ()


class Missing(Struct, frozen=True, forbid_unknown_fields=True, tag="missing"):
    """Server → till, after admission: what of `acked` it does not hold. The till sends it again, if it still can."""

    epochs: Annotated[tuple[EpochRanges, ...], Meta(max_length=MAX_EPOCHS)]


class OfferPush(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="offer"):
    """An offer that the server decided. `epoch` and `seq` name the record that caused it."""

    decision: Decision
    epoch: Id16
    seq: Seq
    basket: Annotated[str, Meta(max_length=128)] = ""


class PackPush(Struct, frozen=True, forbid_unknown_fields=True, tag="pack"):
    """A newer pack."""

    pack: SignedPack


class Revoked(Struct, frozen=True, forbid_unknown_fields=True, tag="revoked"):
    """This till may no longer sync. Its queue stays where it is."""

    reason: Short


class SettingsPush(Struct, frozen=True, forbid_unknown_fields=True, tag="settings"):
    """Newer settings from head office. Since revision 1."""

    settings: SignedSettings


class Rotate(Struct, frozen=True, forbid_unknown_fields=True, tag="rotate"):
    """The till is to take another device key now. Since revision 1."""

    reason: Short


PushBody = OfferPush | PackPush | Revoked | SettingsPush | Rotate


def since(body: PushBody) -> int:
    """The revision that a receiver has to know to take this."""
    return 1 if isinstance(body, SettingsPush | Rotate) else 0


class Push(Struct, frozen=True, forbid_unknown_fields=True, tag="push"):
    """Server → till. `seq` grows by till; after `expires_ms` the message is of no use."""

    seq: Seq
    expires_ms: InstantMs
    body: PushBody


class Receipt(Struct, frozen=True, forbid_unknown_fields=True, tag="receipt"):
    """Till → server: every push up to `seq` is held durably or of no more use."""

    seq: Seq


class HookLatency(Struct, frozen=True, forbid_unknown_fields=True):
    """Quantiles of the hook's answer times since the last heartbeat, in microseconds."""

    p50: Count
    p99: Count
    max: Count
    count: Count


class Vitals(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="vitals"):
    """How a till is. `position` is the next seq of `epoch`: a signed high-water mark.

    `settings` is said since revision 1, and to a server that knows it.
    """

    till_id: Id16
    epoch: Id16
    position: Seq
    queued: Count
    oldest_queued_ms: Count
    """Age of the oldest record not yet acknowledged."""
    hook: HookLatency
    disk_free: Count
    clock_ms: InstantMs
    agent_version: Short
    last_error: Short
    dead_letters: Count
    """Records that the server has refused and the till keeps."""
    damaged_files: Count
    settings: SettingsReport | None = None


class Heartbeat(Struct, frozen=True, forbid_unknown_fields=True, tag="heartbeat"):
    """Till → server: encoded `Vitals` under the device's signature."""

    vitals: bytes
    signature: SignatureBytes


ToTill = Challenge | Push | Missing
ToServer = Present | Receipt | Heartbeat

decode_hello = message_decoder(Hello, limit=4096)
decode_introduction = message_decoder(Introduction, limit=4096)
decode_enrol_request = message_decoder(EnrolRequest, limit=4096)
decode_enrol_reply = message_decoder(EnrolReply, limit=MAX_PACK)
decode_return_request = message_decoder(ReturnRequest, limit=4096)
decode_return_reply = message_decoder(ReturnReply, limit=4096)
decode_rotate_request = message_decoder(RotateRequest, limit=4096)
decode_rotate_reply = message_decoder(RotateReply, limit=4096)
decode_batch = message_decoder(Batch, limit=DEFAULT.batch_body)
decode_batch_reply = message_decoder(BatchReply, limit=DEFAULT.batch_body)
decode_to_till: Callable[[bytes], ToTill] = message_decoder(cast("Any", ToTill), limit=MAX_PACK)
decode_to_server: Callable[[bytes], ToServer] = message_decoder(cast("Any", ToServer), limit=DEFAULT.push_message)
decode_vitals = message_decoder(Vitals, limit=DEFAULT.push_message)


_decode_certificate = message_decoder(Certificate, limit=4096)


def sign_certificate(certificate: Certificate, server: SignKey) -> SignedCertificate:
    """A certificate under the server's signature."""
    payload = encode(certificate)
    return SignedCertificate(payload, server.sign(b"tillstream-till-1" + payload))


def open_certificate(signed: SignedCertificate, server_public_key: bytes) -> Certificate:
    """The certificate, if the server signed it. Raises `BadSignature` or `InvalidInput`."""
    verify(server_public_key, b"tillstream-till-1" + signed.payload, signed.signature)
    return _decode_certificate(signed.payload)


def return_bytes(payload: bytes) -> bytes:
    """What a till's device signs, of its certificate's payload, to be taken back."""
    return b"tillstream-return-1" + payload


def challenge_bytes(nonce: bytes, till_id: bytes) -> bytes:
    """What a till signs to present itself."""
    return b"tillstream-push-1" + nonce + till_id


def sign_heartbeat(vitals: Vitals, device: SignKey) -> Heartbeat:
    """A till's vitals under its signature."""
    data = encode(vitals)
    return Heartbeat(data, device.sign(b"tillstream-vitals-1" + data))


def open_heartbeat(heartbeat: Heartbeat, device_public_key: bytes) -> Vitals:
    """The vitals, if the device signed them. Raises `BadSignature` or `InvalidInput`."""
    verify(device_public_key, b"tillstream-vitals-1" + heartbeat.vitals, heartbeat.signature)
    return decode_vitals(heartbeat.vitals)
