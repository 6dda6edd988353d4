"""The server's own keys: made once at `init`, read at every start.

KEYS/sign.key …                  32 bytes each, of which the operator never sees any
KEYS/box.key                     what tills seal to; `rotate_box` puts a new one in its place
KEYS/box.former-<key id>.key     former box keys: chunks sealed to them still come
KEYS/escrow.pub                  the escrow key's public half; escrow.former-<key id>.pub are those before it
KEYS/escrow.key                  its private half, only from `recover` until `forget_escrow`
KEYS/generation                  grows with every change, so that tills know the newer packs

The escrow key opens every chunk when the server's own key is lost. Its private half never lies beside the others
unless such a loss asks for it: `create` and `rotate_escrow` hand it out, and the operator takes it away.

Every change writes what is still needed before it replaces anything, each file whole under a temporary name first: a
crash at any moment leaves a folder that `load` reads and that opens all it opened before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nacl.public import PrivateKey

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.sealing import KEY_SIZE, key_id
from tillstream_protocol.signing import SignKey

Randomness = Callable[[int], bytes]

_SECRETS: Final = ("sign", "box", "identifier", "digest", "vault")
_BOX: Final = "box.key"
_ESCROW: Final = "escrow.pub"
_ESCROW_PRIVATE: Final = "escrow.key"
_GENERATION: Final = "generation"
_HINT: Final = "restore the keys from the backup, or run `tillstream-server init` on a new folder"
_BOX_HINT: Final = (
    "put it back from the backup; if there is none, open what tills have sealed with the escrow key:"
    " tillstream-server key recover --escrow FILE"
)


class KeysUnusable(TillstreamError):
    """The folder of keys is missing, incomplete or damaged, or would be overwritten."""

    code = "keys_unusable"


class WrongEscrow(TillstreamError):
    """Not the private half of an escrow key that tills of this server have sealed to."""

    code = "wrong_escrow"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """Everything the server signs, opens and hashes with. All but `sign` are 32 bytes.

    `identifier_key` hashes identifiers, `digest_key` contents and idempotency keys: without them nobody can try all
    telephone numbers against what the ledger holds. `vault_key` wraps the subjects' keys. `former_box` are private
    keys that tills sealed to before the present one, `escrow_private` is there while a lost one has to be made up
    for. `generation` grows whenever what tills are told of keys changes, and when a backup is restored.
    """

    sign: SignKey = field(repr=False)
    box_private: bytes = field(repr=False)
    box_public: bytes
    escrow_public: bytes
    identifier_key: bytes = field(repr=False)
    digest_key: bytes = field(repr=False)
    vault_key: bytes = field(repr=False)
    former_box: tuple[bytes, ...] = field(default=(), repr=False)
    escrow_private: bytes | None = field(default=None, repr=False)
    generation: int = 0

    def offer_key(self, retailer: str) -> bytes:
        """What a retailer's offers are named with, 32 bytes: the same at the edge and in the centre."""
        return hashlib.blake2b(
            retailer.encode(), digest_size=KEY_SIZE, key=self.digest_key, person=b"tillstream-ofkey"
        ).digest()

    def source_key(self) -> bytes:
        """What the signing secrets of webhook sources lie sealed under, 32 bytes."""
        return hashlib.blake2b(digest_size=KEY_SIZE, key=self.vault_key, person=b"tillstream-srcsc").digest()

    def source_device(self, till_id: bytes) -> SignKey:
        """The device that speaks for a webhook source's till: this server, and the same after a restore."""
        seed = hashlib.blake2b(till_id, digest_size=KEY_SIZE, key=self.vault_key, person=b"tillstream-srcdv")
        return SignKey(seed.digest())

    def facts(self) -> dict[str, object]:
        """What may be told of the keys in force."""
        return {
            "box_key_id": key_id(self.box_public).hex(),
            "former_box_key_ids": [key_id(_public(former)).hex() for former in self.former_box],
            "escrow_key_id": key_id(self.escrow_public).hex(),
            "escrow_key_online": self.escrow_private is not None,
        }


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
    former = (_read(path) for path in sorted(folder.glob("box.former-*.key")))
    escrow_private = folder / _ESCROW_PRIVATE
    return ServerKeys(
        sign=SignKey(sign),
        box_private=box,
        box_public=_public(box),
        escrow_public=_read(folder / _ESCROW),
        identifier_key=identifier,
        digest_key=digest,
        vault_key=vault,
        former_box=tuple(key for key in former if key != box),
        escrow_private=_read(escrow_private) if escrow_private.exists() else None,
        generation=_generation(folder),
    )


