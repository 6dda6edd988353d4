"""The command line: stdout is data, stderr is talk, and the exit code says what happened."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from support.agents import enrolled, running_agent, sale
from support.gateways import TILL_ID, Gateway, gateway
from tillstream_agent import __version__
from tillstream_agent.cli import main, status_code
from tillstream_agent.config import Config
from tillstream_agent.folder import Folder
from tillstream_agent.hooks.pairing import TRIES
from tillstream_agent.inspection import NoAnswer
from tillstream_agent.status import QueueStatus, Status
from tillstream_protocol.messages import DeadLetter, Token


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / "state", server)


async def command(*arguments: str | Path) -> int:
    """The exit code of a command, run beside the test's own loop."""
    return await asyncio.to_thread(main, [str(argument) for argument in arguments])


async def test_enroll_joins_and_says_as_what(
    server: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await command("enroll", "--server", server.address, "--token", server.token(), "--state", tmp_path / "s")
    assert code == 0
    assert "till 1 of store north, acme" in capsys.readouterr().out
    assert Folder(tmp_path / "s").identity().till_id == TILL_ID


async def test_enroll_notes_the_machine(
    server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tillstream_agent.cli.machine_id", lambda: "a" * 32)
    arguments = ("enroll", "--server", server.address, "--token", server.token(), "--state", tmp_path / "s")
    assert await command(*arguments) == 0
    assert Folder(tmp_path / "s").is_of_another_machine("b" * 32)
    assert not Folder(tmp_path / "s").is_of_another_machine("a" * 32)


async def test_enroll_in_json(server: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("enroll", "--server", server.address, "--token", server.token(), "--state", tmp_path / "s", "--json")
    assert await command(*arguments) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["till_id"] == TILL_ID.hex()


async def test_enrolling_twice_is_refused_until_asked_for(
    server: Gateway, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("enroll", "--server", server.address, "--token", server.token(), "--state", folder.path)
    assert await command(*arguments) == 1
    assert "--replace" in capsys.readouterr().err
    assert await command(*arguments, "--replace") == 0


async def test_a_refused_token_is_told_of_in_one_sentence(
    server: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Token.parse(server.token())
    wrong = Token(os.urandom(16), real.fingerprint).text()
    assert await command("enroll", "--server", server.address, "--token", wrong, "--state", tmp_path / "s") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "tillstream-agent: this is token_unknown\n"


@pytest.mark.parametrize(
    ("address", "token", "code", "said"),
    [
        ("http://127.0.0.1:1", None, 4, "cannot be reached"),
        ("http://head.example", None, 2, "plain HTTP"),
        ("http://127.0.0.1:1", "ts1.AAAA", 2, "not an enrolment token"),
        ("http://127.0.0.1:1", "ts1.!", 2, "not a key or token"),
        ("http://127.0.0.1:1", "???", 2, "not an enrolment token"),
    ],
)
async def test_what_cannot_work_is_refused(
    server: Gateway,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    address: str,
    token: str | None,
    code: int,
    said: str,
) -> None:
    given = token or server.token()
    assert await command("enroll", "--server", address, "--token", given, "--state", tmp_path / "s") == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert given not in err


async def test_status_of_a_running_agent(server: Gateway, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_agent(folder):
        await server.until(lambda server: bool(server.vitals))
        assert await command("status", "--state", folder.path) == 0
        assert "online" in capsys.readouterr().out
        assert await command("status", "--state", folder.path, "--json") == 0
        status = msgspec.json.decode(capsys.readouterr().out)
    assert (status["running"], status["till"], status["queue"]["records"]) == (True, "1", 0)


async def test_status_tells_how_fast_hooks_are_only_where_there_were_calls(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_agent(folder, Config(hook_port=0, sync_heartbeat_s=3600)) as (port, _):
        await command("status", "--state", folder.path)
        assert f"port {port}, no calls since the last heartbeat" in capsys.readouterr().out
        headers = {"Authorization": f"Bearer {folder.hook_token()}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            for _ in range(2):  # the first heartbeat may come between, and begins to count anew
                await client.post(f"http://127.0.0.1:{port}/v1/transactions", json=msgspec.to_builtins(sale()))
                await command("status", "--state", folder.path)
        assert " µs, p99 " in capsys.readouterr().out


async def test_status_of_a_stopped_agent_is_degraded(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert await command("status", "--state", folder.path) == 5
    assert "not running" in capsys.readouterr().out


async def test_without_an_identity_it_is_not_enrolled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("status", "doctor", "run", "display"):
        assert await command(name, "--state", tmp_path) == 3, name
    assert "enroll" in capsys.readouterr().err


async def test_doctor_finds_problems_and_none(
    server: Gateway, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("doctor", "--state", folder.path) == 6
    told = capsys.readouterr().out
    assert "PROBLEM agent: not running" in told
    assert "fix: start it" in told
    assert "\x1b" not in told
    async with running_agent(folder):
        await server.until(lambda server: bool(server.vitals))
        assert await command("doctor", "--state", folder.path, "--json") == 0
    findings = msgspec.json.decode(capsys.readouterr().out)["findings"]
    assert {finding["verdict"] for finding in findings} == {"ok"}


async def test_doctor_colours_a_terminal_unless_told_not_to(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    await command("doctor", "--state", folder.path)
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    await command("doctor", "--state", folder.path)
    assert "\x1b" not in capsys.readouterr().out


async def test_display_prints_a_link_that_opens_the_page_once(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("display", "--state", folder.path) == 1
    assert "no agent runs" in capsys.readouterr().err
    async with running_agent(folder), aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        assert await command("display", "--state", folder.path) == 0
        link = capsys.readouterr().out.strip()
        assert folder.hook_token() not in link
        async with browser.get(link) as page:
            assert page.status == 200
            assert "aria-live" in await page.text()
        async with aiohttp.ClientSession() as another, another.get(link) as page:
            assert page.status == 401


async def test_display_opens_the_link_where_there_is_a_browser(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def browser(link: str) -> bool:
        opened.append(link)
        return False

    monkeypatch.setattr(webbrowser, "open", browser)
    async with running_agent(folder):
        assert await command("display", "--state", folder.path, "--open") == 0
    told = capsys.readouterr()
    assert opened == [told.out.strip()]
    assert "no browser could be opened" in told.err


async def test_display_says_why_the_code_before_is_gone(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_agent(folder), aiohttp.ClientSession() as program:
        await command("display", "--state", folder.path)
        told = capsys.readouterr()
        assert "wrong tries" not in told.err
        address = told.out.partition("/display")[0] + "/v1/pair"
        for _ in range(TRIES):
            async with program.post(address, json={"code": "WRONG"}) as reply:
                assert reply.status == 403
        assert await command("display", "--state", folder.path) == 0
        assert "ended by wrong tries" in capsys.readouterr().err


async def test_display_ends_every_pairing_of_an_agent_that_runs_or_not(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    for stopped in (False, True):
        async with running_agent(folder), aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            await command("display", "--state", folder.path)
            link = capsys.readouterr().out.strip()
            async with browser.get(link) as page:
                assert page.status == 200
            if not stopped:
                assert await command("display", "--state", folder.path, "--forget") == 0
                assert capsys.readouterr().out == "ended 1 pairings\n"
                async with browser.get(link.partition("?")[0]) as page:
                    assert page.status == 401
    assert await command("display", "--state", folder.path, "--forget") == 0
    assert capsys.readouterr().out == "ended 1 pairings\n"


async def test_a_wrong_setting_is_a_matter_of_usage(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert await command("run", "--state", folder.path, "--hook-port", "high") == 2
    assert "hook.port" in capsys.readouterr().err
    assert await command("doctor", "--state", folder.path, "--config", folder.path / "none.toml") == 2


@pytest.mark.parametrize("arguments", [(), ("dance",), ("enroll",), ("status", "--colour")])
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        *(("status", "--watch", value) for value in ("nan", "inf", "-1", "0", "soon", "86401")),
        *(("simulate", "--wait", value) for value in ("nan", "-inf", "-0.1", "1e9")),
        *(("logs", "--lines", value) for value in ("-1", "1.5", "many", "9" * 20)),
        ("queue retry", "--seq", "-1"),
        ("clone-reset", "--discard", "-1"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused_by_its_flag(
    command: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), f"{flag}={value}"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{flag}: {value!r} is not allowed; give " in said


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("running", "online", "trouble", "code"),
    [
        (True, True, (), 0),
        (True, False, (), 4),
        (True, False, ("unavailable", "unreachable"), 4),
        (True, True, ("unavailable",), 5),
        (True, False, ("revoked",), 5),
        (True, True, ("journal_full",), 5),
        (False, False, (), 5),
    ],
)
def test_the_exit_code_tells_an_unheard_server_from_worse(
    *, running: bool, online: bool, trouble: tuple[str, ...], code: int
) -> None:
    queue = QueueStatus(0, 0, 0)
    status = Status(running, "1", "https://h", "00", "r", "s", "t", queue, online=online, trouble=trouble)
    assert status_code(status) == code


def _heed_interrupts() -> None:
    """Whoever runs the tests in a shell's background has them, and what they start, ignore interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@asynccontextmanager
async def process(*arguments: str | Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command as a process of its own."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tillstream_agent.cli",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=_heed_interrupts,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("more", [(), ("--no-uvloop",)])
async def test_run_ends_cleanly_when_asked_to(folder: Folder, number: signal.Signals, more: tuple[str, ...]) -> None:
    async with process("run", "--state", folder.path, "--hook-port", "0", *more) as agent:
        assert agent.stderr is not None
        started = msgspec.json.decode(await agent.stderr.readline())
        assert started["event"] == "started"
        agent.send_signal(number)
        out, err = await agent.communicate()
    assert agent.returncode == 0
    assert out == b""
    assert b"stopping" in err
    assert not folder.socket.exists()


@pytest.mark.system
async def test_display_waits_for_an_agent_that_starts(folder: Folder) -> None:
    async with process("run", "--state", folder.path, "--hook-port", "0") as agent:
        async with process("display", "--state", folder.path) as display:
            out, err = await display.communicate()
        assert display.returncode == 0
        assert b"good once" in err
        port = folder.port_file.read_text().strip()
        assert out.decode().startswith(f"http://127.0.0.1:{port}/display?code=")
        agent.terminate()
        await agent.communicate()
    assert agent.returncode == 0


@pytest.mark.system
async def test_a_glance_at_the_lock_does_not_keep_an_agent_from_starting(folder: Folder) -> None:
    async with process("run", "--state", folder.path, "--hook-port", "0") as agent:
        assert agent.stderr is not None
        reading = asyncio.create_task(agent.stderr.readline())
        while not reading.done():
            folder.is_running()
            await asyncio.sleep(0)
        assert msgspec.json.decode(await reading)["event"] == "started"
        agent.terminate()
        await agent.communicate()


@pytest.mark.system
async def test_run_on_a_port_in_use_says_what_to_do(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with process("run", "--state", folder.path, "--hook-port", str(taken.getsockname()[1])) as agent:
            _, err = await agent.communicate()
    assert agent.returncode == 1
    assert err.decode().count("\n") == 1
    assert "--hook-port" in err.decode()


@pytest.mark.system
async def test_run_on_a_folder_in_use_says_so(folder: Folder) -> None:
    running = running_agent(folder, Config(hook_port=0))
    async with running, process("run", "--state", folder.path, "--hook-port", "0") as agent:
        _, err = await agent.communicate()
    assert agent.returncode == 1
    assert "already runs" in err.decode()


@pytest.mark.system
async def test_a_killed_agent_starts_again(folder: Folder) -> None:
    for _ in range(2):
        async with process("run", "--state", folder.path, "--hook-port", "0") as agent:
            assert agent.stderr is not None
            assert b"started" in await agent.stderr.readline()
            agent.kill()
            await agent.wait()
    assert folder.socket.exists()
    assert await command("status", "--state", folder.path) == 5


async def test_logs_shows_what_was_said_last(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert await command("logs", "--state", folder.path) == 1
    assert "no log is kept" in capsys.readouterr().err
    lines = [f'{{"n": {number}, "level": "info", "event": "said", "timestamp": "now"}}' for number in range(60)]
    (folder.path / "agent.log").write_text("\n".join([*lines, "torn\n"]))
    assert await command("logs", "--state", folder.path, "-n", "2") == 0
    assert capsys.readouterr().out == "now info    said n=59\ntorn\n"
    assert await command("logs", "--state", folder.path, "-n", "2", "--json") == 0
    assert capsys.readouterr().out == f"{lines[-1]}\ntorn\n"
    assert await command("logs", "--state", folder.path, "-n", "0") == 0
    assert capsys.readouterr().out.count("\n") == 61


async def test_watching_outlives_an_agent_that_does_not_answer(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter([NoAnswer("it does not answer", hint="wait"), KeyboardInterrupt()])

    async def look(*_: object) -> Status:
        raise next(looks)

    monkeypatch.setattr("tillstream_agent.cli.look", look)
    assert await command("status", "--state", folder.path, "--watch", "0.1") == 1
    assert "it does not answer (wait)" in capsys.readouterr().err


async def test_simulate_says_what_became_of_it(
    server: Gateway, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_agent(folder):
        assert await command("simulate", "--state", folder.path) == 0
        assert "the server has it" in capsys.readouterr().out
        server.dead[1] = DeadLetter(1, "cannot_open", "altered")
        assert await command("simulate", "--state", folder.path) == 5
        assert "the server would not take it: cannot_open" in capsys.readouterr().out
        server.answers(503, times=100)
        assert await command("simulate", "--state", folder.path, "--wait", "0", "--json") == 4
    done = msgspec.json.decode(capsys.readouterr().out)
    assert (done["ack"], done["sent"]) == ("os", False)


async def test_the_doctor_tells_of_settings_that_cannot_be_meant_and_goes_on(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text("[sync]\nheartbeat_s = 0\n")
    assert await command("doctor", "--state", folder.path, "--config", tmp_path / "agent.toml", "--json") == 6
    found = {finding["check"]: finding for finding in msgspec.json.decode(capsys.readouterr().out)["findings"]}
    assert "sync.heartbeat_s" in found["settings"]["detail"]
    assert {"journal", "server"} <= set(found)


async def test_the_doctor_tells_of_settings_that_were_lowered_and_calls_them_no_problem(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text("[sync]\nheartbeat_s = 600\n")
    await command("doctor", "--state", folder.path, "--config", tmp_path / "agent.toml", "--json")
    found = {finding["check"]: finding for finding in msgspec.json.decode(capsys.readouterr().out)["findings"]}
    assert (found["settings"]["verdict"], "so 100 counts" in found["settings"]["detail"]) == ("ok", True)


@pytest.mark.system
async def test_what_is_watched_and_followed_goes_on_until_it_is_interrupted(folder: Folder) -> None:
    async with (
        process("run", "--state", folder.path, "--hook-port", "0") as agent,
        process("status", "--state", folder.path, "--watch", "0.5", "--json") as watching,
    ):
        assert watching.stdout is not None
        async with asyncio.timeout(60):
            while not msgspec.json.decode(await watching.stdout.readline())["running"]:
                pass
        async with process("logs", "--state", folder.path, "-f", "--json") as following, asyncio.timeout(60):
            assert following.stdout is not None
            assert msgspec.json.decode(await following.stdout.readline())["event"] == "started"
            agent.terminate()
            while msgspec.json.decode(await following.stdout.readline())["event"] != "stopping":
                pass
            for program in (watching, following):
                program.send_signal(signal.SIGINT)
                await program.communicate()
                assert program.returncode == 1
