"""The loopback HTTP door: what it takes, what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support.agents import HOUR_MS, NOW_MS, WELCOME, Counter, counter, member, offer_push, sale
from support.disks import TroubledDisk
from support.doors import TOKEN, http_door, pairing_of
from tillstream_agent.display.stream import MAX_STREAMS
from tillstream_agent.hooks.http import HttpDoor, PortInUse
from tillstream_agent.hooks.pairing import Pairing
from tillstream_agent.journal import Disk
from tillstream_protocol.limits import DEFAULT

BEARER = {"Authorization": f"Bearer {TOKEN}"}
SMALL = replace(DEFAULT, hook_body=2048)


@dataclass
class Pos:
    """A POS, or a browser, before the door."""

    client: aiohttp.ClientSession
    counter: Counter
    port: int
    door: HttpDoor
    pairing: Pairing

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def posts(self, path: str, body: object = None, **request: Any) -> tuple[int, Any]:
        headers = {**BEARER, "Content-Type": "application/json", **request.pop("headers", {})}
        data = request.pop("data", msgspec.json.encode(body) if body is not None else b"")
        async with self.client.post(self.url(path), data=data, headers=headers) as reply:
            return reply.status, msgspec.json.decode(await reply.read())

    async def puts(self, path: str, body: object) -> tuple[int, Any]:
        headers = {**BEARER, "Content-Type": "application/json"}
        async with self.client.put(self.url(path), data=msgspec.json.encode(body), headers=headers) as reply:
            return reply.status, msgspec.json.decode(await reply.read())

    async def gets(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        async with self.client.get(self.url(path), headers=headers, allow_redirects=False) as reply:
            return reply.status, await reply.text()

    async def sends(self, raw: bytes) -> bytes:
        """The first line of the answer to raw bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line


@asynccontextmanager
async def door_open(folder: Path, disk: Disk | None = None) -> AsyncIterator[Pos]:
    async with counter(folder, WELCOME, disk=disk) as behind:
        pairing = pairing_of(behind, folder)
        door = http_door(behind, pairing, limits=SMALL)
        port = await door.open(0)
        try:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
                yield Pos(client, behind, port, door, pairing)
        finally:
            await door.close()


@pytest.fixture
async def pos(tmp_path: Path) -> AsyncIterator[Pos]:
    async with door_open(tmp_path) as opened:
        yield opened


async def test_a_sale_is_captured_and_named(pos: Pos) -> None:
    status, reply = await pos.posts("/v1/transactions", sale())
    epoch = pos.counter.journal.position.epoch.hex()
    assert status == 201
    assert reply == {"till": pos.counter.reporter.identity.till_id.hex(), "epoch": epoch, "seq": 0, "ack": "os"}
    assert pos.counter.telling.counted("captures", door="http", kind="transaction", ack="os") == 1


async def test_a_repeat_is_answered_with_the_same_body(pos: Pos) -> None:
    _, first = await pos.posts("/v1/transactions", sale())
    status, again = await pos.posts("/v1/transactions", sale())
    assert (status, again) == (200, first)
    assert pos.counter.journal.position.seq == 1
    assert pos.counter.telling.counted("capture_repeats") == 1


async def test_an_ack_from_the_disk_can_be_waited_for(pos: Pos) -> None:
    status, reply = await pos.posts("/v1/transactions?ack=disk", sale())
    assert (status, reply["ack"]) == (201, "disk")
    assert pos.counter.journal.next_slice("live", 1 << 20) is not None


async def test_msgpack_goes_in_and_comes_out_when_asked_for(pos: Pos) -> None:
    headers = {**BEARER, "Content-Type": "application/msgpack", "Accept": "application/msgpack"}
    data = msgspec.msgpack.encode(sale())
    async with pos.client.post(pos.url("/v1/transactions"), data=data, headers=headers) as reply:
        assert (reply.status, reply.content_type) == (201, "application/msgpack")
        assert msgspec.msgpack.decode(await reply.read())["seq"] == 0


async def test_an_identified_member_gets_the_tills_offers(pos: Pos) -> None:
    status, reply = await pos.posts("/v1/members/identify", member("e1"))
    assert status == 201
    effect = reply["effects"][0]
    assert (effect["campaign"], effect["version"], effect["outcome"], effect["decided_at"]) == (
        "welcome",
        1,
        "offered",
        "edge",
    )
    assert effect["effects"] == [{"type": "customer_message", "text": "Nice to see you"}]
    status, again = await pos.posts("/v1/members/identify?ack=disk", member("e1"))
    assert (status, again["effects"]) == (200, reply["effects"])


