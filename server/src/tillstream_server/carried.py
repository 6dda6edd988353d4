"""The file in which an agent's queue is carried here by hand: `tillstream-agent queue export` makes it.

    magic "TSEXPRT1"   ·   for each batch: length (4 bytes, big-endian), the batch as it would have been sent

Records stay sealed as they lie on the till's disk, and each chunk's header is signed by the till's device, so the file
needs no trust on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from tillstream_protocol.errors import Damaged
from tillstream_protocol.limits import DEFAULT

MAGIC: Final = b"TSEXPRT1"
_LENGTH: Final = 4


class DamagedExport(Damaged):
    """A file that is no export, or not a whole one."""

    code = "damaged_export"


def read(file: BinaryIO) -> Iterator[bytes]:
    """The batches of an export, encoded, one after the other. Raises `DamagedExport` at the place that is wrong."""
    if file.read(len(MAGIC)) != MAGIC:
        raise DamagedExport(
            "this file is no export of a till's queue", field="file", hint="make one: tillstream-agent queue export"
        )
    place = len(MAGIC)
    while head := file.read(_LENGTH):
        size = int.from_bytes(head, "big")
        data = file.read(size) if len(head) == _LENGTH and 0 < size <= DEFAULT.batch_body else b""
        if not data or len(data) != size:
            raise DamagedExport(
                f"the export is cut off or damaged at byte {place}", field="file", hint="export the queue again"
            )
        yield data
        place += _LENGTH + size


def grouped(batches: Iterable[bytes], size: int) -> Iterator[tuple[bytes, ...]]:
    """Batches in groups of up to so many bytes; one that is larger is a group of its own."""
    group: list[bytes] = []
    held = 0
    for batch in batches:
        if group and held + len(batch) > size:
            yield tuple(group)
            group, held = [], 0
        group.append(batch)
        held += len(batch)
    if group:
        yield tuple(group)
