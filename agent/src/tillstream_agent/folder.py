"""The state folder: who this agent is, its keys, and the lock that keeps it to one agent.

    identity.json    whom it joined, as which till; written last and by rename, so it is there whole or not at all
    device.key       the device's private signing key (32 raw bytes)
    device.key.new   the one that an enrolment under way has told the server of
    device.key.next  the one that is to follow, while the server is asked to take it
    rotate           there while another device key is to be taken before it is time
    former/          device keys of earlier enrolments, ID.key, for as long as the journal holds chunks of theirs
    tag.key          the key of the idempotency tags in the journal (32 raw bytes); outlives every enrolment
    hook-token       what a POS sends as `Authorization: Bearer`
    hook.sock        the hook's Unix socket while an agent runs
    hook.port        the port of the HTTP hook while an agent runs
    paired.json      who was paired with the hook, by keyed hashes
    machine          the machine that it was enrolled on, as a hash keyed by tag.key
    settings.json    what head office sets from afar: the last good ones, and those on trial
    journal/         the queue
    state.db         small durable state (see state.py)
    agent.lock       held while an agent runs

The folder is the agent's user's alone (0700), and so is every file in it (0600): that is what keeps other users of
the machine away from keys, token and socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import SignedCertificate
from tillstream_protocol.signing import SignKey, from_text, to_text

from .platforms import LOCK_FILE, NEW_FILE, hold, protect, sync_folder, unprotect

SEED_SIZE: Final = 32
_FORMER_SUFFIX: Final = ".key"


class StateError(TillstreamError):
    """The state folder cannot be used as it is."""

    code = "state"


class NotEnrolled(StateError):
    """There is no identity in the folder."""

    code = "not_enrolled"


class AlreadyRunning(StateError):
    """Another agent holds the folder."""

    code = "already_running"


class _CertificateFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    signature: str


class _IdentityFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`identity.json`. Keys are URL-safe base64, ids hex."""

    server: str
    till_id: str
    retailer: str
    store: str
    till: str
    currency: str
    device_key_id: str
    server_public: str
    box_public: str
    escrow_public: str
    enrolled_ms: int
    certificate: _CertificateFile | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the agent joined, and as which till. Ids and keys are bytes."""

    server: str
    """Scheme, host and port, without a path."""
    till_id: bytes
    retailer: str
    store: str
    till: str
    currency: str
    device_key_id: bytes
    server_public: bytes
    box_public: bytes
    escrow_public: bytes
    enrolled_ms: int
    certificate: SignedCertificate | None = None
    """The server's word that this device speaks for this till; None from before there were any."""

    def encode(self) -> bytes:
        """The content of `identity.json`."""
        signed = self.certificate
        plain = _IdentityFile(
            self.server,
            self.till_id.hex(),
            self.retailer,
            self.store,
            self.till,
            self.currency,
            self.device_key_id.hex(),
            to_text(self.server_public),
            to_text(self.box_public),
            to_text(self.escrow_public),
            self.enrolled_ms,
            _CertificateFile(to_text(signed.payload), to_text(signed.signature)) if signed is not None else None,
        )
        return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        """Read `identity.json`. Raises `ValueError` or `TillstreamError`."""
        f = msgspec.json.decode(data, type=_IdentityFile)
        c = f.certificate
        return cls(
            f.server,
            bytes.fromhex(f.till_id),
            f.retailer,
            f.store,
            f.till,
            f.currency,
            bytes.fromhex(f.device_key_id),
            from_text(f.server_public),
            from_text(f.box_public),
            from_text(f.escrow_public),
            f.enrolled_ms,
            SignedCertificate(from_text(c.payload), from_text(c.signature)) if c is not None else None,
        )


