"""Faults of a till's everyday life, planted one at a time: the doctor names each, and what mends it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from support.agents import enrolled, running_agent
from support.gateways import Gateway, gateway
from support.mounts import fill, mounting_refuses, small_disk
from support.planted_certificates import HOST, OPENSSL, OTHER, certificate
from support.tills import TestTill, TurnedClock
from tillstream_agent import inspection
from tillstream_agent.clock import Clock, SystemClock
from tillstream_agent.config import Config
from tillstream_agent.config_doors import Doors, DropSetting
from tillstream_agent.doctor import Doctor, Finding, Surroundings
from tillstream_agent.doctor.patient import settings_or_complaint
from tillstream_agent.folder import Folder, write_private
from tillstream_agent.status import QueueStatus, Status
from tillstream_protocol import messages
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.framing import FRAMES_START, Frame, scan
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.messages import HookLatency, Introduction
from tillstream_protocol.signing import SignKey

HERE, ELSEWHERE = "a" * 32, "b" * 32


async def no_systemd() -> str | None:
    return None


@dataclass
class Patient:
    """An agent's folder and its server, healthy until something is planted; and what the doctor may ask."""

    server: Gateway
    folder: Folder
    place: Path
    """A folder for whatever else a fault needs."""
    config: Config = field(default_factory=lambda: Config(hook_port=0))
    clock: Clock = field(default_factory=SystemClock)
    around: Surroundings = field(
        default_factory=lambda: Surroundings({}, ask_service=no_systemd, machine_id=lambda: HERE)
    )
    timer: Callable[[], float] = lambda: 0.0
    """By it nothing takes any time, however busy the machine of the test is."""
    complaint: TillstreamError | None = None

    async def problems(self) -> dict[str, Finding]:
        """What the doctor finds wrong."""
        doctor = Doctor(
            self.folder,
            self.config,
            self.clock,
            os.urandom,
            self.timer,
            surroundings=self.around,
            complaint=self.complaint,
        )
        found = await doctor.examine()
        return {finding.check: finding for finding in found if finding.verdict == "problem"}

    def joined(self, address: str) -> None:
        """Have joined the server under another address."""
        write_private(self.folder.identity_file, replace(self.folder.identity(), server=address).encode())

    def told(self, **about: str) -> None:
        """Have systemd say this of the unit."""
        unit = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0", **about}

        async def show() -> str:
            return "".join(f"{name}={value}\n" for name, value in unit.items())

        self.around = replace(self.around, ask_service=show)


Planting = Callable[[Patient], AsyncIterator[None]]
Plant = Callable[[Patient], AbstractAsyncContextManager[None]]


@dataclass
class Fault:
    """A fault, the check that must name it, and words that its cause and its fix must have."""

    plant: Plant
    check: str
    cause: str
    fix: str
    besides: frozenset[str] = frozenset()
    """What else is rightly found then."""


FAULTS: dict[str, Fault] = {}


def fault(
    check: str, cause: str, fix: str, *besides: str
) -> Callable[[Callable[[Patient], AsyncIterator[None]]], None]:
    """Add a fault to the list. What is planted stays until the context ends."""

    def add(plant: Planting) -> None:
        FAULTS[plant.__name__] = Fault(asynccontextmanager(plant), check, cause, fix, frozenset(besides))

    return add


# The state folder


@fault("identity", "joined no server", "enroll --server")
async def nobody_enrolled_the_till(patient: Patient) -> AsyncIterator[None]:
    patient.folder.identity_file.unlink()
    yield


@fault("identity", "altered", "--replace")
async def the_identity_is_damaged(patient: Patient) -> AsyncIterator[None]:
    patient.folder.identity_file.write_bytes(b'{"server"')
    yield


@fault("identity", "is gone", "restore device.key", "agent")
async def the_device_key_is_gone(patient: Patient) -> AsyncIterator[None]:
    patient.folder.device_key_file.unlink()
    yield


@fault("permissions", "modes were changed", "chmod 600", "agent")
async def everybody_can_read_the_key(patient: Patient) -> AsyncIterator[None]:
    patient.folder.device_key_file.chmod(0o644)
    yield


@fault("permissions", "ran as another user", "chown", "agent")
async def root_once_ran_the_agent(patient: Patient) -> AsyncIterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file to another user")
    patient.folder.journal.mkdir(exist_ok=True)
    os.chown(patient.folder.journal, 12_345, 12_345)
    yield


@fault("copied folder", "was copied", "enroll --replace", "agent")
async def the_folder_came_in_an_image(patient: Patient) -> AsyncIterator[None]:
    patient.folder.bind(ELSEWHERE)
    yield


@fault("state", "could not be read", "check the disk", "agent")
async def the_state_file_was_damaged(patient: Patient) -> AsyncIterator[None]:
    (patient.folder.path / "state.db.damaged").touch()
    yield


