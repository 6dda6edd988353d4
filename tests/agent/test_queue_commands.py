"""`tillstream-agent queue`: what the server would not take can be seen, tried again and taken along."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.agents import enrolled, running_agent, sale
from support.gateways import Gateway, gateway
from tillstream_agent import export as export_module
from tillstream_agent.cli import main
from tillstream_agent.export import MAGIC, export
from tillstream_agent.folder import Folder, StateError
from tillstream_agent.inspection import ask
from tillstream_agent.state import State
from tillstream_agent.status import Status
from tillstream_protocol.codec import encode
from tillstream_protocol.framing import ChunkHeader, Frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import DeadLetter, decode_batch


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


async def sells(folder: Folder, first: int, count: int) -> None:
    """Sales over the socket, on the disk."""
    reader, writer = await asyncio.open_unix_connection(folder.socket)
    for number in range(first, first + count):
        writer.write(encode({"call": "transactions", "body": sale(str(number)), "ack": "disk"}))
        assert await reader.read(65_536)
    writer.close()


async def until(folder: Folder, records: int, aside: int) -> Status:
    """The agent's status, once its queue is so long."""
    async with asyncio.timeout(20):
        while ((status := await ask(folder)).queue.records, status.queue.aside) != (records, aside):
            await asyncio.sleep(0.01)
    return status


@asynccontextmanager
async def refused(server: Gateway, folder: Folder, *seqs: int) -> AsyncIterator[None]:
    """A running agent that has sold twenty times, and some of them refused."""
    server.refuses = set(seqs)
    async with running_agent(folder):
        await sells(folder, 0, 20)
        await until(folder, 0, len(seqs))
        yield


