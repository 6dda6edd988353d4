"""The till's append-only sealed queue.

Layout: a folder of chunks, `0000000001.chunk` and on, numbered in the order in which they were opened; what lies in
one is defined by `tillstream_protocol.framing`. No in-place update, no memory map, no file beside them that has to
agree with them. What is damaged is kept: `….damaged` is a chunk that is not looked at again, `….torn` what stood
behind the last frame of one (`….2.torn` if that happens again). `….new` is a copy that was not finished, and means
nothing; an empty `….doubt` says that a sync failed on which the chunk depends.

What holds, always:

1. A record is named by (epoch, seq) for ever. An epoch is one run of the agent, so no counter is ever recovered.
2. `append` returns after `write()` did: the record survives the process (`os`). `synced` returns after `fdatasync`
   did, at most 20 ms later: it survives a power cut (`disk`). Nothing is acknowledged that was not written. While the
   disk fails or hangs for long, `synced` raises. No `append` waits for a sync, of a file or of the folder.
3. Only synced frames are uploaded, so the server never knows a record that a power cut can take back. The exception
   is a file of an earlier run that can be neither synced nor written anew: it is sent as it reads.
4. Until it is synced, a record also stays in memory. A file whose sync failed is never trusted again: what was not
   synced in it is sealed anew, under its own name, into a new chunk.
5. A failed write leaves no frame behind and uses no name up; where that cannot be had, the name is given up, and told
   as lost.
6. What must be known after a restart (which sales were seen, what was spent of a lease) is read from clear headers:
   from footers where there is one, by a scan where there is none. The records themselves cannot be read here. In
   memory a queued record takes some eight bytes.
7. Opening always succeeds, and changes nothing that anything could be lost by. Every record that may be lost is in
   `damage` by its name: found at start, or in a chunk with a footer when it is to be sent. It comes again at every
   start until it was `reported`; only then a torn tail is cut, or a chunk without a header renamed. A chunk with a
   damaged frame stays in the queue, and is renamed when its time is over.
8. Nothing that is not acknowledged is ever removed: not by age, not for room, not by a clock that jumps. A record
   that the server refuses can be set aside; its chunk stays.
9. Captures leave a reserve of the disk free, for footers and for what must be sealed anew. Short of room,
   acknowledged chunks go first; then captures are refused at once, until there is room again.
10. A chunk's data key exists in memory while the chunk is open, and nowhere after.
"""

from .damage import Damage
from .disk import Disk, File, FolderDisk
from .errors import JournalError, JournalFull
from .journal import Journal, Settled
from .observer import JournalObserver
from .reader import Lane, Slice
from .retention import Sweep
from .shelf import Acked, Queue
from .tags import Name, Seen
from .writer import JournalIdentity, Randomness

__all__ = [
    "Acked",
    "Damage",
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