@fault("journal", "damaged bytes", "keep the files", "agent", "queue")
async def the_disk_flipped_a_byte(patient: Patient) -> AsyncIterator[None]:
    journal = await TestTill(patient.folder.journal, replace(DEFAULT, sync_interval=0.0, reserve=0)).start()
    for number in range(3):
        journal.append(b"%d" % number * 100, kind=1)
    await journal.close()
    (chunk,) = patient.folder.journal.glob("*.chunk")
    data = bytearray(chunk.read_bytes())
    first, *_ = (part for part in scan(bytes(data), FRAMES_START) if isinstance(part, Frame))
    data[(first.start + first.end) // 2] ^= 0xFF
    chunk.write_bytes(data)
    yield


@fault("settings", "does not start", "seconds from 1 to 100", "agent")
async def a_setting_was_mistyped(patient: Patient) -> AsyncIterator[None]:
    file = patient.place / "agent.toml"
    file.write_text("[sync]\nheartbeat_s = 0\n")
    settings, patient.complaint = settings_or_complaint(patient.folder, file)
    patient.config = replace(settings, hook_port=0)
    yield


# The disk


@asynccontextmanager
async def on_a_small_disk(patient: Patient, size: int) -> AsyncIterator[Path]:
    if reason := mounting_refuses():
        pytest.skip(reason)
    with small_disk(patient.place / "disk", size) as disk:
        state = disk / "state"
        patient.folder.path.rename(patient.place / "before")
        await asyncio.to_thread(os.mkdir, state, 0o700)
        for file in (patient.place / "before").iterdir():
            (state / file.name).write_bytes(file.read_bytes())
            (state / file.name).chmod(0o600)
        patient.folder = Folder(state)
        yield disk


@fault("disk space", "nearly full", "make room", "agent")
async def the_disk_is_nearly_full(patient: Patient) -> AsyncIterator[None]:
    async with on_a_small_disk(patient, 8 << 20):
        yield


@fault("disk speed", "the disk is full", "make room", "agent", "disk space")
async def the_disk_is_full(patient: Patient) -> AsyncIterator[None]:
    async with on_a_small_disk(patient, 1 << 20) as disk:
        fill(disk)
        yield


@fault("disk speed", "read-only", "dmesg", "agent")
async def the_disk_went_read_only(patient: Patient) -> AsyncIterator[None]:
    async with on_a_small_disk(patient, 400 << 20) as disk:
        patient.folder.lock_file.touch(0o600)
        remount = await asyncio.create_subprocess_exec("mount", "-o", "remount,ro", str(disk))
        assert await remount.wait() == 0
        yield


@fault("disk speed", "slow or worn", "another disk", "agent")
async def the_disk_is_worn(patient: Patient) -> AsyncIterator[None]:
    now = iter(range(10_000))
    patient.timer = lambda: next(now) * 0.2
    yield


# The way to the server


@fault("dns", "mistyped", "getent hosts head.example", "agent")
async def the_name_was_mistyped(patient: Patient) -> AsyncIterator[None]:
    def unknown(host: str, port: int) -> Iterable[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    patient.joined("https://head.example")
    patient.around = replace(patient.around, resolve=unknown)
    yield


@fault("dns", "no name server answers", "/etc/resolv.conf", "agent")
async def the_cable_is_out(patient: Patient) -> AsyncIterator[None]:
    def nobody(host: str, port: int) -> Iterable[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    patient.joined("https://head.example")
    patient.around = replace(patient.around, resolve=nobody)
    yield


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as freed:
        return int(freed.getsockname()[1])


@fault("connection", "nothing listens", "start tillstream-server", "agent")
async def the_server_is_down(patient: Patient) -> AsyncIterator[None]:
    patient.joined(f"http://127.0.0.1:{closed_port()}")
    yield


@fault("connection", "no way there", "router", "agent")
async def the_router_is_off(patient: Patient) -> AsyncIterator[None]:
    async def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    patient.joined("https://192.0.2.1:8700")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tillstream_agent.doctor.server.asyncio.open_connection", unreachable)
        yield


@fault("connection", "no way there", "router", "agent")
async def no_address_of_the_name_can_be_reached(patient: Patient) -> AsyncIterator[None]:
    async def unreachable(*_: object, **__: object) -> None:
        each = f"[Errno {errno.ENETUNREACH}] Connect call failed"
        raise OSError(f"Multiple exceptions: {each}, {each}")

    patient.joined("https://localhost:8700")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tillstream_agent.doctor.server.asyncio.open_connection", unreachable)
        yield


@fault("connection", "firewall", "let this till out", "agent")
async def a_firewall_drops_everything(patient: Patient) -> AsyncIterator[None]:
    async def dropped(*_: object, **__: object) -> None:
        raise TimeoutError

    patient.joined("https://192.0.2.1:8700")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tillstream_agent.doctor.server.asyncio.open_connection", dropped)
        yield


@fault("dns", "in time", "/etc/resolv.conf", "agent")
async def the_name_server_hangs(patient: Patient) -> AsyncIterator[None]:
    released = threading.Event()

    def hang(host: str, port: int) -> Iterable[str]:
        released.wait()
        return []

    patient.joined("https://head.example")
    patient.around = replace(patient.around, resolve=hang)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tillstream_agent.doctor.server.STEP_S", 0.1)
        yield
    released.set()


@fault("server", "hangs", "server's log", "agent")
async def the_server_hangs(patient: Patient) -> AsyncIterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tillstream_agent.doctor.server.STEP_S", 0.3)
        patient.joined(f"http://127.0.0.1:{silent.getsockname()[1]}")
        yield


@fault("server", "not a Tillstream server", "look at the address", "agent")
async def something_else_answers(patient: Patient) -> AsyncIterator[None]:
    patient.server.answers(404)
    yield


@fault("proxy", "the agent uses none", "firewall pass", "agent")
async def the_network_wants_a_proxy(patient: Patient) -> AsyncIterator[None]:
    patient.joined(f"http://127.0.0.1:{closed_port()}")
    patient.around = replace(patient.around, environment={"HTTPS_PROXY": "http://proxy.example:3128"})
    yield


@fault("server", "sign-in page", "exception of the proxy", "agent")
async def a_sign_in_page_answers(patient: Patient) -> AsyncIterator[None]:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>Welcome to our Wi-Fi</title>", content_type="text/html")

    patient.server._troubles.append(page)
    yield


@fault("server", "in trouble itself", "server's log", "agent")
async def the_server_is_in_trouble(patient: Patient) -> AsyncIterator[None]:
    patient.server.answers(503)
    yield


@fault("server", "signing key was made anew", "head office", "agent")
async def another_server_answers(patient: Patient) -> AsyncIterator[None]:
    patient.server.key = SignKey(os.urandom(32))
    yield


@fault("version", "this agent is too old", "upgrade this agent", "agent")
async def the_server_is_newer_by_far(patient: Patient) -> AsyncIterator[None]:
    async def hello(request: web.Request) -> web.Response:
        asked = messages.decode_hello(await request.read())
        keys = (patient.server.key.public, patient.server.box_public, patient.server.escrow_public)
        claim = messages.introduction_bytes(asked.nonce, *keys, 8, 9)
        return web.Response(body=encode(Introduction(*keys, 8, 9, patient.server.key.sign(claim))))

    patient.server._troubles.append(hello)
    yield


@asynccontextmanager
async def over_tls(patient: Patient, *, trusted: bool = True, **about: object) -> AsyncIterator[None]:
    """The same server over TLS, at `localhost`, with such a certificate."""
    if OPENSSL is None:
        pytest.skip("there is no openssl to make certificates")
    made = certificate(patient.place / "server.pem", **about)  # type: ignore[arg-type]
    runner = web.AppRunner(patient.server.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=made.context()).start()
        patient.joined(f"https://{HOST}:{runner.addresses[0][1]}")
        patient.config = replace(patient.config, sync_ca_file=str(made.file) if trusted else "")
        yield
    finally:
        await runner.cleanup()


@fault("certificate", "has run out", "renew it", "agent")
async def the_certificate_ran_out(patient: Patient) -> AsyncIterator[None]:
    async with over_tls(patient, days=-1):
        yield


@fault("certificate", "runs out soon", "renew it", "agent")
async def the_certificate_runs_out_soon(patient: Patient) -> AsyncIterator[None]:
    async with over_tls(patient, days=5):
        yield


@fault("certificate", "not valid yet", "set the till's clock", "agent")
async def the_certificate_is_of_tomorrow(patient: Patient) -> AsyncIterator[None]:
    async with over_tls(patient, since_days=1):
        yield


@fault("certificate", "another name", f"have it made for {HOST}", "agent")
async def the_certificate_is_for_another_name(patient: Patient) -> AsyncIterator[None]:
    async with over_tls(patient, host=OTHER):
        yield


@fault("certificate", "no authority", "sync.ca_file", "agent")
async def nobody_trusts_the_certificate(patient: Patient) -> AsyncIterator[None]:
    async with over_tls(patient, trusted=False):
        yield


@fault("certificate", "does not speak TLS", "check the port", "agent")
async def the_port_speaks_plain_http(patient: Patient) -> AsyncIterator[None]:
    patient.joined(patient.server.address.replace("http://127.0.0.1", f"https://{HOST}"))
    yield


# The clock


@fault("clock", "clock or the server's is wrong", "NTP", "agent")
async def the_clock_is_an_hour_off(patient: Patient) -> AsyncIterator[None]:
    patient.clock = TurnedClock(SystemClock().now_ms() + 3_600_000)
    yield


@fault("clock", "set back", "NTP", "agent", "connection")
async def the_clock_went_back_and_there_is_no_server(patient: Patient) -> AsyncIterator[None]:
    patient.joined(f"http://127.0.0.1:{closed_port()}")
    patient.clock = TurnedClock(SystemClock().now_ms() - 86_400_000)
    yield


# The agent


@fault("agent", "nobody has started it", "systemctl start")
async def nobody_started_the_agent(patient: Patient) -> AsyncIterator[None]:
    yield


@fault("agent", "hangs", "restart it")
async def the_agent_hangs(patient: Patient) -> AsyncIterator[None]:
    with patient.folder.locked(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tillstream_agent.doctor.running.PATIENCE_S", 0.2)
        yield


@fault("hook port", "another program", "hook.port", "agent")
async def another_program_has_the_port(patient: Patient) -> AsyncIterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        patient.config = replace(patient.config, hook_port=other.getsockname()[1])
        yield


@asynccontextmanager
async def running(patient: Patient) -> AsyncIterator[None]:
    async with running_agent(patient.folder):
        await patient.server.until(lambda server: bool(server.vitals))
        yield


@fault("hook door", "token", "restart the agent")
async def the_token_was_changed_under_the_agent(patient: Patient) -> AsyncIterator[None]:
    async with running(patient):
        write_private(patient.folder.token_file, b"x" * 43 + b"\n")
        yield


@fault("agent version", "not restarted", "systemctl restart")
async def the_agent_was_upgraded_and_not_restarted(patient: Patient) -> AsyncIterator[None]:
    async with running(patient):
        patient.around = replace(patient.around, version="99.0.0")
        yield


@asynccontextmanager
async def saying(patient: Patient, **about: object) -> AsyncIterator[None]:
    """A running agent that says this of itself as well."""
    true_answer = inspection.ask

    async def ask(folder: Folder, *, patience: float) -> Status:
        return msgspec.structs.replace(await true_answer(folder, patience=patience), **about)

    async with running(patient):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tillstream_agent.doctor.running.ask", ask)
            yield


@fault("hook", "processor time", "what else runs")
async def the_till_is_too_busy(patient: Patient) -> AsyncIterator[None]:
    async with saying(patient, hook=HookLatency(100, 50_000, 60_000, 10)):
        yield


@fault("queue", "not taken records for an hour", "other findings")
async def the_queue_has_grown_old(patient: Patient) -> AsyncIterator[None]:
    async with saying(patient, queue=QueueStatus(5, 500, 2 * 3_600_000)):
        yield


@fault("sync", "copy of this state folder", "on the copy run tillstream-agent enroll --replace")
async def a_clone_speaks_for_the_till(patient: Patient) -> AsyncIterator[None]:
    async with saying(patient, trouble=("replaced",)):
        yield


@fault("sync", "revoked this till", "ask head office")
async def the_till_was_revoked(patient: Patient) -> AsyncIterator[None]:
    async with saying(patient, trouble=("revoked",)):
        yield


# The service, and the doors


@fault("service", "again and again right after its start", "reset-failed", "agent")
async def the_service_gave_up(patient: Patient) -> AsyncIterator[None]:
    patient.told(ActiveState="failed", Result="start-limit-hit")
    yield


@fault("service", "does not start with the machine", "systemctl enable", "agent")
async def the_service_is_not_enabled(patient: Patient) -> AsyncIterator[None]:
    patient.told(UnitFileState="disabled")
    yield


@fault("drop folder", "is not there", "make it", "agent")
async def the_watched_folder_is_gone(patient: Patient) -> AsyncIterator[None]:
    gone = DropSetting(patient.place / "gone", "odoo")
    patient.config = replace(patient.config, doors=Doors(drops=(gone,)))
    yield


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Patient]:
    async with gateway() as server:
        folder = await enrolled(tmp_path / "state", server)
        folder.bind(HERE)
        yield Patient(server, folder, tmp_path)


@pytest.mark.parametrize("name", FAULTS)
async def test_the_doctor_names_each_fault_alone_with_what_mends_it(patient: Patient, name: str) -> None:
    planted = FAULTS[name]
    async with planted.plant(patient), asyncio.timeout(10):
        found = await patient.problems()
    assert set(found) == {planted.check} | planted.besides
    finding = found[planted.check]
    assert planted.cause in finding.cause
    assert planted.fix in finding.fix


async def test_nothing_is_found_where_nothing_was_planted(patient: Patient) -> None:
    async with running(patient):
        assert await patient.problems() == {}
    async with over_tls(patient, days=90):
        assert set(await patient.problems()) == {"agent"}


def test_at_least_twenty_faults_are_planted() -> None:
    assert len(FAULTS) >= 20
