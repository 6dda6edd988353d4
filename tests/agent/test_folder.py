"""The state folder is its user's alone, and an enrolment is there whole or not at all."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tillstream_agent.folder import (
    AlreadyRunning,
    Folder,
    Identity,
    NotEnrolled,
    StateError,
    default_folder,
    write_private,
)
from tillstream_protocol.messages import SignedCertificate
from tillstream_protocol.signing import SignKey


def identity(key: SignKey) -> Identity:
    keys = (b"s" * 32, b"b" * 32, b"e" * 32)
    return Identity("https://head.example", b"t" * 16, "acme", "north", "1", "USD", key.key_id, *keys, enrolled_ms=7)


def enrolled(path: Path) -> Folder:
    folder = Folder(path)
    folder.create()
    folder.become(identity(SignKey(folder.next_seed(os.urandom))), os.urandom)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_identity_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    folder = enrolled(tmp_path / "state")
    found = folder.identity()
    assert found == identity(folder.device_key(found))


def test_a_certificate_is_kept_with_the_identity(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    certified = replace(folder.identity(), certificate=SignedCertificate(b"payload", b"s" * 64))
    folder.rewrite(certified)
    assert folder.identity() == certified


def test_an_identity_from_before_there_were_certificates_is_read(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    plain = msgspec.json.decode(folder.identity_file.read_bytes())
    del plain["certificate"]
    folder.identity_file.write_bytes(msgspec.json.encode(plain))
    assert folder.identity().certificate is None


def test_everything_is_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    folder = enrolled(path)
    assert mode(path) == 0o700
    for file in (folder.identity_file, folder.device_key_file, folder.tag_key_file, folder.token_file):
        assert mode(file) == 0o600


def test_an_empty_folder_is_not_enrolled(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled) as caught:
        Folder(tmp_path / "none").identity()
    assert caught.value.hint is not None
    assert "enroll" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"server": 1}'])
def test_a_damaged_identity_is_told_of_and_left_alone(tmp_path: Path, content: bytes) -> None:
    folder = enrolled(tmp_path)
    folder.identity_file.write_bytes(content)
    with pytest.raises(StateError, match="damaged"):
        folder.identity()
    assert folder.identity_file.read_bytes() == content


def test_an_unreadable_identity_is_told_of(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.identity_file.mkdir()
    with pytest.raises(StateError, match="cannot be used"):
        folder.identity()


def test_an_attempt_without_an_answer_leaves_its_key_for_the_next(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    first = folder.next_seed(os.urandom)
    assert folder.next_seed(os.urandom) == first
    folder.drop_next_seed()
    assert folder.next_seed(os.urandom) != first


def test_a_crash_before_the_decisive_step_leaves_the_former_identity(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    before = folder.identity()
    folder.next_seed(os.urandom)
    assert folder.device_key(folder.identity()).key_id == before.device_key_id


def test_a_crash_after_the_decisive_step_is_finished_at_the_next_start(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    key = SignKey(folder.next_seed(os.urandom))
    write_private(folder.identity_file, replace(folder.identity(), device_key_id=key.key_id).encode())
    assert folder.device_key(folder.identity()).public == key.public
    assert not folder.next_device_key_file.exists()
    assert folder.device_key(folder.identity()).public == key.public


def test_enrolling_anew_keeps_tag_key_and_hook_token(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    kept = (folder.tag_key(), folder.hook_token())
    before = folder.device_key(folder.identity()).public
    folder.become(identity(SignKey(folder.next_seed(os.urandom))), os.urandom)
    assert (folder.tag_key(), folder.hook_token()) == kept
    assert folder.device_key(folder.identity()).public != before


def enrol_again(folder: Folder) -> SignKey:
    """Take a new device key, in the order in which an enrolment does it."""
    key = SignKey(folder.next_seed(os.urandom))
    folder.become(identity(key), os.urandom)
    return key


def test_the_keys_of_former_enrolments_are_kept_until_they_are_dropped(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    assert folder.former_keys() == {}
    first = folder.device_key(folder.identity())
    second = enrol_again(folder)
    enrol_again(folder)
    kept = folder.former_keys()
    assert {name: key.public for name, key in kept.items()} == {
        first.key_id: first.public,
        second.key_id: second.public,
    }
    assert mode(folder.former) == 0o700
    assert {mode(file) for file in folder.former.iterdir()} == {0o600}
    folder.drop_former(first.key_id)
    folder.drop_former(first.key_id)
    assert set(folder.former_keys()) == {second.key_id}


def test_the_former_key_is_on_the_disk_before_the_new_identity_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = enrolled(tmp_path)
    before = folder.identity()
    first = folder.device_key(before)

    def full(file: Path, content: bytes) -> None:
        if file == folder.identity_file:
            raise OSError(28, "no space")
        write_private(file, content)

    monkeypatch.setattr("tillstream_agent.folder.write_private", full)
    with pytest.raises(StateError):
        enrol_again(folder)
    assert folder.identity() == before
    assert folder.device_key(before).public == first.public
    assert set(folder.former_keys()) == {first.key_id}


def test_each_step_of_a_new_enrolment_is_on_the_disk_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut at any of them there is one whole identity, and every key that it needs."""
    folder = enrolled(tmp_path)
    former = folder.device_key(folder.identity()).key_id.hex()
    steps: list[str] = []
    sync, rename = os.fsync, os.replace

    def noted_sync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        steps.append(f"sync {'content' if path.name.startswith('.') else path.relative_to(tmp_path)}")
        sync(handle)

    def noted_rename(source: Path, target: Path) -> None:
        steps.append(f"name {target.relative_to(tmp_path)}")
        rename(source, target)

    key = SignKey(folder.next_seed(os.urandom))
    monkeypatch.setattr("tillstream_agent.folder.os.fsync", noted_sync)
    monkeypatch.setattr("tillstream_agent.folder.os.replace", noted_rename)
    folder.become(identity(key), os.urandom)
    assert steps == [
        "sync content",
        f"name former/{former}.key",
        "sync former",
        "sync .",
        "sync content",
        "name identity.json",
        "sync .",
        "name device.key",
    ]


