"""The till's append-only sealed queue.

Layout: a folder of chunks, `0000000001.chunk` and on, numbered in the order in which they were opened; what lies in
one is defined by `tillstream_protocol.framing`. No in-place update, no memory map, no file beside them that has to
agree with them.

What holds, always:

1. A record is named by (epoch, seq) for ever. An epoch is one run of the agent, so no counter is ever recovered.
2. `append` returns after `write()` did: the record survives the process (`os`). `synced` returns after `fdatasync`
   did, at most 20 ms later: it survives a power cut (`disk`). Nothing is acknowledged that was not written.
3. Only synced frames are uploaded, so the server never knows a record that a power cut can take back.
4. Until it is synced, a record also stays in memory. A file whose sync failed is never trusted again: what was not
   synced in it is sealed anew, under its own name, into a new chunk.
5. A failed write leaves no frame behind and uses no name up; where that cannot be had, the name is given up.
6. What must be known after a restart (which sales were seen, what was spent of a lease) is read from clear headers:
   from footers where there is one, by a scan where there is none. The records themselves cannot be read here.
7. Opening always succeeds. A torn tail is cut, damage is stepped over and reported, an unreadable file is set aside.
8. A chunk's data key exists in memory while the chunk is open, and nowhere after.
"""

from .disk import Disk, File, FolderDisk
from .errors import JournalError, JournalFull
from .journal import Journal, Name, Seen, Settled
from .observer import JournalObserver
from .reader import Lane, Slice
from .shelf import Acked, Queue, Sweep
from .writer import JournalIdentity, Randomness

__all__ = [
    "Acked",
    "Disk",
    "File",
    "FolderDisk",
    "Journal",
    "JournalError",
    "JournalFull",
    "JournalIdentity",
    "JournalObserver",
    "Lane",
    "Name",
    "Queue",
    "Randomness",
    "Seen",
    "Settled",
    "Slice",
    "Sweep",
]
