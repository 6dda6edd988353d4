"""Taking another device key, step by step: when it is due, what an answer means, and when it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from support.channels import DEVICE, Till, channel
from tillstream_agent.sync import rotate
from tillstream_agent.sync.rotate import LOOK_S, ROTATE_AFTER_MS, Rotation
from tillstream_agent.sync.transport import Client, Response
from tillstream_protocol.codec import encode
from tillstream_protocol.errors import ErrorBody
from tillstream_protocol.messages import RotateReply, decode_rotate_request

SEED = b"n" * 32


@dataclass
class Server(Client):
    """Answers each request as it is told to, or certifies the key."""

    till: Till
    answers: list[Response] = field(default_factory=list)
    asked: int = 0
    signed: list[str] = field(default_factory=list)
    """The parameters of each request's signature."""

    async def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        self.asked += 1
        self.signed.append(headers["Signature-Input"])
        if self.answers:
            return self.answers.pop(0)
        wanted = decode_rotate_request(body or b"")
        return Response(200, encode(RotateReply(self.till.server.certificate(wanted.device_public_key))))

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass
class Turn:
    """A rotation, the server it asks, and how often everything was to be built anew."""

    till: Till
    server: Server
    again: list[str]

    def rotation(self, age_ms: int = 0) -> Rotation:
        """Of a till whose key was certified so long ago."""
        self.till.server.clock_ms = self.till.clock.now_ms() - age_ms
        who = replace(self.till.folder.identity(), certificate=self.till.server.certificate(DEVICE.public))
        self.till.folder.rewrite(who)
        return Rotation(
            folder=self.till.folder,
            identity=who,
            device=DEVICE,
            transport=self.server,
            link=self.till.link,
            clock=self.till.clock,
            randomness=lambda size: SEED[:size],
            events=self.till.telling.events,
            again=lambda: self.again.append("again"),
        )


@pytest.fixture
async def turn(tmp_path: Path) -> AsyncIterator[Turn]:
    async with channel(tmp_path) as till:
        till.link.push_opened()
        till.link.revision = 1
        yield Turn(till, Server(till), [])


def refusal(code: str) -> Response:
    return Response(403, msgspec.json.encode({"error": ErrorBody(code, "no")}))


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not there():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("age_ms", "due"), [(ROTATE_AFTER_MS - 1, False), (ROTATE_AFTER_MS, True)])
async def test_a_key_is_due_at_ninety_days_to_the_millisecond(turn: Turn, age_ms: int, due: bool) -> None:
    assert turn.rotation(age_ms).due() is due


async def test_the_key_that_the_server_takes_is_the_tills(turn: Turn) -> None:
    rotation = turn.rotation()
    assert await rotation.rotate()
    assert turn.till.folder.device_key_file.read_bytes() == SEED
    assert not turn.till.folder.following_device_key_file.exists()


@pytest.mark.parametrize(("code", "kept"), [("device_taken", False), ("revoked", True)])
async def test_a_key_is_dropped_only_where_the_server_will_not_have_this_one(turn: Turn, code: str, kept: bool) -> None:
    turn.server.answers.append(refusal(code))
    assert not await turn.rotation().rotate()
    assert turn.till.folder.following_device_key_file.exists() is kept
    assert [line["code"] for line in turn.till.said("rotation_failed")] == [code]


async def test_an_answer_that_cannot_be_had_leaves_the_key_to_follow(turn: Turn) -> None:
    turn.server.answers.append(Response(503, b""))
    assert not await turn.rotation().rotate()
    assert turn.till.folder.following_device_key_file.exists()


async def test_a_key_that_is_due_is_asked_for_again_and_again_until_it_is_had(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotate, "RETRY_S", 0.01)
    turn.server.answers += [Response(503, b"")] * 3
    running = asyncio.create_task(turn.rotation(ROTATE_AFTER_MS).run())
    await until(lambda: bool(turn.again))
    assert turn.server.asked == 4
    assert not running.done()
    running.cancel()


async def test_a_young_key_is_looked_at_once_an_hour(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    timeout = asyncio.timeout

    def noted(seconds: float) -> asyncio.Timeout:
        waited.append(seconds)
        return timeout(0.001)

    rotation = turn.rotation()
    monkeypatch.setattr(asyncio, "timeout", noted)
    running = asyncio.create_task(rotation.run())
    while len(waited) < 2:
        await asyncio.sleep(0.005)
    running.cancel()
    assert set(waited) == {LOOK_S}
    assert turn.server.asked == 0


@pytest.mark.parametrize(("now_ms", "created"), [(1_700_000_123_999, 1_700_000_123), (-5_000, 0)])
async def test_a_request_is_signed_as_of_now_and_never_before_1970(turn: Turn, now_ms: int, created: int) -> None:
    rotation = turn.rotation()
    turn.till.clock.jump(now_ms - turn.till.clock.now_ms())
    assert await rotation.rotate()
    assert f";created={created};" in turn.server.signed[0]


async def test_who_asks_over_a_channel_that_opens_in_a_moment_is_waited_for(
    turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    rotation = turn.rotation()
    await rotation._until_connected()
    assert slept == []
    turn.till.link.push_closed("unreachable")
    await rotation._until_connected()
    assert slept == [0.05] * 100
