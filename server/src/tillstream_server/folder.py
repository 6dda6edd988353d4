"""The data folder: what lies where, and who may write.

DATA/settings.json        written last by `init`; without it the folder is not a server's
DATA/keys/                the server's keys
DATA/escrow-private.key   for the operator to take away
DATA/ledger.db            ledger and projections          DATA/vault-keys.db   wrapped subject keys
DATA/writer.lock          held by the one process that writes
DATA/admin.sock           that process's ear for the other commands
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from tillstream_protocol.errors import TillstreamError

FORMAT: Final = 1

_AGENTS_FILES: Final = ("identity.json", "agent.lock")


class FolderError(TillstreamError):
    """A data folder that cannot be used as it is."""

    code = "data_folder"


class FolderBusy(FolderError):
    """Another process writes to this data folder."""

    code = "data_folder_busy"
    retryable = True


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `init` decided for good."""

    format: int
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths of one data folder."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """Its presence says that `init` came to its end."""
        return self.root / "settings.json"

    @property
    def config_file(self) -> Path:
        """Optional; the operator's."""
        return self.root / "server.toml"

    @property
    def keys(self) -> Path:
        """The folder of the server's keys."""
        return self.root / "keys"

    @property
    def escrow_file(self) -> Path:
        """Where `init` puts the escrow private key."""
        return self.root / "escrow-private.key"

    @property
    def ledger(self) -> Path:
        """The ledger's database."""
        return self.root / "ledger.db"

    @property
    def vault_keys(self) -> Path:
        """The database of wrapped subject keys."""
        return self.root / "vault-keys.db"

    @property
    def admin_socket(self) -> Path:
        """The serving process's Unix socket."""
        return self.root / "admin.sock"

    def prepare(self) -> None:
        """Make the folder, readable by its owner only. Raises `FolderError` if there is something in it."""
        try:
            if self.settings_file.exists():
                raise FolderError(f"{self.root} is already a server's data folder", hint="choose another with --data")
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_agents()
            if any(self.root.iterdir()):
                raise FolderError(f"{self.root} is not empty", hint="init needs a folder of its own: choose another")
            self.root.chmod(0o700)
        except (FileExistsError, NotADirectoryError):
            raise self._not_a_folder() from None
        except OSError as error:
            raise FolderError(
                f"cannot make {self.root}: {error.strerror}", hint="choose another with --data"
            ) from error

    def finish(self, settings: Settings) -> None:
        """Write the settings: from now on this is a server's folder."""
        new = self.settings_file.with_suffix(".new")
        with new.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.settings_file)
        self._sync()

    def write_escrow(self, private: bytes) -> None:
        """Leave the escrow private key for the operator. Raises `FolderError` while a former one lies there."""
        try:
            descriptor = os.open(self.escrow_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise FolderError(
                f"{self.escrow_file} is still there", hint="take it away first, to a safe place off this machine"
            ) from None
        except OSError as error:
            raise FolderError(f"cannot write {self.escrow_file}: {error.strerror}") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(private.hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._sync()

    def settings(self) -> Settings:
        """Read the settings. Raises `FolderError` where `init` has not been."""
        try:
            data = self.settings_file.read_bytes()
        except NotADirectoryError:
            raise self._not_a_folder() from None
        except FileNotFoundError:
            self._refuse_agents()
            raise FolderError(
                f"{self.root} is not a server's data folder", hint=f"run: tillstream-server init --data {self.root}"
            ) from None
        except OSError as error:
            raise FolderError(f"cannot read {self.settings_file}: {error.strerror}") from error
        try:
            settings = msgspec.json.decode(data, type=Settings)
        except msgspec.DecodeError as error:
            raise FolderError(f"{self.settings_file} is damaged: {error}") from error
        if settings.format != FORMAT:
            raise FolderError(
                f"{self.root} has format {settings.format}", limit=str(FORMAT), hint="use the server that made it"
            )
        return settings

    def _sync(self) -> None:
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _refuse_agents(self) -> None:
        """Raise `FolderError` for the state folder of a till's agent."""
        if any((self.root / name).exists() for name in _AGENTS_FILES):
            raise FolderError(
                f"{self.root} is the state folder of an agent, not a server's data folder",
                hint="give --data a folder of the server's own",
            )

    def _not_a_folder(self) -> FolderError:
        return FolderError(f"{self.root} is or lies in a file, not a folder", hint="give a folder with --data")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder as its only writer. Raises `FolderBusy`."""
        path = self.root / "writer.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FolderError(f"cannot write to {self.root}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderBusy(f"another process writes to {self.root}", hint="stop it first") from None
            yield
        finally:
            os.close(descriptor)


def check_currency(currency: str) -> str:
    """The currency as given. Raises `FolderError` unless it is three letters."""
    if re.fullmatch("[A-Z]{3}", currency) is None:
        raise FolderError(f"{currency!r} is not a currency", field="currency", limit="three letters A to Z")
    return currency
