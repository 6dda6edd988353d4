"""The server's keys: made once, read at every start, never shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PrivateKey

from tillstream_protocol.sealing import key_id
from tillstream_server import keys
from tillstream_server.keys import KeysUnusable, ServerKeys, WrongEscrow

NOW = 1_790_000_000_000


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


def test_a_rotated_box_key_is_kept_for_what_was_sealed_to_it(tmp_path: Path) -> None:
    first, _ = keys.create(tmp_path, os.urandom)
    second = keys.rotate_box(tmp_path, os.urandom, NOW)
    third = keys.rotate_box(tmp_path, os.urandom, NOW)
    assert len({first.box_private, second.box_private, third.box_private}) == 3
    assert third.box_public == bytes(PrivateKey(third.box_private).public_key)
    assert second.former_box == (first.box_private,)
    assert set(third.former_box) == {first.box_private, second.box_private}
    assert third.sign.public == first.sign.public
    assert (third.identifier_key, third.digest_key, third.vault_key) == (
        first.identifier_key,
        first.digest_key,
        first.vault_key,
    )
    assert same(keys.load(tmp_path), third)


def same(one: ServerKeys, other: ServerKeys) -> bool:
    """Whether these are the very same keys."""
    return replace(one, sign=other.sign) == other and one.sign.public == other.sign.public


def test_a_generation_is_above_every_former_one_whatever_the_clock_says(tmp_path: Path) -> None:
    assert keys.create(tmp_path, os.urandom)[0].generation == 0
    assert keys.rotate_box(tmp_path, os.urandom, NOW).generation == NOW // 1000
    assert keys.rotate_box(tmp_path, os.urandom, 0).generation == NOW // 1000 + 1
    assert keys.advance(tmp_path, NOW + 60_000) == NOW // 1000 + 60
    assert keys.load(tmp_path).generation == NOW // 1000 + 60


def test_a_damaged_generation_is_named(tmp_path: Path) -> None:
    keys.create(tmp_path, os.urandom)
    (tmp_path / "generation").write_text("many")
    with pytest.raises(KeysUnusable, match="generation is damaged"):
        keys.load(tmp_path)


@pytest.mark.parametrize("loss", ["missing", "damaged"])
def test_a_lost_box_key_is_made_up_for_with_the_escrow_key(tmp_path: Path, loss: str) -> None:
    first, escrow = keys.create(tmp_path, os.urandom)
    box = tmp_path / "box.key"
    box.unlink() if loss == "missing" else box.write_bytes(b"short")
    with pytest.raises(KeysUnusable, match=r"box\.key") as caught:
        keys.load(tmp_path)
    assert "key recover" in str(caught.value.hint)
    recovered = keys.recover(tmp_path, escrow, os.urandom, NOW)
    assert recovered.escrow_private == escrow
    assert recovered.box_private != first.box_private
    assert (recovered.former_box, recovered.generation) == ((), NOW // 1000)
    assert same(keys.load(tmp_path), recovered)


def test_a_box_key_that_is_still_there_stays_usable_through_a_recovery(tmp_path: Path) -> None:
    first, escrow = keys.create(tmp_path, os.urandom)
    assert keys.recover(tmp_path, escrow, os.urandom, NOW).former_box == (first.box_private,)


def test_only_an_escrow_key_of_this_server_recovers_it(tmp_path: Path) -> None:
    keys.create(tmp_path / "ours", os.urandom)
    _, foreign = keys.create(tmp_path / "theirs", os.urandom)
    before = {file.name: file.read_bytes() for file in (tmp_path / "ours").iterdir()}
    with pytest.raises(WrongEscrow, match="not an escrow key of this server"):
        keys.recover(tmp_path / "ours", foreign, os.urandom, NOW)
    assert {file.name: file.read_bytes() for file in (tmp_path / "ours").iterdir()} == before


def test_the_escrow_key_is_forgotten_and_then_lies_nowhere(tmp_path: Path) -> None:
    _, escrow = keys.create(tmp_path, os.urandom)
    keys.recover(tmp_path, escrow, os.urandom, NOW)
    assert keys.forget_escrow(tmp_path)
    assert keys.load(tmp_path).escrow_private is None
    assert all(escrow not in file.read_bytes() for file in tmp_path.iterdir())
    assert not keys.forget_escrow(tmp_path)


def test_a_rotated_escrow_key_is_told_to_tills_and_its_forerunner_still_recovers(tmp_path: Path) -> None:
    first, former = keys.create(tmp_path, os.urandom)
    private = keys.new_escrow(os.urandom)
    now = keys.rotate_escrow(tmp_path, private, NOW)
    assert now.escrow_public == bytes(PrivateKey(private).public_key) != first.escrow_public
    assert (now.escrow_private, now.generation) == (None, NOW // 1000)
    assert all(private not in file.read_bytes() for file in tmp_path.iterdir())
    for escrow in (former, private):
        assert keys.recover(tmp_path, escrow, os.urandom, NOW).escrow_private == escrow


def test_keys_made_later_are_their_owners_alone(tmp_path: Path) -> None:
    _, escrow = keys.create(tmp_path, os.urandom)
    keys.rotate_box(tmp_path, os.urandom, NOW)
    keys.rotate_escrow(tmp_path, keys.new_escrow(os.urandom), NOW)
    keys.recover(tmp_path, escrow, os.urandom, NOW)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("text", ["", "nonsense", "ab" * 31, "ab" * 33, "zz" * 32])
def test_what_is_no_escrow_key_is_told_as_such(text: str) -> None:
    with pytest.raises(WrongEscrow, match="holds no escrow key"):
        keys.escrow_from(text)


def test_the_escrow_key_is_read_as_init_writes_it() -> None:
    assert keys.escrow_from("ab" * 32 + "\n") == b"\xab" * 32


class PowerCut(Exception):
    """The machine stops here."""


CHANGES: dict[str, Callable[[Path, bytes], object]] = {
    "rotate_box": lambda folder, _: keys.rotate_box(folder, os.urandom, NOW),
    "recover": lambda folder, escrow: keys.recover(folder, escrow, os.urandom, NOW),
    "rotate_escrow": lambda folder, _: keys.rotate_escrow(folder, bytes(32), NOW),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_crash_at_any_file_operation_of_a_change_leaves_keys_that_open_all_they_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    survived = 0
    while True:
        folder = tmp_path / str(survived)
        before, escrow = keys.create(folder, os.urandom)
        crash_after(survived, monkeypatch)
        try:
            CHANGES[name](folder, escrow)
            break
        except PowerCut:
            survived += 1
        finally:
            monkeypatch.undo()
        left = keys.load(folder)
        assert before.box_private in (left.box_private, *left.former_box)
        CHANGES[name](folder, escrow)
        assert before.box_private in (keys.load(folder).box_private, *keys.load(folder).former_box)
    assert survived >= 4


def crash_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the machine stop at the file operation that follows so many others."""
    left = calls

    def crashing(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCut
            return operation(*arguments, **named)

        return call

    monkeypatch.setattr(os, "fsync", crashing(os.fsync))
    monkeypatch.setattr(Path, "rename", crashing(Path.rename))


def test_offers_of_each_retailer_are_named_with_a_key_of_its_own(tmp_path: Path) -> None:
    made, _ = keys.create(tmp_path, os.urandom)
    assert len(made.offer_key("acme")) == 32
    assert made.offer_key("acme") == keys.load(tmp_path).offer_key("acme")
    assert made.offer_key("acme") != made.offer_key("other")
    other, _ = keys.create(tmp_path / "other", os.urandom)
    assert made.offer_key("acme") != other.offer_key("acme")


def test_what_is_told_of_the_keys_names_them_and_shows_none(tmp_path: Path) -> None:
    first, escrow = keys.create(tmp_path, os.urandom)
    keys.rotate_box(tmp_path, os.urandom, NOW)
    now = keys.recover(tmp_path, escrow, os.urandom, NOW)
    told = now.facts()
    assert told["box_key_id"] == key_id(now.box_public).hex()
    assert key_id(first.box_public).hex() in str(told["former_box_key_ids"])
    assert told["escrow_key_online"] is True
    secrets = (now.box_private, now.vault_key, escrow, *now.former_box)
    assert not any(secret.hex() in repr(told) or repr(secret) in repr(now) for secret in secrets)
