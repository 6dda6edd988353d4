"""The server's own keys: made once at `init`, read at every start.

The escrow key opens every chunk when the server's own key is lost. Its private half never lies beside the others:
`create` hands it out, and the operator takes it away.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nacl.public import PrivateKey

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.sealing import KEY_SIZE
from tillstream_protocol.signing import SignKey

Randomness = Callable[[int], bytes]

_SECRETS: Final = ("sign", "box", "identifier", "digest", "vault")
_ESCROW: Final = "escrow.pub"


class KeysUnusable(TillstreamError):
    """The folder of keys is missing, incomplete or damaged, or would be overwritten."""

    code = "keys_unusable"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """Everything the server signs, opens and hashes with. All but `sign` are 32 bytes.

    `identifier_key` hashes identifiers, `digest_key` contents and idempotency keys: without them nobody can try all
    telephone numbers against what the ledger holds. `vault_key` wraps the subjects' keys.
    """

    sign: SignKey = field(repr=False)
    box_private: bytes = field(repr=False)
    box_public: bytes
    escrow_public: bytes
    identifier_key: bytes = field(repr=False)
    digest_key: bytes = field(repr=False)
    vault_key: bytes = field(repr=False)


def create(folder: Path, randomness: Randomness) -> tuple[ServerKeys, bytes]:
    """Make all keys in a new folder; the keys, and the escrow key's private half, which is written nowhere.

    Raises `KeysUnusable` when the folder holds keys already.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise KeysUnusable(f"{folder} already holds keys", field="data", hint="choose another data folder")
    folder.chmod(0o700)
    for name in _SECRETS:
        _write(folder / f"{name}.key", randomness(KEY_SIZE))
    escrow = PrivateKey(randomness(KEY_SIZE))
    _write(folder / _ESCROW, bytes(escrow.public_key))
    _sync_folder(folder)
    return load(folder), bytes(escrow)


def load(folder: Path) -> ServerKeys:
    """Read the keys. Raises `KeysUnusable` naming the file that is missing or damaged."""
    sign, box, identifier, digest, vault = (_read(folder / f"{name}.key") for name in _SECRETS)
    return ServerKeys(
        sign=SignKey(sign),
        box_private=box,
        box_public=bytes(PrivateKey(box).public_key),
        escrow_public=_read(folder / _ESCROW),
        identifier_key=identifier,
        digest_key=digest,
        vault_key=vault,
    )


def _read(path: Path) -> bytes:
    hint = "restore the keys from the backup, or run `tillstream-server init` on a new folder"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KeysUnusable(f"cannot read {path}: {error.strerror}", field="data", hint=hint) from error
    if len(data) != KEY_SIZE:
        raise KeysUnusable(f"{path} is damaged", field="data", limit=f"{KEY_SIZE} bytes", hint=hint)
    return data


def _write(path: Path, data: bytes) -> None:
    """Create the file for its owner alone, and have it on the disk before going on."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
