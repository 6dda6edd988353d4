"""Backup and restore of a data folder.

A backup is a folder with everything a server is, copied while the server runs or while it does not:

BACKUP/ledger.db          as of one moment          BACKUP/vault-keys.db   as of a moment after it
BACKUP/keys/              the server's keys         BACKUP/settings.json, server.toml
BACKUP/manifest.json      size and SHA-256 of each, written last: without it the folder is no backup

The ledger is copied before the subjects' keys, so that no item of the vault lacks its key. The databases are read
through connections that cannot write, and never checkpoint. Both backup and restore work under a temporary name, have
everything on the disk, and rename at the end: a crash leaves nothing that looks whole. Nothing is ever overwritten.

What tills sent after the backup is not in it. A restored server finds out from its tills what it lacks, and they send
it again. So that they take its word for what is new, a restore moves two counters above everything that the server
may have used meanwhile: the generation of its keys, and each till's push numbers. The console's sessions end with it:
who signed out since the backup, or was signed out, would be signed in again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tillstream_protocol.errors import TillstreamError

from . import keys
from .folder import Folder
from .keys import Randomness
from .ledger.database import LedgerVersion, migrate

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_LEDGER: Final = "ledger.db"
_VAULT_KEYS: Final = "vault-keys.db"
_SETTINGS: Final = "settings.json"
_CONFIG: Final = "server.toml"
_NAMES: Final = re.compile(r"(ledger|vault-keys)\.db|settings\.json|server\.toml|keys/[a-z0-9][a-z0-9.-]{0,99}")
_NEEDED: Final = frozenset({_LEDGER, _VAULT_KEYS, _SETTINGS})
_BLOCK: Final = 1024 * 1024
_TRIES: Final = 10
"""How often the keys are read until two readings agree: a rotation takes some milliseconds."""


class BackupFailed(TillstreamError):
    """A backup that could not be made, or a restore that could not be carried out; nothing is left of it."""

    code = "backup_failed"


class BackupDamaged(TillstreamError):
    """A folder that is no backup, is incomplete, or is not as it was made."""

    code = "backup_damaged"


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a backup; `size` in bytes."""

    name: str
    size: int
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds. `schema` is the ledger's migration, `last_id` its highest row number; 0 if it is empty."""

    format: int
    made_ms: int
    version: str
    schema: str
    last_id: int
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Copying:
    """What backup and restore take from outside: the time, randomness for names, this server's version."""

    now_ms: Callable[[], int]
    random: Randomness
    version: str


def backup(folder: Folder, to: Path, around: Copying) -> Manifest:
    """Copy a data folder into a new one, whether or not a server is writing to it.

    Raises `FolderError` for a folder that is no server's, `KeysUnusable` for one without all its keys, `BackupFailed`
    otherwise.
    """
    folder.settings()
    with _made_whole(to, around.random) as new:
        _copy_database(folder.ledger, new / _LEDGER)
        _copy_database(folder.vault_keys, new / _VAULT_KEYS)
        _copy_keys(folder.keys, new / "keys")
        _copy(folder.settings_file, new / _SETTINGS)
        if folder.config_file.exists():
            _copy(folder.config_file, new / _CONFIG)
        schema, last_id = _about(new / _LEDGER)
        paths = sorted(path for path in new.rglob("*") if path.is_file())
        files = tuple(described(path, path.relative_to(new).as_posix()) for path in paths)
        manifest = Manifest(FORMAT, around.now_ms(), around.version, schema, last_id, files)
        _write(new / _MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest


async def restore(source: Path, folder: Folder, around: Copying) -> Manifest:
    """Make a data folder from a backup, which stays as it is.

    Raises `BackupDamaged` naming the file that is not as it was made, `LedgerVersion` for a backup of a newer server,
    `BackupFailed` where the data folder is taken or cannot be made.
    """
    manifest = read_manifest(source)
    with _made_whole(folder.root, around.random) as new:
        for file in manifest.files:
            _bring(source / file.name, new / file.name, file)
        made = Folder(new)
        Folder(source).settings()
        keys.load(Folder(source).keys)
        for path in (made.ledger, made.vault_keys):
            if (found := _found_wrong(path)) is not None:
                raise BackupDamaged(
                    f"{source / path.name} is damaged: {found}", field="from", hint="take an older backup"
                )
        await _bring_forward(made, source)
        now_ms = around.now_ms()
        _skip_pushes(made.ledger, now_ms)
        _end_sessions(made.ledger)
        keys.advance(made.keys, now_ms)
    return manifest


def read_manifest(source: Path) -> Manifest:
    """What a backup says that it holds. Raises `BackupDamaged`."""
    path = source / _MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise BackupDamaged(
            f"{source} is no backup: {_MANIFEST} cannot be read: {error.strerror}",
            field="from",
            hint="give the folder that `tillstream-server backup` made",
        ) from error
    except msgspec.DecodeError as error:
        raise BackupDamaged(f"{path} is damaged: {error}", field="from", hint="take another backup") from error
    if manifest.format != FORMAT:
        raise BackupDamaged(f"{source} has format {manifest.format}", limit=str(FORMAT), hint="upgrade the server")
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names) or not all(map(_NAMES.fullmatch, names)) or not set(names) >= _NEEDED:
        raise BackupDamaged(f"{path} does not list a server's files", field="from", hint="take another backup")
    return manifest


