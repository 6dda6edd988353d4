"""What the server seals for a source: frames of the source's own till, under names that are given once.

An epoch is one run of the server, begun with the source's first delivery in it, and follows the epoch before as a
till's does: so nothing is numbered twice, whatever ended a run, and nothing looks like a clone. The next seq is read
from what has been received, since what was not committed was never named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from tillstream_protocol.errors import TooLarge
from tillstream_protocol.events import KIND_NUMBERS
from tillstream_protocol.framing import NO_EPOCH, NO_TAG, ChunkHeader, ClearHeader, Place, seal_frame
from tillstream_protocol.limits import Limits
from tillstream_protocol.messages import Batch
from tillstream_protocol.sealing import KEY_SIZE, NONCE_SIZE, RecordSeal, key_id, seal_key
from tillstream_protocol.transaction import Transaction

from ..clock import Clock
from ..keys import Randomness, ServerKeys
from ..ledger.lookup import rows_of

TRANSACTION: Final = KIND_NUMBERS[Transaction]
"""The kind that frames of sources have."""


class SourceJournal:
    """Seals for one source. One delivery at a time."""

    def __init__(self, till_id: bytes, keys: ServerKeys, clock: Clock, random: Randomness, limits: Limits) -> None:
        self._till_id = till_id
        self._keys = keys
        self._clock = clock
        self._random = random
        self._limits = limits
        self._chunk: _Chunk | None = None

    async def next_seq(self, conn: AsyncConnection) -> int:
        """The seq that is free, in this run's epoch, which begins with the first call."""
        if self._chunk is None:
            self._chunk = self._open(await self._header(conn))
        return await _end(conn, self._till_id, self._chunk.header.epoch)

    def seal(self, plain: Sequence[bytes], seq: int) -> Batch:
        """Records as a batch, from a seq on that `next_seq` gave. Raises `TooLarge`."""
        assert self._chunk is not None
        return self._sealed(self._chunk, plain, seq)

    def seal_again(self, header: ChunkHeader, plain: bytes, seq: int) -> Batch:
        """A better copy of what lies under a name already: the same epoch, another chunk, and so another key."""
        return self._sealed(self._open(header, chunk=header.chunk + 1), [plain], seq)

    def _sealed(self, chunk: _Chunk, plain: Sequence[bytes], seq: int) -> Batch:
        frames = bytearray()
        for number, one in enumerate(plain, seq):
            clear = ClearHeader(number, TRANSACTION, NO_TAG, NO_TAG)
            frames += seal_frame(chunk.seal, chunk.place, clear, one, self._random(NONCE_SIZE))
        if len(frames) > self._limits.batch_body:
            raise TooLarge("holds too much at once", field="body", limit=f"{self._limits.batch_body} bytes")
        return Batch(chunk.encoded, bytes(frames))

    async def _header(self, conn: AsyncConnection) -> ChunkHeader:
        rows = await rows_of(conn, _LAST_EPOCH, self._till_id)
        parent = bytes(rows[0][0]) if rows else NO_EPOCH
        position = await _end(conn, self._till_id, parent) if rows else 0
        return ChunkHeader(self._till_id, self._random(16), 0, parent, position, 0, 0, b"", b"", b"", b"", b"")

    def _open(self, header: ChunkHeader, chunk: int = 0) -> _Chunk:
        keys, data_key = self._keys, self._random(KEY_SIZE)
        device = keys.source_device(self._till_id)
        whole = ChunkHeader(
            till=self._till_id,
            epoch=header.epoch,
            chunk=chunk,
            parent=header.parent,
            parent_position=header.parent_position,
            first_seq=header.first_seq,
            created=self._clock.now_ms(),
            device_key_id=device.key_id,
            server_key_id=key_id(keys.box_public),
            server_sealed_key=seal_key(data_key, keys.box_public, self._random(KEY_SIZE)),
            escrow_key_id=key_id(keys.escrow_public),
            escrow_sealed_key=seal_key(data_key, keys.escrow_public, self._random(KEY_SIZE)),
        )
        return _Chunk(whole, whole.encode(device), RecordSeal(data_key, limit=self._limits.record))


class _Chunk:
    def __init__(self, header: ChunkHeader, encoded: bytes, seal: RecordSeal) -> None:
        self.header = header
        self.encoded = encoded
        self.seal = seal
        self.place = Place(header.till, header.epoch, header.chunk)


async def _end(conn: AsyncConnection, till_id: bytes, epoch: bytes) -> int:
    ((last,),) = await rows_of(
        conn, "SELECT MAX(last_seq) FROM received WHERE till_id = ? AND epoch = ?", till_id, epoch
    )
    return 0 if last is None else last + 1


_LAST_EPOCH: Final = "SELECT epoch FROM epoch WHERE till_id = ? ORDER BY rowid DESC LIMIT 1"
