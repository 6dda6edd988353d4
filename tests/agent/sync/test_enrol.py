"""Joining: the server proves itself before it gets a secret, and the agent has joined wholly or not at all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.agents import Telling, enrolled
from support.gateways import TILL_ID, Gateway, gateway
from tillstream_agent.folder import AlreadyRunning, Folder, NotEnrolled, StateError
from tillstream_agent.state import State
from tillstream_agent.sync.enrol import AlreadyEnrolled, Return, WrongServer
from tillstream_agent.sync.transport import Refused, Transport, Unreachable
from tillstream_protocol import versions
from tillstream_protocol.errors import Damaged, InvalidInput
from tillstream_protocol.messages import (
    Certificate,
    Range,
    SignedCertificate,
    introduction_bytes,
    open_certificate,
    sign_certificate,
)
from tillstream_protocol.signing import SignKey
from tillstream_protocol.versions import VersionMismatch


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


def is_enrolled(path: Path) -> bool:
    try:
        Folder(path).identity()
    except NotEnrolled:
        return False
    return True


async def test_an_agent_joins_as_the_till_that_the_server_gives(server: Gateway, tmp_path: Path) -> None:
    folder = await enrolled(tmp_path / "state", server)
    who = folder.identity()
    assert (who.till_id, who.retailer, who.store, who.till, who.currency) == (TILL_ID, "acme", "north", "1", "USD")
    assert (who.server, who.server_public) == (server.address, server.key.public)
    assert folder.device_key(who).public == server.device
    state = await State.open(folder.database)
    assert await state.load_pack() is not None
    await state.close()


async def test_another_server_than_the_tokens_gets_no_secret(server: Gateway, tmp_path: Path) -> None:
    token = server.token()
    server.key = SignKey(os.urandom(32))
    server.token = lambda: token  # type: ignore[method-assign]
    with pytest.raises(WrongServer):
        await enrolled(tmp_path, server)
    assert server.enrolments == []
    assert not is_enrolled(tmp_path)


async def test_a_server_that_shows_a_key_it_does_not_hold_gets_no_secret(server: Gateway, tmp_path: Path) -> None:
    class Borrowed(SignKey):
        def sign(self, message: bytes) -> bytes:
            return SignKey(b"x" * 32).sign(message)

    server.key = Borrowed(os.urandom(32))
    with pytest.raises(WrongServer, match="does not hold its key"):
        await enrolled(tmp_path, server)
    assert server.enrolments == []


async def test_a_server_of_another_version_is_told_of(
    server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tillstream_agent.sync.enrol.PROTOCOL", versions.PROTOCOL + 1)
    with pytest.raises(VersionMismatch):
        await enrolled(tmp_path, server)
    assert server.enrolments == []


async def test_a_refused_token_leaves_nothing_but_a_key(server: Gateway, tmp_path: Path) -> None:
    server.secret = os.urandom(16)
    token = server.token()
    server.secret = os.urandom(16)
    server.token = lambda: token  # type: ignore[method-assign]
    with pytest.raises(Refused) as caught:
        await enrolled(tmp_path, server)
    assert caught.value.code == "token_unknown"
    assert not is_enrolled(tmp_path)
    assert not Folder(tmp_path).database.exists()


async def test_a_lost_answer_is_asked_for_again_with_the_same_key(server: Gateway, tmp_path: Path) -> None:
    server.passes()
    server.drops_enrolment()
    with pytest.raises(Unreachable):
        await enrolled(tmp_path, server)
    assert not is_enrolled(tmp_path)
    await enrolled(tmp_path, server)
    assert len({asked.device_public_key for asked in server.enrolments}) == 1


async def test_a_key_that_the_server_will_not_have_is_not_offered_again(server: Gateway, tmp_path: Path) -> None:
    server.passes()
    server.answers(403, "revoked")
    with pytest.raises(Refused):
        await enrolled(tmp_path, server)
    assert not Folder(tmp_path).next_device_key_file.exists()


@pytest.mark.parametrize("trouble", ["answers", "answers_nonsense"])
async def test_a_server_in_trouble_leaves_nothing_half_done(server: Gateway, tmp_path: Path, trouble: str) -> None:
    if trouble == "answers":
        server.answers(503)
    else:
        server.answers_nonsense()
    with pytest.raises((Unreachable, InvalidInput)):
        await enrolled(tmp_path, server)
    assert not is_enrolled(tmp_path)


async def test_a_pack_that_is_not_the_servers_is_refused(server: Gateway, tmp_path: Path) -> None:
    server.pack_till = b"x" * 16
    with pytest.raises(Damaged):
        await enrolled(tmp_path, server)
    assert not is_enrolled(tmp_path)


async def test_a_range_of_versions_that_was_altered_on_the_way_gives_the_server_away(
    server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signed_another(nonce: bytes, one: bytes, two: bytes, three: bytes, first: int, last: int) -> bytes:
        return introduction_bytes(nonce, one, two, three, first, last + 1)

    monkeypatch.setattr("support.gateways.messages.introduction_bytes", signed_another)
    with pytest.raises(WrongServer, match="does not hold its key"):
        await enrolled(tmp_path, server)
    assert server.enrolments == []


async def test_the_certificate_is_kept(server: Gateway, tmp_path: Path) -> None:
    who = (await enrolled(tmp_path, server)).identity()
    assert who.certificate is not None
    certificate = open_certificate(who.certificate, server.key.public)
    assert (certificate.till_id, certificate.device_public_key) == (TILL_ID, server.device)


@pytest.mark.parametrize("fault", ["another device", "another till", "another server"])
async def test_a_certificate_of_no_use_is_refused(server: Gateway, tmp_path: Path, fault: str) -> None:
    def wrong(device: bytes) -> SignedCertificate:
        device = SignKey(b"x" * 32).public if fault == "another device" else device
        till = b"x" * 16 if fault == "another till" else TILL_ID
        signer = SignKey(b"x" * 32) if fault == "another server" else server.key
        return sign_certificate(Certificate(till, "acme", "north", "1", device, 0), signer)

    server.certificate = wrong  # type: ignore[method-assign]
    with pytest.raises(Damaged):
        await enrolled(tmp_path, server)
    assert not is_enrolled(tmp_path)


async def test_replacing_keeps_the_former_devices_key(server: Gateway, tmp_path: Path) -> None:
    folder = await enrolled(tmp_path, server)
    before = folder.device_key(folder.identity())
    server.till_id = b"2" * 16
    await enrolled(tmp_path, server, replace=True)
    assert folder.identity().till_id == b"2" * 16
    assert [key.public for key in folder.former_keys().values()] == [before.public]
    assert folder.device_key(folder.identity()).public == server.device != before.public


async def test_replacing_after_an_enrolment_that_was_cut_short_takes_a_fresh_key(
    server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short after identity.json was written: the key in use still has the name of the next one."""
    rename = os.replace

    def cut_short(source: Path, target: Path) -> None:
        if target == folder.device_key_file:
            raise OSError(5, "the power went")
        rename(source, target)

    folder = await enrolled(tmp_path, server)
    first = folder.device_key(folder.identity())
    monkeypatch.setattr("tillstream_agent.folder.os.replace", cut_short)
    with pytest.raises(StateError):
        await enrolled(tmp_path, server, replace=True)
    monkeypatch.undo()
    second = server.device
    await enrolled(tmp_path, server, replace=True)
    assert {key.public for key in folder.former_keys().values()} == {first.public, second}
    assert server.device not in (first.public, second)