def test_without_room_for_the_former_key_there_is_no_new_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = enrolled(tmp_path)
    before = folder.identity()

    def full(file: Path, content: bytes) -> None:
        if file.parent == folder.former:
            raise OSError(28, "no space")
        write_private(file, content)

    monkeypatch.setattr("tillstream_agent.folder.write_private", full)
    with pytest.raises(StateError):
        enrol_again(folder)
    assert folder.identity() == before


def test_a_damaged_former_key_is_left_out(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    enrol_again(folder)
    (folder.former / "0000000000000000.key").write_bytes(b"short")
    assert len(folder.former_keys()) == 1


def test_a_key_that_is_gone_or_cut_is_told_of(tmp_path: Path) -> None:
    folder = enrolled(tmp_path)
    folder.device_key_file.write_bytes(b"short")
    folder.tag_key_file.unlink()
    folder.token_file.write_text("short")
    for read in (lambda: folder.device_key(folder.identity()), folder.tag_key, folder.hook_token):
        with pytest.raises(StateError):
            read()
    folder.token_file.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        folder.hook_token()


def test_one_agent_a_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert not folder.is_running()
    with folder.locked():
        assert Folder(tmp_path).is_running()
        with pytest.raises(AlreadyRunning), Folder(tmp_path).locked():
            pass
    assert not folder.is_running()


def test_a_file_in_the_folders_place_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be used"):
        Folder(tmp_path / "file").create()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "full").touch()
    with pytest.raises(OSError, match="target"):
        write_private(target, b"content")
    assert list(tmp_path.iterdir()) == [target]


def test_the_default_place_follows_the_environment() -> None:
    assert default_folder({"TILLSTREAM_STATE": "/a", "XDG_STATE_HOME": "/b"}) == Path("/a")
    assert default_folder({"XDG_STATE_HOME": "/b"}) == Path("/b/tillstream-agent")
    assert default_folder({}) == Path.home() / ".local/state/tillstream-agent"
