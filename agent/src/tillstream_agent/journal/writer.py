"""Opening chunks, sealing frames into them, and closing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tillstream_protocol.framing import (
    ChunkHeader,
    ClearHeader,
    Entry,
    Footer,
    Place,
    seal_frame,
)
from tillstream_protocol.limits import Limits
from tillstream_protocol.sealing import KEY_SIZE, NONCE_SIZE, TAG_SIZE, RecordSeal, key_id, seal_key
from tillstream_protocol.signing import SignKey

from .chunks import Chunk, OpenChunk, Unsynced, add_spends, file_name, pack_index
from .directory import Directory
from .disk import Disk
from .errors import translate

Randomness = Callable[[int], bytes]
_CRC_SIZE = 4


@dataclass(frozen=True, slots=True)
class JournalIdentity:
    """Who writes, and who may read: keys are 32 bytes, `till_id` 16."""

    till_id: bytes
    device: SignKey
    server_public: bytes
    escrow_public: bytes


@dataclass(frozen=True, slots=True)
class Lineage:
    """One epoch, and the place that it follows."""

    epoch: bytes
    parent: bytes
    parent_position: int


class ChunkWriter:
    """Writes the chunks of one epoch. Every frame names the tag of the one before it, also across chunks."""

    def __init__(
        self,
        disk: Disk,
        directory: Directory,
        identity: JournalIdentity,
        lineage: Lineage,
        randomness: Randomness,
        limits: Limits,
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._lineage = lineage
        self._random = randomness
        self._limits = limits
        self._previous = bytes(TAG_SIZE)

    def use_keys(self, server_public: bytes, escrow_public: bytes) -> bool:
        """Seal the chunks opened from now on to these. False if they are sealed to them already."""
        identity = replace(self._identity, server_public=server_public, escrow_public=escrow_public)
        changed = identity != self._identity
        self._identity = identity
        return changed

    def open(self, number: int, first_seq: int, *, created_ms: int, opened: float) -> OpenChunk:
        """Begin a chunk: its header twice. Raises `JournalError`; an unfinished file is removed.

        Neither the header nor the file's name is on the disk yet: no capture waits for that, but every sync does.
        """
        data_key = self._random(KEY_SIZE)
        header = self._header(data_key, number, first_seq, created_ms)
        encoded = header.encode(self._identity.device)
        name = file_name(number)
        try:
            file = self._disk.create(name)
        except OSError as error:
            raise translate(error, "a new chunk could not be created") from error
        try:
            file.write(encoded + encoded)
        except OSError as error:
            file.close()
            self._remove(name)
            raise translate(error, "a new chunk could not be begun") from error
        place = Place(header.till, header.epoch, number)
        seal = RecordSeal(data_key, limit=self._limits.record)
        chunk = Chunk(number, header, encoded, next_seq=first_seq, opened_at=opened)
        return OpenChunk(chunk, file, seal, place, self._directory.enter(number))

    def write(self, target: OpenChunk, seq: int, kind: int, entry: Entry, plain: bytes) -> int:
        """Seal one record, append it, and return the frame's size.

        Raises `TooLarge`, or `OSError` with an unknown part of it written.
        """
        header = ClearHeader(seq, kind, entry.tag, self._previous, entry.spends)
        frame = seal_frame(target.seal, target.place, header, plain, self._random(NONCE_SIZE))
        target.file.write(frame)
        target.changes += 1
        chunk = target.chunk
        chunk.size += len(frame)
        chunk.frames_end = chunk.size
        target.entries.append(entry)
        if entry.spends:
            add_spends(chunk.spends, entry)
        chunk.extend(seq)
        self._previous = frame[-TAG_SIZE - _CRC_SIZE : -_CRC_SIZE]
        target.unsynced.append(Unsynced(seq, kind, entry, plain))
        return len(frame)

    def finish(self, target: OpenChunk) -> None:
        """Append the footer, as far as there is room: a chunk without one is scanned at the next start.

        Only once all frames are on the disk. A power cut may keep a later write and take an earlier one, and a footer
        is believed about the frames before it.
        """
        chunk = target.chunk
        footer = Footer(chunk.header.first_seq, tuple(target.entries)).encode()
        try:
            target.file.write(footer)
            chunk.size += len(footer)
        except OSError:
            self.cut_back(target)
            index_in_mind(target)

    def cut_back(self, target: OpenChunk) -> bool:
        """Take back what a failed write left behind; False when that failed too."""
        try:
            target.file.cut(target.chunk.size)
        except OSError:
            return False
        target.changes += 1
        return True

    def _remove(self, name: str) -> None:
        try:
            self._disk.unlink(name)
        except OSError:
            return  # recovery sets a chunk without a whole header aside

    def _header(self, data_key: bytes, number: int, first_seq: int, created_ms: int) -> ChunkHeader:
        me, line = self._identity, self._lineage
        return ChunkHeader(
            till=me.till_id,
            epoch=line.epoch,
            chunk=number,
            parent=line.parent,
            parent_position=line.parent_position,
            first_seq=first_seq,
            created=max(0, created_ms),
            device_key_id=me.device.key_id,
            server_key_id=key_id(me.server_public),
            server_sealed_key=seal_key(data_key, me.server_public, self._random(KEY_SIZE)),
            escrow_key_id=key_id(me.escrow_public),
            escrow_sealed_key=seal_key(data_key, me.escrow_public, self._random(KEY_SIZE)),
        )


def index_in_mind(target: OpenChunk) -> None:
    """Keep a chunk's index in memory, because its file has none, or none that can be trusted."""
    chunk = target.chunk
    chunk.index = pack_index(enumerate(target.entries, chunk.header.first_seq))