class Folder:
    """The state folder at `path`. Nothing is touched before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity_file = path / "identity.json"
        self.device_key_file = path / "device.key"
        self.next_device_key_file = path / "device.key.new"
        self.following_device_key_file = path / "device.key.next"
        self.rotate_file = path / "rotate"
        self.former = path / "former"
        self.tag_key_file = path / "tag.key"
        self.token_file = path / "hook-token"
        self.socket = path / "hook.sock"
        self.port_file = path / "hook.port"
        self.paired_file = path / "paired.json"
        self.machine_file = path / "machine"
        self.settings_file = path / "settings.json"
        self.journal = path / "journal"
        self.database = path / "state.db"
        self.lock_file = path / "agent.lock"
        self._changing = threading.Lock()
        """Held while a part of the identity is changed."""

    def create(self) -> None:
        """Make the folder, for this user only. Raises `StateError`."""
        with self._translated():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)

    def identity(self) -> Identity:
        """Who this agent is. Raises `NotEnrolled`, or `StateError` for a damaged file."""
        try:
            data = self.identity_file.read_bytes()
        except FileNotFoundError as error:
            raise NotEnrolled(
                f"no till is enrolled in {self.path}",
                hint="run `tillstream-agent enroll --server URL --token TOKEN`",
            ) from error
        except OSError as error:
            raise self._unusable(error) from error
        try:
            return Identity.decode(data)
        except (ValueError, TillstreamError) as error:
            raise StateError(
                f"{self.identity_file} is damaged", hint="restore it, or enrol anew with --replace"
            ) from error

    def device_key(self, identity: Identity) -> SignKey:
        """The key that the identity names. Finishes what was cut short after its last decisive step."""
        for file in (self.device_key_file, self.next_device_key_file, self.following_device_key_file):
            seed = self._secret(file)
            if seed is None:
                continue
            key = SignKey(seed)
            if key.key_id == identity.device_key_id:
                if file != self.device_key_file:
                    with self._translated():
                        os.replace(file, self.device_key_file)  # noqa: PTH105
                return key
        raise StateError(
            f"the device key in {self.path} is missing or not the enrolled one",
            hint="restore device.key, or enrol anew with --replace",
        )

    def tag_key(self) -> bytes:
        """The key of the journal's idempotency tags. Raises `StateError`."""
        key = self._secret(self.tag_key_file)
        if key is None:
            raise StateError(f"{self.tag_key_file} is missing or damaged", hint="restore it from a backup")
        return key

    def hook_token(self) -> str:
        """What a POS sends as bearer. Raises `StateError`."""
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StateError(f"{self.token_file} cannot be read", hint="enrol first, as the agent's user") from error
        if len(token) < 32:
            raise StateError(f"{self.token_file} is damaged", hint="remove it and enrol anew with --replace")
        return token

    def next_seed(self, randomness: Callable[[int], bytes]) -> bytes:
        """The seed of the device key to enrol with: that of an attempt without an answer, or a new one, on the disk."""
        return self._seed_in(self.next_device_key_file, randomness)

    def drop_next_seed(self) -> None:
        """The server will not have this key: take another one next time."""
        with self._translated():
            self.next_device_key_file.unlink(missing_ok=True)

    def become(self, identity: Identity, randomness: Callable[[int], bytes]) -> None:
        """Be `identity` from now on, by one decisive step: the rename of `identity.json`.

        Its device key is the one of `next_seed`. Tag key and hook token of an earlier enrolment are kept, since
        journal and POS rely on them; so is its device key, since only with it the server takes what that till has
        queued.
        """
        with self._translated():
            self._keep_former(identity)
            if self._secret(self.tag_key_file) is None:
                write_private(self.tag_key_file, protect(randomness(SEED_SIZE)))
            if not self.token_file.exists():
                write_private(self.token_file, to_text(randomness(SEED_SIZE)).encode() + b"\n")
            write_private(self.identity_file, identity.encode())
            os.replace(self.next_device_key_file, self.device_key_file)  # noqa: PTH105

    def next_rotation_seed(self, randomness: Callable[[int], bytes]) -> bytes:
        """The seed of the device key to follow: the one that was asked for before, or a new one, on the disk."""
        return self._seed_in(self.following_device_key_file, randomness)

    def drop_rotation_seed(self) -> None:
        """The server will not have this key to follow: take another one next time."""
        with self._translated():
            self.following_device_key_file.unlink(missing_ok=True)

    def remember_rotation(self) -> None:
        """Another device key is to be taken. Raises `StateError`."""
        with self._translated():
            self.rotate_file.touch(mode=0o600)

    @property
    def is_rotation_asked(self) -> bool:
        """Whether one is to be taken before it is time."""
        return self.rotate_file.exists()

    def rotated(self, device_key_id: bytes, certificate: SignedCertificate) -> None:
        """Be the same till with the key of `next_rotation_seed`, by one decisive step. Raises `StateError`."""
        with self._changing, self._translated():
            identity = replace(self.identity(), device_key_id=device_key_id, certificate=certificate)
            self._keep_former(identity)
            write_private(self.identity_file, identity.encode())
            os.replace(self.following_device_key_file, self.device_key_file)  # noqa: PTH105
            self.rotate_file.unlink(missing_ok=True)

    def seal_to(self, box_public: bytes, escrow_public: bytes) -> None:
        """Put down the keys that chunks are sealed to; what else changed of the identity stays. Raises `StateError`."""
        with self._changing, self._translated():
            identity = replace(self.identity(), box_public=box_public, escrow_public=escrow_public)
            write_private(self.identity_file, identity.encode())

    def rewrite(self, identity: Identity) -> None:
        """Put down what changed of the identity without a new enrolment. Raises `StateError`."""
        with self._translated():
            write_private(self.identity_file, identity.encode())

    def bind(self, machine: str | None) -> None:
        """Note on which machine this was enrolled; without an id, on none in particular. Raises `StateError`."""
        with self._translated():
            if machine is None:
                self.machine_file.unlink(missing_ok=True)
            else:
                write_private(self.machine_file, self._mark(machine).encode() + b"\n")

    def is_of_another_machine(self, machine: str) -> bool:
        """Whether this was enrolled on a machine with another id. Raises `StateError`."""
        try:
            noted = self.machine_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return False
        return noted != self._mark(machine)

    def former_keys(self) -> dict[bytes, SignKey]:
        """The device keys of earlier enrolments, by key id. What cannot be read is left out."""
        files = sorted(self.former.glob(f"*{_FORMER_SUFFIX}"))
        keys = [SignKey(seed) for seed in map(self._secret, files) if seed is not None]
        return {key.key_id: key for key in keys}

    def drop_former(self, key_id: bytes) -> None:
        """Forget an earlier device key: nothing that it signed waits any more. Raises `StateError`."""
        with self._translated():
            self._former_file(key_id).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. Raises `AlreadyRunning`."""
        with self._translated():
            handle = os.open(self.lock_file, LOCK_FILE, 0o600)
        try:
            try:
                hold(handle)
            except OSError as error:
                raise AlreadyRunning(
                    f"an agent already runs on {self.path}", hint="stop it first, or give another --state"
                ) from error
            yield
        finally:
            os.close(handle)

    def is_running(self) -> bool:
        """Whether an agent holds the folder now."""
        try:
            with self.locked():
                return False
        except AlreadyRunning:
            return True

    def _mark(self, machine: str) -> str:
        return hashlib.blake2b(machine.encode(), key=self.tag_key(), digest_size=16).hexdigest()

    def _seed_in(self, file: Path, randomness: Callable[[int], bytes]) -> bytes:
        """A seed that is there, or a new one that is on the disk from now on."""
        with self._translated():
            seed = self._secret(file)
            if seed is None:
                seed = randomness(SEED_SIZE)
                write_private(file, protect(seed))
        return seed

    def _keep_former(self, identity: Identity) -> None:
        """The device key that is about to be replaced, on the disk under its own name."""
        seed = self._secret(self.device_key_file)
        if seed is None or (key_id := SignKey(seed).key_id) == identity.device_key_id:
            return
        self.former.mkdir(mode=0o700, exist_ok=True)
        write_private(self._former_file(key_id), protect(seed))
        sync_folder(self.path)

    def _former_file(self, key_id: bytes) -> Path:
        return self.former / f"{key_id.hex()}{_FORMER_SUFFIX}"

    def _secret(self, file: Path) -> bytes | None:
        with suppress(OSError):
            data = unprotect(file.read_bytes())
            return data if len(data) == SEED_SIZE else None
        return None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StateError:
        return StateError(
            f"the state folder {self.path} cannot be used: {error.strerror}",
            hint="check its owner and mode, or give another --state",
        )


def default_folder(environment: dict[str, str] | os._Environ[str] = os.environ) -> Path:
    """`$TILLSTREAM_STATE`, else the place that the platform's conventions give."""
    given = environment.get("TILLSTREAM_STATE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = Path(environment.get("PROGRAMDATA", "C:\\ProgramData")) / "Tillstream" / "agent"
    else:
        named = environment.get("XDG_STATE_HOME")
        base = (Path(named) if named else Path.home() / ".local" / "state") / "tillstream-agent"
    return base


async def in_thread(write: Callable[[], None]) -> None:
    """Write beside the event loop. Who is cancelled meanwhile waits for the end all the same: what is built next from
    the folder must not find it half changed, nor have it change later."""
    done = asyncio.ensure_future(asyncio.to_thread(write))
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait({done})
        if not done.cancelled():
            done.exception()
        raise


def write_private(file: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that it is there whole or as it was: temporary file, fsync, rename, fsync."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, NEW_FILE, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)
