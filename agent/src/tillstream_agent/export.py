"""Queued records as a file, for a server that they cannot be sent to: sealed as they are, so safe on a stick.

    "TSEXPRT1"   then, for each batch: length (4 bytes, big-endian), batch (msgpack, as it would travel)

`tillstream-server batch import` takes it. Exporting changes nothing: what was exported is sent again, and is a repeat.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.framing import FRAMES_START, ChunkHeader, DamagedChunk, Frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import Batch

from .folder import StateError
from .letters import Key
from .platforms import NEW_FILE

MAGIC: Final = b"TSEXPRT1"
_LENGTH: Final = 4


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written; `unreadable` counts files of the journal that could not be read."""

    records: int
    batches: int
    bytes: int
    unreadable: int


def export(journal: Path, wanted: Callable[[Key], bool], to: Path) -> Exported:
    """Write the wanted records of a journal's folder to a new file, which is there whole or not at all.

    An agent may be running on the folder meanwhile. Raises `InvalidInput` if the file exists, or `StateError`.
    """
    if to.exists():
        raise InvalidInput(f"{to} exists", field="file", hint="give the name of a file that does not")
    part = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(part, NEW_FILE, 0o600)
        with os.fdopen(handle, "wb") as stream:
            done = _write(journal, wanted, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.rename(to)
    except OSError as error:
        raise StateError(f"{to} cannot be written: {error.strerror}", hint="check room and rights there") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return done


def _write(journal: Path, wanted: Callable[[Key], bool], stream: BinaryIO) -> Exported:
    records = batches = unreadable = 0
    size = stream.write(MAGIC)
    for file in sorted(journal.glob("*.chunk")):
        try:
            data = _read_synced(file)
        except FileNotFoundError:
            continue  # it was acknowledged, and its time was over
        except OSError:
            unreadable += 1
            continue
        try:
            header, encoded = ChunkHeader.read(data[:FRAMES_START])
        except DamagedChunk:
            unreadable += 1
            continue
        for count, frames in _runs(data, header, wanted):
            batch = encode(Batch(encoded, frames, "backlog"))
            size += stream.write(len(batch).to_bytes(_LENGTH, "big") + batch)
            records += count
            batches += 1
    return Exported(records, batches, size, unreadable)


def _read_synced(file: Path) -> bytes:
    """What of a file is on the disk to stay: a server must not know a record that a power cut can take back."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        os.fsync(stream.fileno())
        return stream.read(size)


def _runs(data: bytes, header: ChunkHeader, wanted: Callable[[Key], bool]) -> Iterator[tuple[int, bytes]]:
    """Neighbouring wanted frames of a chunk, as many as are sent together: how many, and their bytes."""
    run: list[Frame] = []
    for part in scan(data, FRAMES_START):
        fits = isinstance(part, Frame) and wanted((header.epoch, part.header.seq))
        if run and (not fits or part.end - run[0].start > DEFAULT.batch):
            yield len(run), data[run[0].start : run[-1].end]
            run = []
        if fits and isinstance(part, Frame):
            run.append(part)
    if run:
        yield len(run), data[run[0].start : run[-1].end]