def rotate_box(folder: Path, randomness: Randomness, now_ms: int) -> ServerKeys:
    """Put a new box key in the present one's place, which is kept for what was sealed to it. Raises `KeysUnusable`."""
    box = load(folder).box_private
    _replace(folder / _former("box", _public(box), "key"), box)
    _renew_box(folder, randomness, now_ms)
    return load(folder)


def recover(folder: Path, escrow_private: bytes, randomness: Randomness, now_ms: int) -> ServerKeys:
    """Make up for a lost or damaged box key: a new one for tills to seal to, and the escrow key for the rest.

    The escrow key then lies with the other keys until `forget_escrow`. A box key that can still be read is kept as a
    former one. Raises `WrongEscrow`, or `KeysUnusable` where more than the box key is missing.
    """
    if _public(escrow_private) not in _escrows(folder):
        raise WrongEscrow(
            "this is not an escrow key of this server", field="escrow", hint="give the one that init or rotation made"
        )
    _replace(folder / _ESCROW_PRIVATE, escrow_private)
    box = folder / _BOX
    if box.exists():
        data = box.read_bytes()
        whole = len(data) == KEY_SIZE
        _replace(folder / (_former("box", _public(data), "key") if whole else f"{_BOX}.damaged"), data)
    _renew_box(folder, randomness, now_ms)
    return load(folder)


def forget_escrow(folder: Path) -> bool:
    """Take the escrow private key out of the folder; whether it was there."""
    path = folder / _ESCROW_PRIVATE
    there = path.exists()
    path.unlink(missing_ok=True)
    _sync_folder(folder)
    return there


def new_escrow(randomness: Randomness) -> bytes:
    """The private half of a new escrow key, in memory alone: keep it safe before `rotate_escrow` puts it in force."""
    return bytes(PrivateKey(randomness(KEY_SIZE)))


def rotate_escrow(folder: Path, private: bytes, now_ms: int) -> ServerKeys:
    """Have tills seal to another escrow key from now on. Raises `KeysUnusable`."""
    former = load(folder).escrow_public
    _replace(folder / _former("escrow", former, "pub"), former)
    advance(folder, now_ms)
    _replace(folder / _ESCROW, _public(private))
    return load(folder)


def advance(folder: Path, now_ms: int) -> int:
    """Begin a new generation, above every one that this server or a copy of it has had; which one.

    Generations are seconds since 1970, so that a folder restored from a backup never falls behind itself.
    """
    generation = max(_generation(folder) + 1, now_ms // 1000)
    _replace(folder / _GENERATION, b"%d\n" % generation)
    return generation


def escrow_from(text: str) -> bytes:
    """The escrow private key from the file that `init` made. Raises `WrongEscrow`."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise WrongEscrow("this file holds no escrow key", field="escrow", limit=f"{2 * KEY_SIZE} hexadecimal digits")
    return key


def _renew_box(folder: Path, randomness: Randomness, now_ms: int) -> None:
    advance(folder, now_ms)
    _replace(folder / _BOX, randomness(KEY_SIZE))


def _generation(folder: Path) -> int:
    path = folder / _GENERATION
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise KeysUnusable(f"{path} is damaged", field="data", limit="a whole number", hint=_HINT) from error


def _escrows(folder: Path) -> set[bytes]:
    """The public halves of every escrow key that tills have been told."""
    return {_read(path) for path in (folder / _ESCROW, *folder.glob("escrow.former-*.pub"))}


def _former(name: str, public: bytes, suffix: str) -> str:
    return f"{name}.former-{key_id(public).hex()}.{suffix}"


def _public(private: bytes) -> bytes:
    return bytes(PrivateKey(private).public_key)


def _read(path: Path) -> bytes:
    hint = _BOX_HINT if path.name == _BOX else _HINT
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KeysUnusable(f"cannot read {path}: {error.strerror}", field="data", hint=hint) from error
    if len(data) != KEY_SIZE:
        raise KeysUnusable(f"{path} is damaged", field="data", limit=f"{KEY_SIZE} bytes", hint=hint)
    return data


def _replace(path: Path, data: bytes) -> None:
    """Have these bytes under this name, or what was there before, whatever happens meanwhile."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    _write(new, data)
    new.rename(path)
    _sync_folder(path.parent)


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
