"""What an uploader does with each answer, one exchange at a time, and when it asks a server to take the till back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from support.tills import TestTill, TurnedClock
from tillstream_agent.journal import Journal, Lane, Slice
from tillstream_agent.sync.answers import Failure
from tillstream_agent.sync.flow import Rest, Send, UploadFlow
from tillstream_agent.sync.transport import Response, Transport
from tillstream_agent.sync.upload import Uploader
from tillstream_protocol.errors import ErrorBody
from tillstream_protocol.messages import BatchReply


class Over(Exception):
    """There is nothing more to send."""


class Script(UploadFlow):
    """Sends one slice again and again, and keeps what came of it."""

    def __init__(self, sent: Slice, times: int) -> None:
        self.sent = sent
        self.left = times
        self.failures: list[Failure] = []

    rest: Rest | None = None
    """To be kept before everything else."""

    def next(self, now: float) -> Send | Rest:
        rest, self.rest = self.rest, None
        if rest is not None:
            return rest
        if self.left == 0:
            raise Over
        self.left -= 1
        return Send(self.sent)

    def failed(self, sent: Slice, failure: Failure, now: float) -> bool:
        self.failures.append(failure)
        return False

    def acknowledged(self, sent: Slice, reply: BatchReply, now: float) -> bool:
        raise AssertionError


class Answering(Transport):
    """A server that answers all requests alike, and keeps what they said."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__("http://127.0.0.1:1", tls=None, timeout=1)
        self.answer = Response(status, msgspec.json.encode({"error": ErrorBody(code, "no")}))
        self.headers: list[dict[str, str]] = []

    async def post(self, path: str, body: bytes, headers: object = None) -> Response:
        assert isinstance(headers, dict)
        self.headers.append(headers)
        return self.answer


class Stand:
    """A till with one record to send."""

    def __init__(self, till: TestTill, journal: Journal, piece: Slice) -> None:
        self.till = till
        self.journal = journal
        self.piece = piece
        self.clock = TurnedClock(1_700_000_000_999)
        self.asked = 0

    async def sends(
        self, times: int, status: int, code: str, *, lane: Lane = "live", taken: bool = True, known: bool = True
    ) -> tuple[list[Failure], list[dict[str, str]]]:
        """Send the record so often: the failures that are waited out, and the headers that were sent."""

        async def returning() -> bool:
            self.asked += 1
            return taken

        device = self.till.keys.device
        server = Answering(status, code)
        flow = Script(replace(self.piece, lane=lane), times)
        devices = {device.key_id: device} if known else {}
        uploader = Uploader(flow, server, device, self.clock, devices=devices, returning=returning)
        with pytest.raises(Over):
            await uploader.run()
        await server.close()
        return flow.failures, server.headers


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    till = TestTill(tmp_path)
    journal = await till.start()
    await journal.synced(journal.append(os.urandom(50), kind=1))
    piece = journal.next_slice("live", 1 << 16)
    assert piece is not None
    yield Stand(till, journal, piece)
    await journal.close()


async def test_a_server_that_does_not_know_the_device_is_asked_once_before_each_slow_wait(stand: Stand) -> None:
    waited, _ = await stand.sends(5, 401, "unknown_device")
    assert stand.asked == 3
    assert [failure.code for failure in waited] == ["unknown_device"] * 2


async def test_one_that_does_not_take_it_back_is_waited_for_each_time(stand: Stand) -> None:
    waited, _ = await stand.sends(3, 401, "unknown_device", taken=False)
    assert stand.asked == 3
    assert len(waited) == 3


@pytest.mark.parametrize(("status", "code"), [(401, "bad_signature"), (503, "unknown_device"), (403, "revoked")])
async def test_no_other_refusal_is_a_reason_to_ask(stand: Stand, status: int, code: str) -> None:
    waited, _ = await stand.sends(2, status, code)
    assert stand.asked == 0
    assert len(waited) == 2


async def test_a_device_of_an_earlier_enrolment_is_not_taken_back(stand: Stand) -> None:
    waited, _ = await stand.sends(2, 401, "unknown_device", lane="former")
    assert stand.asked == 0
    assert len(waited) == 2


async def test_without_the_key_of_an_earlier_enrolment_nothing_is_sent_and_it_is_said_why(stand: Stand) -> None:
    waited, headers = await stand.sends(1, 200, "", lane="former", known=False)
    assert waited == [Failure("authentication", "no_device_key", "the key of an earlier enrolment is not here")]
    assert headers == []


async def test_a_signature_tells_the_second_in_which_it_was_made(stand: Stand) -> None:
    _, (headers,) = await stand.sends(1, 503, "busy")
    assert "created=1700000000;" in headers["Signature-Input"] + ";"


async def test_a_signature_of_the_first_second_says_so(stand: Stand) -> None:
    stand.clock = TurnedClock(0)
    _, (headers,) = await stand.sends(1, 503, "busy")
    assert "created=0;" in headers["Signature-Input"] + ";"


@pytest.mark.parametrize(("seconds", "slept"), [(2.5, 2.5), (None, 0.0)])
async def test_a_rest_that_no_news_ends_lasts_as_long_as_it_should(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, seconds: float | None, slept: float
) -> None:
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr("tillstream_agent.sync.upload.asyncio.sleep", sleep)
    flow = Script(stand.piece, 0)
    flow.rest = Rest(seconds, for_news=False)
    server = Answering(503, "busy")
    with pytest.raises(Over):
        await Uploader(flow, server, stand.till.keys.device, stand.clock).run()
    await server.close()
    assert rests == [slept]


async def test_a_server_that_is_not_there_is_called_unreachable_with_the_reason(stand: Stand) -> None:
    flow = Script(stand.piece, 1)
    transport = Transport("http://127.0.0.1:1", tls=None, timeout=1)
    with pytest.raises(Over):
        await Uploader(flow, transport, stand.till.keys.device, stand.clock).run()
    await transport.close()
    (failure,) = flow.failures
    assert (failure.outcome, failure.code) == ("unavailable", "unreachable")
    assert failure.reason.startswith("http://127.0.0.1:1 cannot be reached: ")
