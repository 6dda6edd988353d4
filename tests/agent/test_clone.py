"""A folder forgets which till it was, and nothing that is queued is thrown away unasked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import msgspec
import pytest

from support.agents import enrolled, running_agent, sale
from support.gateways import gateway
from tillstream_agent.cli import main
from tillstream_agent.clone import QueueNotEmpty, reset
from tillstream_agent.folder import AlreadyRunning, Folder, StateError
from tillstream_agent.inspection import ask
from tillstream_protocol.errors import InvalidInput


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    """Of a till whose server is gone."""
    async with gateway() as server:
        return await enrolled(tmp_path / "state", server)


async def sell(folder: Folder) -> None:
    """One sale by the agent that runs on a folder."""
    headers = {"Authorization": f"Bearer {folder.hook_token()}"}
    where = f"http://127.0.0.1:{folder.port_file.read_text().strip()}/v1/transactions?ack=disk"
    async with aiohttp.ClientSession(headers=headers) as client:
        answer = await client.post(where, json=msgspec.to_builtins(sale()))
        assert answer.status == 201


def left(folder: Folder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


async def test_nothing_that_names_the_till_is_left(folder: Folder) -> None:
    assert "identity.json" in left(folder)
    done = await reset(folder)
    assert left(folder) == {"agent.lock"}
    assert done.removed[0] == "identity.json"
    assert done.discarded == 0
    async with gateway() as server:
        again = await enrolled(folder.path, server)
    assert again.identity().till == "1"


async def test_a_file_of_every_kind_that_an_agent_writes_goes(tmp_path: Path) -> None:
    async with gateway() as server:
        folder = await enrolled(tmp_path / "state", server)
        async with running_agent(folder):
            await sell(folder)
            while (await ask(folder)).queue.records:
                await asyncio.sleep(0.01)
    for name in ("agent.log", "agent.log.1"):
        (folder.path / name).write_text("said by another till")
    assert {"journal", "state.db"} <= left(folder)
    await reset(folder)
    assert left(folder) == {"agent.lock"}


async def test_queued_records_stay_until_their_number_is_named(folder: Folder) -> None:
    async with running_agent(folder):
        await sell(folder)
    before = left(folder)
    with pytest.raises(QueueNotEmpty, match="1 records") as caught:
        await reset(folder)
    assert "--discard 1" in str(caught.value.hint)
    for wrong in (0, 2):
        with pytest.raises(InvalidInput, match="there are 1 to discard"):
            await reset(folder, discard=wrong)
    assert before <= left(folder)
    assert (await reset(folder, discard=1)).discarded == 1
    assert left(folder) == {"agent.lock"}


async def test_damaged_files_count_too(folder: Folder) -> None:
    folder.journal.mkdir(exist_ok=True)
    (folder.journal / "0.chunk.damaged").write_bytes(b"x")
    with pytest.raises(QueueNotEmpty):
        await reset(folder)


async def test_a_reset_that_was_cut_short_can_be_done_again(folder: Folder) -> None:
    async with running_agent(folder):
        await sell(folder)
    folder.identity_file.unlink()
    with pytest.raises(QueueNotEmpty):
        await reset(folder)
    assert (await reset(folder, discard=1)).discarded == 1


async def test_a_running_agent_keeps_its_identity(folder: Folder) -> None:
    async with running_agent(folder):
        with pytest.raises(AlreadyRunning):
            await reset(folder)
    assert folder.identity_file.exists()


async def test_what_cannot_be_removed_is_named(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StateError, match=r"identity\.json could not be removed: Permission denied"):
        await reset(folder)


def test_a_folder_that_is_not_there_is_no_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clone-reset", "--state", str(tmp_path / "none")]) == 0
    assert "holds no till" in capsys.readouterr().out


def test_the_command_says_what_is_thrown_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / "0.chunk.damaged").write_bytes(b"x")
    assert main(["clone-reset", "--state", str(tmp_path)]) == 1
    assert "--discard 1" in capsys.readouterr().err
    assert main(["clone-reset", "--state", str(tmp_path), "--discard", "1", "--json"]) == 0
    said = capsys.readouterr()
    assert msgspec.json.decode(said.out) == {"removed": ["journal"], "discarded": 1}
    assert "1 records or damaged files were thrown away" in said.err