@dataclass
class Forgotten:
    """A till whose server was restored from a backup older than its enrolment."""

    folder: Folder
    telling: Telling
    asks: Callable[[], Awaitable[bool]]


@pytest.fixture
async def forgotten(server: Gateway, tmp_path: Path) -> AsyncIterator[Forgotten]:
    folder = await enrolled(tmp_path, server)
    who = folder.identity()
    telling = Telling()
    transport = Transport(server.address, tls=None, timeout=5)
    server.forgets_till()
    yield Forgotten(folder, telling, Return(transport, folder.device_key(who), who.certificate, telling.events).ask)
    await transport.close()


async def test_a_server_that_forgot_the_till_takes_it_back_by_its_certificate(
    server: Gateway, forgotten: Forgotten
) -> None:
    before = forgotten.folder.identity()
    assert await forgotten.asks()
    assert server.returns == [TILL_ID]
    assert server.device == forgotten.folder.device_key(before).public
    assert forgotten.folder.identity() == before
    assert forgotten.telling.counted("returns", outcome="taken_back") == 1
    assert forgotten.telling.said() == ["returned"]


@pytest.mark.parametrize(("status", "code"), [(403, "revoked"), (404, "not_found"), (503, "unreachable")])
async def test_a_server_that_does_not_take_the_till_back_changes_nothing(
    server: Gateway, forgotten: Forgotten, status: int, code: str
) -> None:
    before = {file: file.read_bytes() for file in forgotten.folder.path.iterdir() if file.is_file()}
    server.answers(status, code)
    assert not await forgotten.asks()
    assert {file: file.read_bytes() for file in forgotten.folder.path.iterdir() if file.is_file()} == before
    assert forgotten.telling.counted("returns", outcome="refused") == 1
    assert forgotten.telling.lines()[0]["code"] == code


async def test_an_answer_that_cannot_be_read_is_no_return(server: Gateway, forgotten: Forgotten) -> None:
    server.answers_nonsense()
    assert not await forgotten.asks()


async def test_without_a_certificate_nothing_is_asked(server: Gateway, forgotten: Forgotten) -> None:
    transport = Transport(server.address, tls=None, timeout=5)
    device = forgotten.folder.device_key(forgotten.folder.identity())
    assert not await Return(transport, device, None, forgotten.telling.events).ask()
    await transport.close()
    assert server.returns == []
    assert forgotten.telling.said() == []


async def test_enrolling_twice_needs_to_be_asked_for(server: Gateway, tmp_path: Path) -> None:
    before = (await enrolled(tmp_path, server)).identity()
    with pytest.raises(AlreadyEnrolled) as caught:
        await enrolled(tmp_path, server)
    assert caught.value.hint is not None
    assert "--replace" in caught.value.hint
    assert Folder(tmp_path).identity() == before


async def test_replacing_keeps_journal_token_and_acknowledgements(server: Gateway, tmp_path: Path) -> None:
    folder = await enrolled(tmp_path, server)
    folder.journal.mkdir()
    (folder.journal / "0000000001.chunk").write_bytes(b"queued")
    token, tag_key = folder.hook_token(), folder.tag_key()
    state = await State.open(folder.database)
    await state.save_acked({b"e" * 16: (Range(0, 3),)})
    await state.note_push(9)
    await state.close()
    await enrolled(tmp_path, server, replace=True)
    assert (folder.journal / "0000000001.chunk").read_bytes() == b"queued"
    assert (folder.hook_token(), folder.tag_key()) == (token, tag_key)
    state = await State.open(folder.database)
    assert await state.load_acked() == {b"e" * 16: (Range(0, 3),)}
    assert await state.last_push() == 0
    await state.close()


async def test_a_running_agent_is_not_replaced_under_its_feet(server: Gateway, tmp_path: Path) -> None:
    folder = await enrolled(tmp_path, server)
    with folder.locked(), pytest.raises(AlreadyRunning):
        await enrolled(tmp_path, server, replace=True)
