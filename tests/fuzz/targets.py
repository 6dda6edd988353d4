"""What is fuzzed: every place that reads bytes which somebody else may have written.

A target takes any bytes. It raises `AssertionError` for what must never be, and lets every error through that is not
one of ours: a reader refuses by name, or takes what it can answer for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, cast

from nacl.public import PrivateKey

from tillstream_agent.hooks.requests import Call
from tillstream_agent.hooks.socket import Borders
from tillstream_agent.sync.push import PushSession as TillSession
from tillstream_agent.sync.push import Requeue
from tillstream_protocol import messages
from tillstream_protocol.codec import encode, json_decoder, msgpack_decoder
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.events import MemberIdentified, Record
from tillstream_protocol.framing import (
    FRAMES_START,
    HEADER_SIZE,
    NO_TAG,
    ChunkHeader,
    ClearHeader,
    Footer,
    Frame,
    Gap,
    Place,
    measure_frame,
    open_frame,
    read_footer,
    read_frame,
    scan,
    seal_frame,
    verify_header,
)
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.ranges import covers
from tillstream_protocol.redaction import cut_cards
from tillstream_protocol.sealing import RecordSeal
from tillstream_protocol.signing import BadSignature, SignKey
from tillstream_protocol.transaction import Transaction, check, idempotency_key, reconcile
from tillstream_server.devices import Device
from tillstream_server.gateway.session import PushSession as ServerSession
from tillstream_server.keys import create
from tillstream_server.pipeline.opening import Opened, OpenedBatch, Opener, Refused

Target = Callable[[bytes], None]
VECTORS: Final = Path(__file__).parents[2] / "protocol" / "vectors"
NOW_MS: Final = 1_767_349_800_000


@dataclass(frozen=True, slots=True)
class Known:
    """The chunk of the test vectors, and who wrote it: what is genuine, so that everything else is not."""

    chunk: bytes
    header: bytes
    place: Place
    seal: RecordSeal
    device_public: bytes
    plains: frozenset[bytes]


@cache
def known() -> Known:
    """The genuine chunk."""
    v = json.loads((VECTORS / "chunk.json").read_text(encoding="utf-8"))
    plains = json.loads((VECTORS / "records.json").read_text(encoding="utf-8"))
    return Known(
        chunk=bytes.fromhex(v["bytes"]),
        header=bytes.fromhex(v["header"]),
        place=Place(bytes.fromhex(v["till"]), bytes.fromhex(v["epoch"]), v["chunk"]),
        seal=RecordSeal(bytes.fromhex(v["data_key"]), limit=DEFAULT.record),
        device_public=bytes.fromhex(v["device_public_key"]),
        plains=frozenset(map(bytes.fromhex, plains.values())),
    )


def frames(data: bytes) -> None:
    """A scan tiles its input, finds the same frames as a look at each place, and opens only what was sealed."""
    position = 0
    for part in scan(data):
        assert part.start == position < part.end <= len(data), "a scan leaves nothing out and counts nothing twice"
        position = part.end
        if isinstance(part, Frame):
            assert read_frame(data, part.start) == part
            assert measure_frame(data, part.start) == (part.end, part.header.seq)
            _open(part)
        else:
            assert isinstance(part, Gap)
    rest = data[position:]
    assert not rest or read_footer(rest) is not None, "only a footer ends a scan early"


def _open(frame: Frame) -> None:
    try:
        plain = open_frame(known().seal, known().place, frame)
    except TillstreamError:
        return
    assert plain in known().plains, "a record opened that nobody sealed"


def headers(data: bytes) -> None:
    """A header reads as it was written, and is the device's only if it is the genuine one; a footer likewise."""
    try:
        _, encoded = ChunkHeader.read(data[:FRAMES_START])
    except TillstreamError:
        pass
    else:
        assert encoded in (data[:HEADER_SIZE], data[HEADER_SIZE:FRAMES_START])
        try:
            verify_header(encoded, known().device_public)
        except BadSignature:
            pass
        else:
            assert encoded[:336] == known().header[:336], "a header passes for the device's that it never signed"
    footer = read_footer(data)
    if footer is not None:
        assert Footer(footer.first_seq, footer.entries).encode() == data