class Shell:
    """Runs commands, and reads what they print."""

    def __init__(self, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.code = 0
        self.err = ""

    async def __call__(self, *arguments: str | Path) -> str:
        given = ["queue", *map(str, arguments), "--state", str(self.folder.path)]
        self.code = await asyncio.to_thread(main, given)
        said = self.capsys.readouterr()
        self.err = said.err
        return said.out

    async def json(self, *arguments: str | Path) -> Any:
        return msgspec.json.decode(await self(*arguments, "--json"))


@pytest.fixture
def shell(folder: Folder, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(folder, capsys)


def exported(file: Path) -> list[tuple[bytes, int, bytes]]:
    """Epoch, seq and sealed record of everything in an export."""
    data = file.read_bytes()
    assert data.startswith(MAGIC)
    found, at = [], len(MAGIC)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        batch = decode_batch(data[at + 4 : at + 4 + size])
        epoch = ChunkHeader.decode(batch.header).epoch
        for part in scan(batch.frames):
            assert isinstance(part, Frame)
            found.append((epoch, part.header.seq, part.sealed))
        at += 4 + size
    assert at == len(data)
    return found


async def test_with_nothing_refused_the_list_is_empty_and_all_is_well(folder: Folder, shell: Shell) -> None:
    async with running_agent(folder):
        told = await shell.json("list")
    assert (told["records"], told["here"], told["server"], shell.code) == ([], 0, 0, 0)
    assert (await shell.json("list"))["records"] == []
    assert shell.code == 0


async def test_what_is_refused_is_listed_with_its_reason_running_or_not(
    server: Gateway, folder: Folder, shell: Shell
) -> None:
    async with refused(server, folder, 3, 11):
        running = await shell.json("list")
        assert shell.code == 5
        words = await shell("list")
        assert "transaction, waits, kept here, 1 tries" in words
        assert "unacceptable: this is unacceptable" in words
        assert (await ask(folder)).trouble == ("poison",)
    stopped = await shell.json("list")
    assert shell.code == 5
    assert [(line["seq"], line["code"], line["tries"], line["dead"]) for line in running["records"]] == [
        (3, "unacceptable", 1, False),
        (11, "unacceptable", 1, False),
    ]
    assert running == stopped


async def test_asked_for_all_of_it_is_taken_once_the_server_can(server: Gateway, folder: Folder, shell: Shell) -> None:
    async with refused(server, folder, 3, 11):
        server.refuses.clear()
        assert await shell.json("retry", "--all") == {"here": 2, "server": 0, "gone": 0}
        assert shell.code == 0
        status = await until(folder, 0, 0)
        assert status.trouble == ()
        assert (await shell.json("list"))["records"] == []
    assert server.seqs() == list(range(20))
    assert server.repeated == []


async def test_one_record_can_be_asked_for(server: Gateway, folder: Folder, shell: Shell) -> None:
    async with refused(server, folder, 3, 11):
        server.refuses.clear()
        epoch = (await ask(folder)).epoch
        assert epoch is not None
        assert (await shell.json("retry", "--epoch", epoch, "--seq", "11"))["here"] == 1
        await until(folder, 0, 1)
        assert (await shell.json("retry", "--epoch", epoch, "--seq", "4"))["here"] == 0
        assert shell.code == 1
        assert "no such record" in shell.err
    assert 3 not in server.seqs()
    assert 11 in server.seqs()


async def test_a_stopped_agents_records_are_tried_again_when_it_starts(
    server: Gateway, folder: Folder, shell: Shell
) -> None:
    async with refused(server, folder, 3, 11):
        pass
    server.refuses.clear()
    assert (await shell.json("retry", "--all"))["here"] == 2
    assert (await shell.json("list"))["records"] == []
    async with running_agent(folder):
        await until(folder, 0, 0)
    assert server.seqs() == list(range(20))


async def test_after_a_restart_what_was_refused_stays_set_aside(server: Gateway, folder: Folder, shell: Shell) -> None:
    async with refused(server, folder, 3):
        pass
    async with running_agent(folder):
        assert (await ask(folder)).queue.aside == 1
        assert len((await shell.json("list"))["records"]) == 1


@pytest.mark.parametrize("running", [True, False])
async def test_the_servers_own_dead_letters_are_listed_and_sent_again(
    server: Gateway, folder: Folder, shell: Shell, *, running: bool
) -> None:
    server.dead[5] = DeadLetter(5, "cannot_open", "altered")
    async with refused(server, folder):
        assert (await ask(folder)).dead_letters == 1
        told = await shell.json("list")
        assert [(line["seq"], line["kept"], line["dead"]) for line in told["records"]] == [(5, "server", True)]
        assert shell.code == 0
        server.dead.clear()
        if running:
            assert await shell.json("retry", "--all") == {"here": 0, "server": 1, "gone": 0}
            await server.until(lambda server: bool(server.repeated))
    if not running:
        assert await shell.json("retry", "--all") == {"here": 0, "server": 1, "gone": 0}
        async with running_agent(folder):
            await server.until(lambda server: bool(server.repeated))
    assert [seq for _, seq in server.repeated] == [5]
    assert (await shell.json("list"))["records"] == []


@pytest.mark.parametrize("arguments", [(), ("--all", "--epoch", "0" * 32), ("--seq", "1"), ("--epoch", "what")])
async def test_it_must_be_said_which_records(shell: Shell, arguments: tuple[str, ...]) -> None:
    await shell("retry", *arguments)
    assert shell.code == 2
    assert shell.err.count("\n") == 1


async def test_an_export_holds_what_is_set_aside_sealed_as_it_is_and_takes_nothing_away(
    server: Gateway, folder: Folder, shell: Shell, tmp_path: Path
) -> None:
    async with refused(server, folder, 3, 4, 11):
        told = await shell.json("export", tmp_path / "running")
        assert (told["records"], told["batches"], told["unreadable"]) == (3, 2, 0)
        assert (await ask(folder)).queue.aside == 3
    assert "3 records" in await shell("export", tmp_path / "stopped")
    kept = exported(tmp_path / "running")
    assert [seq for _, seq, _ in kept] == [3, 4, 11]
    assert exported(tmp_path / "stopped") == kept
    assert (tmp_path / "running").stat().st_mode & 0o077 == 0
    server.refuses.clear()
    await shell("retry", "--all")
    async with running_agent(folder):
        await until(folder, 0, 0)
    assert {name: server.records[name] for name in server.records if name[1] in (3, 4, 11)} == {
        (epoch, seq): sealed for epoch, seq, sealed in kept
    }


async def test_an_export_of_everything_holds_all_that_is_not_acknowledged(
    server: Gateway, folder: Folder, shell: Shell, tmp_path: Path
) -> None:
    async with refused(server, folder, 3):
        server.answers(503, times=100_000)
        await sells(folder, 20, 30)
        await shell("export", tmp_path / "running", "--all")
    await shell("export", tmp_path / "all", "--all")
    assert {seq for _, seq, _ in exported(tmp_path / "running")} >= {3, *range(20, 50)}
    assert sorted(seq for _, seq, _ in exported(tmp_path / "all")) == [3, *range(20, 50)]


async def test_an_export_never_overwrites(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    await shell("export", tmp_path / "there")
    assert shell.code == 2
    assert "exists" in shell.err
    assert (tmp_path / "there").read_text() == "mine"
    await shell("export", tmp_path / "none" / "file")
    assert shell.code == 1
    assert shell.err.count("\n") == 1


async def test_a_long_run_is_cut_into_batches_that_a_server_takes(
    server: Gateway, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "DEFAULT", replace(DEFAULT, batch=1024))
    server.answers(503, times=100_000)
    async with running_agent(folder):
        await sells(folder, 0, 30)
    done = export(folder.journal, lambda _: True, tmp_path / "all")
    assert done.batches > 5
    assert [seq for _, seq, _ in exported(tmp_path / "all")] == list(range(30))


async def test_files_that_cannot_be_read_are_counted_and_the_others_written(
    server: Gateway, folder: Folder, tmp_path: Path
) -> None:
    server.answers(503, times=100_000)
    async with running_agent(folder):
        await sells(folder, 0, 5)
    (folder.journal / "0000000099.chunk").write_bytes(b"\0" * 3000)
    (folder.journal / "0000000098.chunk").mkdir()
    done = export(folder.journal, lambda _: True, tmp_path / "all")
    assert (done.records, done.unreadable) == (5, 2)


async def test_an_export_that_finds_no_room_leaves_nothing_behind(
    server: Gateway, folder: Folder, shell: Shell, tmp_path: Path
) -> None:
    async with refused(server, folder, *range(20)):
        pass
    (tmp_path / "stick").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(StateError, match="cannot be written"):
            export(folder.journal, lambda _: True, tmp_path / "stick" / "all")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "stick").iterdir()) == []


async def test_an_agent_starts_and_sells_with_a_damaged_state_file(server: Gateway, folder: Folder) -> None:
    async with refused(server, folder, 3):
        pass
    folder.database.write_bytes(b"\xff" * 8192)
    server.refuses.clear()
    async with running_agent(folder) as (_, log):
        await sells(folder, 20, 5)
        await until(folder, 0, 0)
        assert "state_set_aside" in log.getvalue()
        assert (await ask(folder)).trouble == ()
    assert len(server.records) == 25
    assert folder.database.with_name("state.db.damaged").exists()


async def test_an_agent_sells_and_sends_while_its_state_cannot_be_written(server: Gateway, folder: Folder) -> None:
    for part in ("", "-wal", "-shm"):
        folder.database.with_name(f"state.db{part}").unlink(missing_ok=True)
    folder.database.mkdir()
    async with running_agent(folder):
        await sells(folder, 0, 5)
        await server.until(lambda server: len(server.records) == 5)
        assert (await ask(folder)).trouble[-1] == "state_unavailable"
        folder.database.rmdir()
        await sells(folder, 5, 5)
        async with asyncio.timeout(20):
            while not (await State.peek_acked(folder.database)).values():
                await asyncio.sleep(0.05)
        assert "state_unavailable" not in (await ask(folder)).trouble
    assert server.seqs() == list(range(10))


async def test_status_tells_of_refused_records_and_damaged_files(
    server: Gateway, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    server.dead[5] = DeadLetter(5, "cannot_open", "altered")
    async with refused(server, folder, 3):
        (folder.journal / "0000000077.torn").touch()
        assert await asyncio.to_thread(main, ["status", "--state", str(folder.path)]) == 5
        running = capsys.readouterr().out
        status = await ask(folder)
    assert (status.damaged_files, status.dead_letters, status.reserve) == (1, 1, DEFAULT.reserve)
    await asyncio.to_thread(main, ["status", "--state", str(folder.path)])
    stopped = capsys.readouterr().out
    for told in (running, stopped):
        assert "1 kept here, 1 at the server" in told
        assert "1 files of the journal" in told