async def test_a_member_without_offers_gets_an_empty_list(tmp_path: Path) -> None:
    async with door_open(tmp_path) as pos:
        pos.counter.clock.turn(2 * HOUR_MS / 1000)  # the pack has expired
        _, reply = await pos.posts("/v1/members/identify", member())
        assert reply["effects"] == []


async def test_an_offer_is_accepted_once_and_may_be_declined_later(pos: Pos) -> None:
    _, reply = await pos.posts("/v1/members/identify", member())
    offer = reply["effects"][0]["offer"]
    status, first = await pos.posts(f"/v1/offers/{offer}/accepted")
    assert (status, first["seq"]) == (201, 1)
    assert await pos.posts(f"/v1/offers/{offer}/accepted") == (200, first)
    status, later = await pos.posts(f"/v1/offers/{offer}/declined?ack=disk")
    assert (status, later["seq"]) == (201, 2)
    assert pos.counter.desk.take_answered() == [bytes.fromhex(offer)] * 2
    assert pos.counter.desk.take_answered() == []


async def test_an_offer_from_the_server_can_be_answered(pos: Pos) -> None:
    push = offer_push(9)
    pos.counter.board.push(push)
    status, _ = await pos.posts(f"/v1/offers/{push.decision.offer_id.hex()}/accepted")
    assert status == 201


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        (f"/v1/offers/{'0' * 32}/accepted", 404, "offer"),
        ("/v1/offers/xyz/accepted", 400, "offer"),
        (f"/v1/offers/{'0' * 30}/declined", 400, "offer"),
    ],
)
async def test_an_answer_to_no_offer_is_refused(pos: Pos, path: str, status: int, field: str) -> None:
    got, reply = await pos.posts(path)
    assert (got, reply["error"]["field"]) == (status, field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"total": "5.00"}, "total"),
        ({"total": 10**16}, "total"),
        ({"kind": "gift"}, "kind"),
        ({"colour": "red"}, "colour"),
        ({"pos_id": "x" * 129}, "pos_id"),
        ({"business_date": "yesterday "}, "business_date"),
        ({"lines": [{"seq": 0, "amount": 1, "quantity": "many"}]}, "lines[0].quantity"),
        ({"lines": [{"seq": 0, "amount": 1.5}]}, "lines[0].amount"),
        ({"ext": {"a": {"b": {"c": {"d": {"e": {}}}}}}}, "ext[...][...][...][...]"),
        ({"retailer": "other"}, "retailer"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_written(pos: Pos, change: dict[str, object], field: str) -> None:
    body = {**msgspec.to_builtins(sale()), **change}
    status, reply = await pos.posts("/v1/transactions", body)
    assert status == 400
    assert reply["error"]["code"] == "invalid_input"
    assert reply["error"]["field"] == field
    assert pos.counter.journal.position.seq == 0
    assert pos.counter.telling.counted("refusals", reason="invalid_input") == 1


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"pos_id": ' + b"[" * 900, msgspec.json.encode(sale())[:-1]]
)
async def test_what_is_no_sale_is_refused(pos: Pos, data: bytes) -> None:
    status, reply = await pos.posts("/v1/transactions", data=data)
    assert (status, reply["error"]["code"]) == (400, "invalid_input")
    assert pos.counter.journal.position.seq == 0


async def test_a_body_over_the_limit_is_refused_by_its_size(pos: Pos) -> None:
    status, reply = await pos.posts("/v1/transactions", data=b" " * 3000)
    assert (status, reply["error"]["code"], reply["error"]["limit"]) == (413, "too_large", "2048 bytes")


async def test_a_wrong_ack_is_named(pos: Pos) -> None:
    status, reply = await pos.posts("/v1/transactions?ack=later", sale())
    assert (status, reply["error"]["field"], reply["error"]["limit"]) == (400, "ack", "os or disk")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ({"Host": "evil.example"}, 403, "forbidden"),
        ({"Origin": "https://evil.example"}, 403, "forbidden"),
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    ],
)
async def test_strangers_are_refused(pos: Pos, headers: dict[str, str], status: int, code: str) -> None:
    got, reply = await pos.posts("/v1/transactions", sale(), headers=headers)
    assert (got, reply["error"]["code"]) == (status, code)
    assert pos.counter.journal.position.seq == 0
    assert pos.counter.telling.counted("refusals", reason=code) == 1