@cache
def _intake() -> tuple[Opener, Device, ChunkHeader]:
    v = json.loads((VECTORS / "chunk.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        made, _ = create(Path(folder) / "keys", lambda size: b"\x07" * size)
    box = bytes.fromhex(v["server_box_private_key"])
    keys = replace(made, box_private=box, box_public=bytes(PrivateKey(box).public_key))
    header = ChunkHeader.decode(known().header)
    device = Device(header.till, "r1", "s1", "t1", header.device_key_id, known().device_public, False, "EUR")
    return Opener(keys, DEFAULT), device, header


def batches(data: bytes) -> None:
    """A batch from the network is read within its bounds; what its frames hold is taken or refused one by one."""
    try:
        batch = messages.decode_batch(data)
    except TillstreamError:
        batch = messages.Batch(known().header, data)
    opener, device, header = _intake()
    try:
        opened = opener.open(device, header, batch)
    except TillstreamError:
        return
    _account_for(opened)


def records(data: bytes) -> None:
    """What a till of ours sealed, nonsense included, is taken or refused by name, whatever the kind it came under."""
    opener, device, header = _intake()
    kind = data[0] if data else 0
    frame = seal_frame(known().seal, known().place, ClearHeader(100, kind, NO_TAG, NO_TAG), data[1:], bytes(24))
    _account_for(opener.open(device, header, messages.Batch(known().header, frame)))


def _account_for(opened: OpenedBatch) -> None:
    assert len(opened.items) == len(opened.frames)
    for frame, item in zip(opened.frames, opened.items, strict=True):
        assert item.seq == frame.header.seq
        if isinstance(item, Refused):
            assert item.code
            assert len(item.reason) <= 300
        else:
            assert isinstance(item, Opened)
            assert msgpack_decoder(Record, limit=DEFAULT.record)(encode(item.record)) == item.record


_FROM_POS: Final = (
    json_decoder(Transaction, limit=DEFAULT.hook_body),
    msgpack_decoder(Transaction, limit=DEFAULT.hook_body),
    json_decoder(MemberIdentified, limit=DEFAULT.hook_body),
    msgpack_decoder(cast("type[Call]", Call), limit=DEFAULT.hook_body),
)


def hooks(data: bytes) -> None:
    """What a POS sends is refused by name, or is one transaction with every card number cut, and cut only once."""
    for decode in _FROM_POS:
        try:
            body: object = decode(data)
        except TillstreamError:
            continue
        if isinstance(body, Transaction):
            _captured(body)
    _cut_apart(data)


def _captured(body: Transaction) -> None:
    try:
        check(body)
    except TillstreamError:
        return
    cut, _ = cut_cards(body, encode(body))
    again, more = cut_cards(cut, encode(cut))
    assert (again, more) == (cut, 0), "a card number was left"
    assert reconcile(cut) in (True, False, None)
    assert all(isinstance(part, str) for part in idempotency_key(cut))


def _cut_apart(data: bytes) -> None:
    """However the bytes of a stream arrive, the same messages come out of it."""
    outcomes = []
    for size in (len(data) or 1, 7):
        stream, found = Borders(DEFAULT.hook_body), list[bytes]()
        try:
            for start in range(0, len(data), size):
                found.extend(stream.feed(data[start : start + size]))
        except TillstreamError:
            found.append(b"refused")
        outcomes.append(found)
    assert outcomes[0] == outcomes[1]
    assert data.startswith(b"".join(part for part in outcomes[0] if part != b"refused"))


def pushes(data: bytes) -> None:
    """Neither side of the push channel is upset by what the other says, nor sends again what it never claimed."""
    claim = (messages.EpochRanges(known().place.epoch, (messages.Range(0, 41), messages.Range(100, 103))),)
    till = TillSession(
        till_id=known().place.till,
        device=SignKey(bytes(32)),
        agent_version="1",
        last_push=12,
        pack_version=7,
        claim=lambda: claim,
    )
    for message in (encode(messages.Challenge(bytes(16), NOW_MS)), data, data):
        step = _ours(till.receive, message, NOW_MS)
        if isinstance(step, Requeue):
            assert all(one.epoch == claim[0].epoch for one in step.missing)
            assert all(covers(claim[0].ranges, part) for one in step.missing for part in one.ranges)
    server = ServerSession(bytes(16), NOW_MS)
    _ours(server.present, data)
    _ours(server.receive, data)
    assert server.state != "open", "a till is let in without its signature"


def _ours(call: Callable[..., object], *given: object) -> object:
    try:
        return call(*given)
    except TillstreamError:
        return None


TARGETS: Final[Mapping[str, Target]] = {
    "frames": frames,
    "headers": headers,
    "batches": batches,
    "records": records,
    "hooks": hooks,
    "pushes": pushes,
}
