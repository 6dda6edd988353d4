"""The inputs that fuzzing begins with: genuine bytes from the test vectors, and what earlier runs found worth keeping.

`corpus/TARGET.txt` holds one input a line, in hexadecimal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from tillstream_protocol.codec import record_decoder
from tillstream_protocol.framing import FRAMES_START

from .targets import VECTORS, known

KEPT: Final = Path(__file__).parent / "corpus"


def inputs(target: str) -> list[bytes]:
    """What to begin with, genuine inputs first."""
    return [*_genuine(target), *kept(target)]


def kept(target: str) -> list[bytes]:
    """What earlier runs found."""
    file = KEPT / f"{target}.txt"
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    return [bytes.fromhex(line) for line in lines]


def keep(target: str, found: Iterable[bytes], *, most: int = 200, longest: int = 2_000) -> int:
    """Keep short new inputs; how many there are now."""
    every = sorted(
        {*kept(target), *(data for data in found if len(data) <= longest)}, key=lambda data: (len(data), data)
    )
    chosen = every if len(every) <= most else every[:: len(every) // most + 1]
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{target}.txt").write_text("".join(f"{data.hex()}\n" for data in chosen), encoding="ascii")
    return len(chosen)


def _genuine(target: str) -> list[bytes]:
    chunk = known().chunk
    records = _read(_vector("records"))
    told = dict(zip(_vector("messages")["messages"], _read(_vector("messages")["messages"]), strict=True))
    footer = bytes.fromhex(_vector("chunk")["footer"])
    frames = chunk[FRAMES_START : -len(footer)]
    return {
        "frames": [chunk[FRAMES_START:], frames, frames[:200]],
        "headers": [chunk[:FRAMES_START], footer],
        "batches": [told["Batch"], msgspec.msgpack.encode({"header": known().header, "frames": frames}), frames],
        "records": [bytes([kind]) + plain for kind, plain in enumerate(records, 1)],
        "hooks": [*_from_pos(records), b'{"source":{"system":"x"},"note":"4111 1111 1111 1111"}'],
        "pushes": list(told.values()),
    }[target]


def _from_pos(records: list[bytes]) -> list[bytes]:
    bodies = [record_decoder(limit=1 << 20)(record).body for record in records[:2]]
    call = msgspec.msgpack.encode({"call": "transactions", "body": bodies[0]})
    return [msgspec.json.encode(bodies[0]), msgspec.msgpack.encode(bodies[0]), msgspec.json.encode(bodies[1]), call]


def _vector(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def _read(lines: dict[str, str]) -> list[bytes]:
    return [bytes.fromhex(line) for line in lines.values()]