async def test_an_empty_host_is_refused(pos: Pos) -> None:
    assert b"403" in await pos.sends(b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n")
    assert b"403" in await pos.sends(b"GET /healthz HTTP/1.0\r\n\r\n")


async def test_no_page_of_another_origin_is_let_in_by_a_preflight(pos: Pos) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with pos.client.options(pos.url("/v1/transactions"), headers=headers) as reply:
        assert reply.status == 403
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]


async def test_what_is_not_there_is_told_in_json(pos: Pos) -> None:
    async with pos.client.get(pos.url("/nowhere"), headers=BEARER) as reply:
        assert reply.status == 404
        assert msgspec.json.decode(await reply.read())["error"]["code"] == "not_found"


async def test_a_wrong_method_names_the_right_one(pos: Pos) -> None:
    async with pos.client.put(pos.url("/v1/transactions"), headers=BEARER) as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "POST")
        assert msgspec.json.decode(await reply.read())["error"]["code"] == "method_not_allowed"
    assert pos.counter.telling.counted("refusals", reason="method_not_allowed") == 1


async def test_a_journal_in_trouble_is_told_and_heals(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with door_open(tmp_path, disk) as pos:
        disk.trouble.write = errno.ENOSPC
        status, reply = await pos.posts("/v1/transactions", sale())
        assert (status, reply["error"]["code"], reply["error"]["retryable"]) == (507, "journal_full", True)
        assert (await pos.gets("/healthz"))[0] == 503
        disk.trouble.write = None
        assert (await pos.posts("/v1/transactions", sale()))[0] == 201
        assert (await pos.gets("/healthz"))[0] == 200


async def test_a_defect_is_answered_and_told_of(pos: Pos, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_body: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pos.counter.desk, "transaction", broken)
    status, reply = await pos.posts("/v1/transactions", sale())
    assert (status, reply["error"]["code"]) == (500, "error")
    assert "defect" in pos.counter.telling.said()
    assert pos.counter.telling.counted("refusals", reason="error") == 1


async def test_health_and_metrics_need_no_token(pos: Pos) -> None:
    await pos.posts("/v1/transactions", sale())
    status, health = await pos.gets("/healthz")
    assert (status, msgspec.json.decode(health)) == (200, {"status": "ok", "online": False, "queued": 1})
    status, metrics = await pos.gets("/metrics")
    assert status == 200
    assert "tillstream_agent_queue_records 1.0" in metrics
    assert 'tillstream_agent_sync_batches_total{outcome="acked"} 0.0' in metrics


async def test_status_needs_the_token(pos: Pos) -> None:
    assert (await pos.gets("/v1/status"))[0] == 401
    status, reply = await pos.gets("/v1/status", BEARER)
    assert (status, msgspec.json.decode(reply)["store"]) == (200, "north")


async def test_the_page_opens_by_its_link_and_then_by_its_cookie(pos: Pos) -> None:
    assert (await pos.gets("/display"))[0] == 401
    assert (await pos.gets("/display?code=WRONG"))[0] == 401
    url = pos.url(f"/display?code={pos.pairing.code().code}")
    async with pos.client.get(url, allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (303, "/display")
        cookie = reply.cookies["tillstream-display"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Strict"
        assert cookie["path"] == "/display"
    status, page = await pos.gets("/display", {"Cookie": f"tillstream-display={cookie.value}"})
    assert status == 200
    assert "Offline" in page
    assert (await pos.gets("/v1/status", {"Cookie": f"tillstream-display={cookie.value}"}))[0] == 401


async def test_the_page_runs_nothing_but_its_own_script(pos: Pos) -> None:
    async with pos.client.get(pos.url("/display"), headers=BEARER) as reply:
        policy = reply.headers["Content-Security-Policy"]
        page = await reply.text()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page
    assert "style=" not in page
    for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css")):
        assert f"/display/{name}" in page
        async with pos.client.get(pos.url(f"/display/{name}")) as reply:
            assert (reply.status, reply.content_type) == (200, kind)
    assert (await pos.gets("/display/secrets"))[0] == 404


async def test_the_page_shows_an_offer_once_it_is_pushed_and_reports_it(pos: Pos) -> None:
    _, reply = await pos.posts("/v1/transactions", sale())
    push = offer_push(1, bytes.fromhex(reply["epoch"]), reply["seq"], text="<b>2 & more</b>")
    pos.counter.board.push(push)
    _, page = await pos.gets("/display", BEARER)
    assert "&lt;b&gt;2 &amp; more&lt;/b&gt;" in page
    assert [card.offer_id for card in pos.counter.shown] == [push.decision.offer_id]


async def test_the_stream_follows_the_board(pos: Pos) -> None:
    async with pos.client.get(pos.url("/display/stream"), headers=BEARER) as stream:
        assert stream.content_type == "text/event-stream"
        first = await next_board(stream)
        assert (first["online"], first["offers"], first["strip"], first["prompt"]) == (False, [], None, None)
        pos.counter.link.upload_done()
        assert (await next_board(stream))["online"]
        await pos.posts("/v1/members/identify", member())
        assert [offer["title"] for offer in (await next_board(stream))["offers"]] == ["Nice to see you"]
        await pos.posts("/v1/transactions", sale())
        assert (await next_board(stream))["offers"] == []


async def test_the_stream_takes_an_offer_down_when_it_expires(pos: Pos) -> None:
    _, reply = await pos.posts("/v1/transactions", sale())
    push = offer_push(1, bytes.fromhex(reply["epoch"]), reply["seq"], expires_ms=NOW_MS + 5)
    pos.counter.board.push(push)
    async with pos.client.get(pos.url("/display/stream"), headers=BEARER) as stream:
        assert len((await next_board(stream))["offers"]) == 1
        pos.counter.clock.turn(1)
        assert (await next_board(stream))["offers"] == []


async def test_streams_are_bounded_and_end_with_the_agent(tmp_path: Path) -> None:
    async with door_open(tmp_path) as pos:
        streams = [await pos.client.get(pos.url("/display/stream"), headers=BEARER) for _ in range(MAX_STREAMS)]
        assert (await pos.gets("/display/stream", BEARER))[0] == 503
        streams.pop().close()
        await pos.door.close()
        for stream in streams:
            await stream.read()


async def test_the_stream_needs_the_cookie_or_the_token(pos: Pos) -> None:
    assert (await pos.gets("/display/stream"))[0] == 401


async def test_a_port_in_use_is_told_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with counter(tmp_path) as behind:
            door = http_door(behind, pairing_of(behind, tmp_path))
            with pytest.raises(PortInUse) as caught:
                await door.open(port)
            await door.close()
    assert str(port) in caught.value.message
    assert caught.value.hint is not None
    assert "--hook-port" in caught.value.hint


async def next_board(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    """What the stream says next."""
    while True:
        line = await stream.content.readline()
        assert line, "the stream has ended"
        if line.startswith(b"data: "):
            board: dict[str, Any] = msgspec.json.decode(line.removeprefix(b"data: "))
            return board


async def test_a_basket_is_put_and_answered(pos: Pos) -> None:
    body = {"revision": 1, "state": "open", "lines": [{"seq": 0, "amount": 500}], "identifiers": [CARD]}
    status, reply = await pos.puts("/v1/baskets/b%2F1", body)
    assert (status, reply["basket"], [one["campaign"] for one in reply["effects"]]) == (200, "b/1", ["welcome"])
    assert "seq" not in reply
    status, again = await pos.puts("/v1/baskets/b%2F1", body)
    assert (status, again) == (200, reply)
    status, refused = await pos.puts("/v1/baskets/b%2F1", {**body, "revision": 0})
    assert (status, refused["error"]["code"], refused["error"]["limit"]) == (409, "stale_revision", "more than 1")
    closed = {"revision": 2, "state": "closed", "sale": msgspec.to_builtins(sale("b/1"))}
    status, reply = await pos.puts("/v1/baskets/b%2F1?ack=disk", closed)
    assert (status, reply["state"], reply["ack"], reply["seq"]) == (201, "closed", "disk", 1)
    assert pos.counter.telling.counted("refusals", reason="stale_revision") == 1


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/observations", {"kind": "other_bags", "text": "two"}, "observation"),
        ("/v1/survey-answers", {"question": "nps", "answer": "9", "offer": "ab" * 16}, "survey_answer"),
        ("/v1/wish-list", {"text": "the blue one"}, "wish_list_entry"),
    ],
)
async def test_what_is_said_at_a_till_is_one_small_call(pos: Pos, path: str, body: dict[str, str], kind: str) -> None:
    first = await pos.posts(path, {**body, "event_id": "e1"})
    again = await pos.posts(path, {**body, "event_id": "e1"})
    assert (first[0], again[0]) == (201, 200)
    assert first[1] == again[1] == {**first[1], "seq": 0, "ack": "os"}
    assert pos.counter.telling.counted("captures", door="http", kind=kind, ack="os") == 1
    status, refused = await pos.posts(path, {**body, "mood": "good"})
    assert (status, refused["error"]["code"]) == (400, "invalid_input")


CARD = {"scheme": "loyalty", "value": "4711"}
