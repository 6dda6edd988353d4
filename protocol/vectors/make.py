"""Write the test vectors of SPEC.md beside this file, from fixed inputs: `python protocol/vectors/make.py`.

Bytes are in hexadecimal. Records are packed as zstd frames of one raw block, built by hand, because the output of a
compressor is not the same from version to version; any zstd frame opens alike.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

from msgspec.structs import replace
from nacl.public import PrivateKey

from tillstream_protocol.codec import encode
from tillstream_protocol.decisions import Budget, Campaign, Decision, offer_id
from tillstream_protocol.effects import Discount
from tillstream_protocol.events import (
    BasketChanged,
    MemberIdentified,
    Observation,
    OfferAnswered,
    OfferShown,
    Original,
    Record,
    RecordsLost,
    SurveyAnswer,
    WishListEntry,
)
from tillstream_protocol.facts import identification_occasion_key, sale_occasion_key
from tillstream_protocol.framing import ChunkHeader, ClearHeader, Entry, Footer, Place, Spend
from tillstream_protocol.messages import (
    Batch,
    BatchReply,
    Certificate,
    Challenge,
    DeadLetter,
    EnrolReply,
    EnrolRequest,
    EpochRanges,
    Hello,
    HookLatency,
    Introduction,
    Missing,
    OfferPush,
    Pace,
    PackPush,
    Present,
    Push,
    Range,
    Receipt,
    ReturnReply,
    ReturnRequest,
    Revoked,
    Rotate,
    RotateReply,
    RotateRequest,
    SettingsPush,
    Token,
    Vitals,
    challenge_bytes,
    introduction_bytes,
    proof_bytes,
    return_bytes,
    rotate_bytes,
    sign_certificate,
    sign_heartbeat,
)
from tillstream_protocol.pack import Lease, Pack, sign_pack
from tillstream_protocol.sealing import RecordSeal, key_id, seal_key
from tillstream_protocol.settings import Settings, SettingsReport, sign_settings
from tillstream_protocol.signing import SignKey, fingerprint, sign_request
from tillstream_protocol.transaction import (
    Customer,
    Identifier,
    Line,
    Moment,
    Source,
    Tender,
    Transaction,
)

FOLDER = Path(__file__).parent
WHEN = 1_767_349_800_000
"""2026-01-02T10:30:00Z"""


def fixed(name: str, size: int) -> bytes:
    """Bytes that stand for random ones."""
    return hashlib.shake_256(name.encode()).digest(size)


DEVICE = SignKey(fixed("device", 32))
NEXT_DEVICE = SignKey(fixed("next device", 32))
SERVER = SignKey(fixed("server", 32))
BOX_PRIVATE = fixed("box", 32)
ESCROW_PRIVATE = fixed("escrow", 32)
BOX_PUBLIC = bytes(PrivateKey(BOX_PRIVATE).public_key)
ESCROW_PUBLIC = bytes(PrivateKey(ESCROW_PRIVATE).public_key)
TILL = fixed("till", 16)
EPOCH = fixed("epoch", 16)
LEASE = fixed("lease", 16)
OFFER_KEY = fixed("offer key", 32)

CAMPAIGN = Campaign(
    id="coffee-10",
    version=1,
    name="Ten per cent off coffee",
    trigger="transaction",
    condition={"and": [{">=": [{"var": "sale.total"}, 1000]}, {"in": ["coffee", {"var": "sale.categories"}]}]},
    effects=(Discount(text="10 % off your next coffee", basis_points=1000),),
    budget=Budget(units=1000, lease=50),
)
SALE = Transaction(
    source=Source(system="example-pos"),
    kind="sale",
    pos_id="1001",
    business_date="2026-01-02",
    end=Moment(at=WHEN, offset_minutes=60, offset_from="explicit"),
    currency="EUR",
    total=1234,
    retailer="r1",
    store="s1",
    till="t1",
    lines=(Line(seq=1, amount=1234, quantity="2", sku="A1", hierarchy=("coffee",)),),
    tenders=(Tender(type="cash", amount=1234),),
    customer=Customer(identifiers=(Identifier(scheme="loyalty", value="4711"),)),
)
PERSON = (Identifier(scheme="loyalty", value="4711"),)
IDENTIFIED = MemberIdentified(identifiers=PERSON, event_id="e-1", basket="b-1")
OFFER = offer_id(CAMPAIGN, sale_occasion_key(SALE), OFFER_KEY)
DECISION = Decision(
    offer_id=OFFER,
    campaign="coffee-10",
    campaign_version=1,
    outcome="offered",
    decided_at="edge",
    decided_ms=WHEN,
    expires_ms=WHEN + 86_400_000,
    lease=LEASE,
    effects=CAMPAIGN.effects,
)


def of_basket(body: BasketChanged | Observation | SurveyAnswer | WishListEntry, captured_at: int) -> Record:
    """A record of version 2."""
    return Record(body=body, captured_at=captured_at, version=2, basket=fixed("basket", 16))


RECORDS = {
    "transaction": Record(body=SALE, captured_at=WHEN, decisions=(DECISION,), pack=7, reconciles=True),
    "member_identified": Record(body=IDENTIFIED, captured_at=WHEN + 1),
    "offer_shown": Record(body=OfferShown(offer_id=OFFER, campaign="coffee-10"), captured_at=WHEN + 2),
    "offer_answered": Record(
        body=OfferAnswered(offer_id=OFFER, campaign="coffee-10", answer="accepted"),
        captured_at=WHEN + 3,
        clock_trusted=False,
        redactions=1,
        original=Original("text/plain", hashlib.sha256(b"yes").digest(), b"yes"),
    ),
    "records_lost": Record(
        body=RecordsLost(epoch=fixed("parent", 16), first=39, last=40, chunk=2, reason="damaged_frame"),
        captured_at=WHEN + 4,
    ),
    "basket_changed": of_basket(BasketChanged("b-1", "suspended", 2, 1234, "EUR", PERSON), WHEN + 5),
    "observation": of_basket(Observation("other_bags", "two of them", "e-2", "b-1", PERSON, WHEN), WHEN + 6),
    "survey_answer": of_basket(SurveyAnswer("nps", "9", "", OFFER, "e-3", "b-1"), WHEN + 7),
    "wish_list_entry": of_basket(WishListEntry("A2", "in blue", "e-4", "b-1", PERSON), WHEN + 8),
}


def stored(plain: bytes) -> bytes:
    """A zstd frame (RFC 8878) of one raw block: magic, descriptor, content size, block header, the bytes."""
    size = b"\x20" + bytes([len(plain)]) if len(plain) < 256 else b"\x60" + (len(plain) - 256).to_bytes(2, "little")
    return bytes.fromhex("28b52ffd") + size + (len(plain) << 3 | 1).to_bytes(3, "little") + plain


def chunk() -> dict[str, object]:
    """A whole closed chunk: header twice, five frames, footer; and the keys that open it."""
    data_key = fixed("data key", 32)
    header = ChunkHeader(
        till=TILL,
        epoch=EPOCH,
        chunk=3,
        parent=fixed("parent", 16),
        parent_position=41,
        first_seq=100,
        created=WHEN,
        device_key_id=DEVICE.key_id,
        server_key_id=key_id(BOX_PUBLIC),
        server_sealed_key=seal_key(data_key, BOX_PUBLIC, fixed("ephemeral 1", 32)),
        escrow_key_id=key_id(ESCROW_PUBLIC),
        escrow_sealed_key=seal_key(data_key, ESCROW_PUBLIC, fixed("ephemeral 2", 32)),
    )
    seal, place, previous = RecordSeal(data_key, limit=1 << 20), Place(TILL, EPOCH, 3), bytes(16)
    frames, entries, whole = [], [], header.encode(DEVICE) * 2
    first_version = [(kind, record) for kind, record in RECORDS.items() if record.version == 1]
    for index, (kind, record) in enumerate(first_version):
        spends = (Spend(LEASE, 1),) if kind == "transaction" else ()
        tag = fixed(f"tag {index}", 16) if index < 2 else bytes(16)
        packed, nonce = stored(encode(record)), fixed(f"nonce {index}", 24)
        clear = ClearHeader(100 + index, index + 1, tag, previous, spends).encode(len(packed) + 16)
        sealed = seal.seal(packed, place.associated_data(clear), nonce)
        body = clear + nonce + sealed
        frame = body + zlib.crc32(body).to_bytes(4, "big")
        frames.append(
            {"record": kind, "seq": 100 + index, "kind": index + 1, "clear": clear.hex(), "bytes": frame.hex()}
        )
        entries.append(Entry(tag, spends))
        whole, previous = whole + frame, sealed[-16:]
    footer = Footer(100, tuple(entries)).encode()
    return {
        "device_public_key": DEVICE.public.hex(),
        "server_box_private_key": BOX_PRIVATE.hex(),
        "escrow_private_key": ESCROW_PRIVATE.hex(),
        "data_key": data_key.hex(),
        "till": TILL.hex(),
        "epoch": EPOCH.hex(),
        "chunk": 3,
        "header": header.encode(DEVICE).hex(),
        "frames": frames,
        "footer": footer.hex(),
        "bytes": (whole + footer).hex(),
    }


def signature() -> dict[str, object]:
    """A signed request, as in RFC 9421."""
    body = b"hello"
    return {
        "seed": fixed("device", 32).hex(),
        "public_key": DEVICE.public.hex(),
        "key_id": DEVICE.key_id.hex(),
        "method": "POST",
        "path": "/till/v1/batches",
        "body": body.hex(),
        "created": WHEN // 1000,
        "headers": sign_request(DEVICE, "POST", "/till/v1/batches", body, created=WHEN // 1000),
    }


def records() -> dict[str, str]:
    """The plain bytes of each kind of record."""
    return {kind: encode(record).hex() for kind, record in RECORDS.items()}


def messages() -> dict[str, object]:
    """Each message, and the token in its text form."""
    nonce, secret = fixed("nonce", 16), fixed("secret", 16)
    keys = (SERVER.public, BOX_PUBLIC, ESCROW_PUBLIC)
    pack = sign_pack(
        Pack(
            version=7,
            retailer="r1",
            store="s1",
            till=TILL,
            issued_ms=WHEN,
            expires_ms=WHEN + 86_400_000,
            campaigns=(CAMPAIGN,),
            leases=(Lease(LEASE, "coffee-10", 50),),
            offer_key=OFFER_KEY,
            box_public_key=BOX_PUBLIC,
            escrow_public_key=ESCROW_PUBLIC,
        ),
        SERVER,
    )
    certificate = sign_certificate(Certificate(TILL, "r1", "s1", "t1", DEVICE.public, WHEN), SERVER)
    held = (EpochRanges(EPOCH, (Range(0, 41), Range(100, 103))),)
    vitals = Vitals(TILL, EPOCH, 104, 4, 250, HookLatency(120, 800, 1500, 40), 10**10, WHEN, "0.1.0", "", 1, 0)
    offer = OfferPush(DECISION, EPOCH, 100, "b-1")
    settings = sign_settings(Settings(9, TILL, WHEN, {"display.language": "de", "sync.heartbeat_s": "30"}), SERVER)
    made: dict[str, object] = {
        "Hello": Hello(nonce, 1),
        "Introduction": Introduction(*keys, 1, 1, SERVER.sign(introduction_bytes(nonce, *keys, 1, 1))),
        "EnrolRequest": EnrolRequest(
            secret, DEVICE.public, DEVICE.sign(proof_bytes(secret, DEVICE.public)), 1, "0.1.0", "linux"
        ),
        "EnrolReply": EnrolReply(TILL, "r1", "s1", "t1", "EUR", pack, certificate),
        "ReturnRequest": ReturnRequest(certificate, DEVICE.sign(return_bytes(certificate.payload))),
        "ReturnReply": ReturnReply("t1"),
        "Batch": Batch(fixed("header", 512), fixed("frames", 96), "backlog"),
        "BatchReply": BatchReply(
            EPOCH, (Range(100, 103),), 1, (DeadLetter(102, "invalid_input", "why"),), Pace(262_144, 0), WHEN
        ),
        "Challenge": Challenge(nonce, WHEN),
        "Present": Present(TILL, DEVICE.key_id, DEVICE.sign(challenge_bytes(nonce, TILL)), 1, "0.1.0", 12, 7, held),
        "Missing": Missing((EpochRanges(EPOCH, (Range(100, 101),)),)),
        "Push/offer": Push(13, WHEN + 60_000, offer),
        "Push/pack": Push(14, WHEN + 60_000, PackPush(pack)),
        "Push/revoked": Push(15, WHEN + 60_000, Revoked("stolen")),
        "Push/settings": Push(16, WHEN + 60_000, SettingsPush(settings)),
        "Push/rotate": Push(17, WHEN + 60_000, Rotate("by head office")),
        "RotateRequest": RotateRequest(
            NEXT_DEVICE.public, NEXT_DEVICE.sign(rotate_bytes(TILL, DEVICE.public, NEXT_DEVICE.public))
        ),
        "RotateReply": RotateReply(
            sign_certificate(Certificate(TILL, "r1", "s1", "t1", NEXT_DEVICE.public, WHEN + 1000), SERVER)
        ),
        "Vitals/settings": replace(vitals, settings=SettingsReport(8, 9, "rolled_back", "capture: journal_full")),
        "Receipt": Receipt(15),
        "Vitals": vitals,
        "Heartbeat": sign_heartbeat(vitals, DEVICE),
    }
    return {
        "server_public_key": SERVER.public.hex(),
        "device_public_key": DEVICE.public.hex(),
        "nonce": nonce.hex(),
        "till": TILL.hex(),
        "token": {
            "secret": secret.hex(),
            "fingerprint": fingerprint(SERVER.public).hex(),
            "text": Token(secret, fingerprint(SERVER.public)).text(),
        },
        "messages": {name: encode(message).hex() for name, message in made.items()},
    }


def offers() -> dict[str, object]:
    """How an offer is named: by its campaign and its occasion."""
    sale, identified = sale_occasion_key(SALE), identification_occasion_key(IDENTIFIED, TILL)
    return {
        "campaign": "coffee-10",
        "till": TILL.hex(),
        "offer_key": OFFER_KEY.hex(),
        "occasions": [
            {"of": "sale", "key": sale.hex(), "offer_id": offer_id(CAMPAIGN, sale, OFFER_KEY).hex()},
            {
                "of": "identification",
                "key": identified.hex(),
                "offer_id": offer_id(CAMPAIGN, identified, OFFER_KEY).hex(),
            },
        ],
    }


def rules() -> list[dict[str, object]]:
    """Conditions, facts, and what the conditions give; null is unknown."""
    total, known, skus = {"var": "sale.total"}, {"var": "member.known"}, {"var": "sale.skus"}
    unknown = {"==": [{"var": "member.visits"}, 3]}
    facts = {"sale.total": 1234, "member.known": False, "sale.skus": ["A1", "B2"], "sale.kind": "sale"}
    table: list[tuple[object, bool | None]] = [
        ({">=": [total, 1000]}, True),
        ({"<": [1000, total, 1234]}, False),
        ({"<=": [1000, total, 1234]}, True),
        ({"in": ["A1", skus]}, True),
        ({"in": [{"var": "sale.kind"}, ["sale", "return"]]}, True),
        ({"!": [known]}, True),
        (unknown, None),
        ({"!": [unknown]}, None),
        ({"and": [unknown, known]}, False),
        ({"and": [unknown, True]}, None),
        ({"or": [unknown, True]}, True),
        ({"or": [unknown, known]}, None),
        ({"<": [{"var": "member.visits"}, 5, 4]}, False),
        ({"==": [{"*": [{"-": [total, 234]}, 2]}, {"+": [total, 766]}]}, True),
    ]
    return [{"condition": condition, "facts": facts, "gives": gives} for condition, gives in table]


def documents() -> dict[str, object]:
    """Every file by its name."""
    return {
        "chunk.json": chunk(),
        "messages.json": messages(),
        "offers.json": offers(),
        "records.json": records(),
        "rules.json": rules(),
        "signature.json": signature(),
    }


def render(document: object) -> str:
    """A document as it is committed."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, document in documents().items():
        (FOLDER / name).write_text(render(document), encoding="utf-8")
