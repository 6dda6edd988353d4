"""The server's keys: made once, read at every start, never shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from nacl.public import PrivateKey

from tillstream_server import keys
from tillstream_server.keys import KeysUnusable


def test_what_was_created_is_what_is_loaded(tmp_path: Path) -> None:
    made, escrow = keys.create(tmp_path / "keys", os.urandom)
    loaded = keys.load(tmp_path / "keys")
    assert loaded.sign.public == made.sign.public
    assert loaded.box_public == bytes(PrivateKey(loaded.box_private).public_key)
    assert loaded.escrow_public == bytes(PrivateKey(escrow).public_key)
    secrets = {loaded.identifier_key, loaded.digest_key, loaded.vault_key, loaded.box_private}
    assert len(secrets) == 4


def test_only_the_owner_reads_them(tmp_path: Path) -> None:
    keys.create(tmp_path / "keys", os.urandom)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "keys").iterdir()} == {0o600}


def test_the_escrow_private_key_is_written_nowhere(tmp_path: Path) -> None:
    _, escrow = keys.create(tmp_path / "keys", os.urandom)
    assert all(escrow not in file.read_bytes() for file in (tmp_path / "keys").iterdir())


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    keys.create(tmp_path / "keys", os.urandom)
    before = {file.name: file.read_bytes() for file in (tmp_path / "keys").iterdir()}
    with pytest.raises(KeysUnusable, match="already holds keys"):
        keys.create(tmp_path / "keys", os.urandom)
    assert {file.name: file.read_bytes() for file in (tmp_path / "keys").iterdir()} == before


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    keys.create(tmp_path / "keys", os.urandom)
    (tmp_path / "keys" / "vault.key").unlink()
    with pytest.raises(KeysUnusable, match=r"vault\.key"):
        keys.load(tmp_path / "keys")


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    keys.create(tmp_path / "keys", os.urandom)
    (tmp_path / "keys" / "box.key").write_bytes(b"short")
    with pytest.raises(KeysUnusable, match=r"box\.key is damaged"):
        keys.load(tmp_path / "keys")


def test_no_secret_is_shown_in_a_traceback(tmp_path: Path) -> None:
    made, _ = keys.create(tmp_path / "keys", os.urandom)
    assert repr(made.vault_key) not in repr(made)
    assert repr(made.box_private) not in repr(made)
