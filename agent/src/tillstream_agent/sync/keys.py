"""Which keys of the server new chunks are sealed to: those of the newest pack that it signed for this till."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Protocol

from tillstream_protocol.pack import Pack
from tillstream_protocol.sealing import key_id

from ..events import Events
from ..folder import Folder, Identity, StateError, in_thread


class Sealing(Protocol):
    """What the keys are given to: the journal."""

    def use_keys(self, server_public: bytes, escrow_public: bytes) -> None:
        """Seal what comes from now on to these keys."""
        ...


def with_keys_of(identity: Identity, pack: Pack | None) -> Identity:
    """The identity with the keys that a pack says to use."""
    if pack is None:
        return identity
    return replace(identity, box_public=pack.box_public_key, escrow_public=pack.escrow_public_key)


class SealingKeys:
    """Follows the packs. The keys in use also stand in `identity.json`, so that a restart seals to them at once."""

    def __init__(self, folder: Folder, identity: Identity, journal: Sealing, events: Events) -> None:
        self._folder = folder
        self._identity = identity
        self._journal = journal
        self._events = events

    async def follow(self, pack: Pack | None) -> None:
        """Use the keys of a pack from now on. If that cannot be written down, the stored pack says so again."""
        changed = with_keys_of(self._identity, pack)
        if changed == self._identity:
            return
        self._journal.use_keys(changed.box_public, changed.escrow_public)
        self._identity = changed
        self._events.keys_changed(key_id(changed.box_public), key_id(changed.escrow_public))
        await write_down(self._folder, changed, self._events)


async def write_down(folder: Folder, identity: Identity, events: Events) -> None:
    """Write the keys of an identity that have changed, beside the event loop; what fails is told of.

    The device may have another key by now that this identity does not know of, so nothing else is written.
    """
    try:
        await in_thread(partial(folder.seal_to, identity.box_public, identity.escrow_public))
    except StateError as error:
        events.housekeeping_failed("keep the server's keys", error)
