"""Making room for a POS's own bytes in a record: whole where they fit, compressed where they do not, and where not even
that helps their digest alone, so that no sale is refused for what it was read from.
"""

from __future__ import annotations

from typing import Final

import zstandard
from msgspec.structs import replace

from .errors import Damaged
from .events import Original
from .limits import MIB

_LEVEL: Final = 9
_MOST: Final = 16 * MIB
"""Bytes of an original: what an adapter looks at."""


def fitted(original: Original, room: int) -> Original:
    """The original in the form in which its `data` have at most `room` bytes. Its digest stays that of the whole."""
    if len(original.data) <= room:
        return original
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(original.data)
    if len(packed) <= room:
        return replace(original, data=packed, form="zstd")
    return replace(original, data=b"", form="left_out")


def unpacked(original: Original) -> Original:
    """The original whole again; one that was left out has no bytes. Raises `Damaged`."""
    if original.form != "zstd":
        return original
    try:
        size = zstandard.frame_content_size(original.data)
        if not 0 <= size <= _MOST:
            raise Damaged("the original states no size that it may have", field="original.data")
        data = zstandard.ZstdDecompressor().decompress(original.data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged("the original does not decompress", field="original.data") from error
    return replace(original, data=data, form="whole")