@contextmanager
def _made_whole(target: Path, random: Randomness) -> Iterator[Path]:
    """A new folder under a temporary name; at the end all of it is on the disk and has its own name.

    Raises `BackupFailed` where there is something already, or where the disk does not let us.
    """
    new = target.absolute().with_name(f".{target.absolute().name}.{random(4).hex()}.part")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise BackupFailed(f"{target} is there already", hint="nothing is overwritten: give a new folder")
        new.mkdir(mode=0o700, parents=True)
        yield new
        for path in new.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
            _sync(path)
        _sync(new)
        new.rename(target.absolute())
        _sync(target.absolute().parent)
    except OSError as error:
        named = error.filename or target
        raise BackupFailed(
            f"cannot make {target}: {named}: {error.strerror}", hint="see the disk's free space and permissions"
        ) from error
    except sqlite3.Error as error:
        raise BackupFailed(f"cannot make {target}: {error}", hint="see the disk's free space and health") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _copy_database(source: Path, target: Path) -> None:
    """The content of a database as of one moment, without what was deleted from it; then looked through."""
    with closing(sqlite3.connect(source.absolute().as_uri() + "?mode=ro", uri=True, isolation_level=None)) as conn:
        conn.execute("PRAGMA wal_autocheckpoint=0")
        conn.execute("VACUUM INTO ?", (str(target),))
    if (found := _found_wrong(target)) is not None:
        raise BackupFailed(f"{source} is damaged: {found}", hint="restore the newest backup that is whole")


def _found_wrong(path: Path) -> str | None:
    """What SQLite finds wrong when it looks through a whole file; None if nothing is."""
    try:
        with closing(sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)) as conn:
            found = str(conn.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        found = str(error)
    return None if found == "ok" else found


def _copy_keys(source: Path, target: Path) -> None:
    """The keys as they all were at one moment: a rotation may be changing them."""
    target.mkdir(mode=0o700)
    found = _read_keys(source)
    for _ in range(_TRIES):
        before, found = found, _read_keys(source)
        if found is not None and found == before:
            break
    for name, data in (found or {}).items():
        _write(target / name, data)
    keys.load(source)


def _read_keys(folder: Path) -> dict[str, bytes] | None:
    """Every file in the folder of keys; None when one went away meanwhile."""
    try:
        return {
            path.name: path.read_bytes()
            for path in sorted(folder.iterdir())
            if _NAMES.fullmatch(f"keys/{path.name}") and path.suffix != ".new"
        }
    except FileNotFoundError:
        return None


def _about(ledger: Path) -> tuple[str, int]:
    with closing(sqlite3.connect(ledger.absolute().as_uri() + "?mode=ro", uri=True)) as conn:
        (schema,) = conn.execute("SELECT version_num FROM alembic_version").fetchone()
        (last_id,) = conn.execute("SELECT coalesce(max(id), 0) FROM ledger").fetchone()
    return str(schema), int(last_id)


def described(path: Path, name: str) -> File:
    """A file as a manifest has it."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return File(name, size, digest.hexdigest())


def _bring(source: Path, target: Path, expected: File) -> None:
    """Copy a file and compare the copy with the manifest. Raises `BackupDamaged`."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        _copy(source, target)
    except FileNotFoundError:
        raise BackupDamaged(f"{source} is missing", field="from", hint="take another backup") from None
    if described(target, expected.name) != expected:
        raise BackupDamaged(f"{source} is not as it was made", field="from", hint="take another backup")


async def _bring_forward(made: Folder, source: Path) -> None:
    """Give an older backup's ledger this version's schema. Raises `LedgerVersion` for a newer one's."""
    try:
        await migrate(made.ledger)
    except LedgerVersion as error:
        raise LedgerVersion(
            f"{source} was made by a newer server", field="from", hint="restore it with that version, or upgrade"
        ) from error


def _skip_pushes(ledger: Path, now_ms: int) -> None:
    """Number what tills are pushed from now on above everything they may have been pushed since the backup.

    Milliseconds since 1970 grow faster than any till's pushes.
    """
    with closing(sqlite3.connect(ledger, isolation_level=None)) as conn:
        conn.execute("UPDATE till SET push_seq = max(push_seq, ?)", (now_ms,))
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _end_sessions(ledger: Path) -> None:
    """Have everybody sign in to the console anew: which sessions ended since the backup is not known here."""
    with closing(sqlite3.connect(ledger, isolation_level=None)) as conn:
        conn.execute("DELETE FROM console_session")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("xb") as new:
        shutil.copyfileobj(old, new, _BLOCK)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
