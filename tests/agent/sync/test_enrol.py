"""Joining: the server proves itself before it gets a secret, and the agent has joined wholly or not at all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.agents import enrolled
from support.gateways import TILL_ID, Gateway, gateway
from tillstream_agent.folder import AlreadyRunning, Folder, NotEnrolled
from tillstream_agent.state import State
from tillstream_agent.sync.enrol import AlreadyEnrolled, WrongServer
from tillstream_agent.sync.transport import Refused, Unreachable
from tillstream_protocol import versions
from tillstream_protocol.errors import Damaged, InvalidInput
from tillstream_protocol.messages import Range
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
