"""The socket door: one reply a call, in order, however the bytes arrive."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.agents import WELCOME, Counter, counter, member, sale
from support.disks import TroubledDisk
from support.doors import pairing_of
from tillstream_agent import queue
from tillstream_agent.folder import StateError
from tillstream_agent.hooks.socket import Borders, SocketDoor
from tillstream_agent.journal import Disk, Name
from tillstream_agent.sync.answers import Failure
from tillstream_agent.sync.flow import Send
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.limits import DEFAULT

SMALL = replace(DEFAULT, hook_body=4096)


@dataclass
class Pos:
    """A POS on the socket."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    counter: Counter
    unpacker: Any

    def says(self, call: dict[str, Any]) -> None:
        self.writer.write(msgspec.msgpack.encode(call))

    async def hears(self) -> dict[str, Any]:
        """The next reply."""
        while True:
            for reply in self.unpacker:
                assert isinstance(reply, dict)
                return reply
            data = await self.reader.read(65_536)
            assert data, "the door has hung up"
            self.unpacker.feed(data)

    async def calls(self, call: str, body: object, **more: object) -> dict[str, Any]:
        self.says({"call": call, "body": body, **more})
        return await self.hears()


@asynccontextmanager
async def door_open(folder: Path, disk: Disk | None = None) -> AsyncIterator[Pos]:
    async with counter(folder, WELCOME, disk=disk) as behind:
        door = SocketDoor(
            behind.desk,
            behind.payloads,
            behind.queue,
            pairing_of(behind, folder),
            behind.telling.events,
            behind.clock,
            limits=SMALL,
        )
        await door.open(folder / "hook.sock")
        reader, writer = await asyncio.open_unix_connection(folder / "hook.sock")
        try:
            yield Pos(reader, writer, behind, msgpack.Unpacker())
        finally:
            writer.close()
            await door.close()


@pytest.fixture
async def pos(tmp_path: Path) -> AsyncIterator[Pos]:
    async with door_open(tmp_path) as opened:
        yield opened


async def test_a_sale_is_captured_and_a_repeat_answered_as_one(pos: Pos) -> None:
    first = await pos.calls("transactions", sale())
    assert first["status"] == 201
    assert (first["body"]["seq"], first["body"]["ack"]) == (0, "os")
    assert "effects" not in first["body"]
    again = await pos.calls("transactions", sale())
    assert (again["status"], again["body"]) == (200, first["body"])
    assert pos.counter.telling.counted("captures", door="socket", kind="transaction", ack="os") == 1


async def test_an_ack_from_the_disk_can_be_waited_for(pos: Pos) -> None:
    reply = await pos.calls("transactions", sale(), ack="disk")
    assert (reply["status"], reply["body"]["ack"]) == (201, "disk")


async def test_a_member_gets_offers_and_answers_one(pos: Pos) -> None:
    identified = await pos.calls("identify", member("e1"))
    offer = identified["body"]["effects"][0]["offer"]
    answered = await pos.calls("answer", {"offer": offer, "answer": "accepted"})
    assert answered["status"] == 201
    assert (await pos.calls("answer", {"offer": offer, "answer": "accepted"}))["status"] == 200
    unknown = await pos.calls("answer", {"offer": "0" * 32, "answer": "declined"})
    assert (unknown["status"], unknown["error"]["code"]) == (404, "not_found")


async def test_status_is_told(pos: Pos) -> None:
    pos.says({"call": "status"})
    reply = await pos.hears()
    assert (reply["status"], reply["body"]["store"]) == (200, "north")


async def test_what_the_server_refused_is_listed_and_tried_again(pos: Pos) -> None:
    await pos.calls("transactions", sale(), ack="disk")
    behind = pos.counter
    step = behind.flow.next(0.0)
    assert isinstance(step, Send)
    behind.flow.failed(step.slice, Failure("refused", "invalid_input", "no"), 0.0)
    pos.says({"call": "queue_list"})
    page = (await pos.hears())["body"]
    assert (page["here"], page["server"], page["next"], page["queue"]["aside"]) == (1, 0, None, 1)
    (line,) = page["lines"]
    assert (line["seq"], line["kind"], line["kept"], line["code"]) == (0, "transaction", "here", "invalid_input")
    pos.says({"call": "queue_retry", "wanted": {"epoch": line["epoch"], "seq": 1}})
    assert (await pos.hears())["body"] == {"here": 0, "server": 0, "gone": 0}
    pos.says({"call": "queue_retry", "wanted": {"epoch": line["epoch"]}})
    assert (await pos.hears())["body"] == {"here": 1, "server": 0, "gone": 0}
    pos.says({"call": "queue_list"})
    assert (await pos.hears())["body"]["lines"] == []
    assert behind.journal.queue().aside == 0


async def test_a_long_list_comes_in_parts(pos: Pos) -> None:
    for seq in range(queue.PAGE + 3):
        pos.counter.letters.refused((b"e" * 16, seq), 1, "invalid_input", "no", counts=True)
    pos.says({"call": "queue_list"})
    page = (await pos.hears())["body"]
    assert (len(page["lines"]), page["next"]) == (queue.PAGE, queue.PAGE)
    pos.says({"call": "queue_list", "start": page["next"]})
    rest = (await pos.hears())["body"]
    assert ([line["seq"] for line in rest["lines"]], rest["next"]) == ([queue.PAGE + n for n in range(3)], None)


async def test_calls_sent_together_are_answered_in_order(pos: Pos) -> None:
    for number in range(20):
        pos.says({"call": "transactions", "body": sale(str(number)), "ack": "disk" if number % 3 else "os"})
    replies = [await pos.hears() for _ in range(20)]
    assert [reply["body"]["seq"] for reply in replies] == list(range(20))


async def test_a_call_in_pieces_is_answered_when_it_is_whole(pos: Pos) -> None:
    call = msgspec.msgpack.encode({"call": "transactions", "body": sale()})
    for byte in call:
        pos.writer.write(bytes([byte]))
        await pos.writer.drain()
    assert (await pos.hears())["status"] == 201


async def test_a_wrong_field_is_named_as_over_http(pos: Pos) -> None:
    body = {**msgspec.to_builtins(sale()), "total": "x"}
    reply = await pos.calls("transactions", body)
    assert (reply["status"], reply["error"]["field"]) == (400, "total")
    assert (await pos.calls("transactions", sale()))["status"] == 201


@pytest.mark.parametrize(
    "call", [{}, {"call": "dance", "body": {}}, {"call": "identify"}, {"call": "transactions", "ack": "later"}, 7, []]
)
async def test_what_is_no_call_is_refused_and_the_next_one_served(pos: Pos, call: Any) -> None:
    pos.says(call)
    assert (await pos.hears())["status"] == 400
    assert (await pos.calls("transactions", sale()))["status"] == 201


async def test_bytes_that_are_no_msgpack_end_the_connection_after_what_came_before(pos: Pos) -> None:
    pos.says({"call": "transactions", "body": sale(), "ack": "disk"})
    pos.writer.write(b"\xc1")
    assert (await pos.hears())["status"] == 201
    assert (await pos.hears())["error"]["code"] == "invalid_input"
    assert await pos.reader.read() == b""


async def test_a_call_over_the_limit_ends_the_connection(pos: Pos) -> None:
    pos.writer.write(msgspec.msgpack.encode({"call": "transactions", "body": "x" * 20_000}))
    reply = await pos.hears()
    assert (reply["status"], reply["error"]["code"]) == (413, "too_large")
    assert await pos.reader.read() == b""


async def test_deep_nesting_is_refused(pos: Pos) -> None:
    pos.writer.write(b"\x91" * 3000 + b"\x90")
    assert (await pos.hears())["status"] == 400


async def test_a_journal_in_trouble_is_told(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with door_open(tmp_path, disk) as pos:
        disk.trouble.write = errno.EIO
        reply = await pos.calls("transactions", sale())
        assert (reply["status"], reply["error"]["code"]) == (503, "journal_unavailable")
        assert pos.counter.reporter.health().status == "failing"


async def test_a_disk_that_does_not_confirm_is_told(pos: Pos, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_name: Name) -> None:
        await asyncio.Event().wait()

    desk = pos.counter.desk
    monkeypatch.setattr(desk, "durable", lambda captured: desk._capture.durable(captured, deadline=0.01))
    monkeypatch.setattr(pos.counter.journal, "synced", never)
    reply = await pos.calls("transactions", sale(), ack="disk")
    assert (reply["status"], reply["error"]["code"]) == (503, "not_on_disk")


async def test_a_defect_is_answered_and_told_of(pos: Pos, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_body: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pos.counter.desk, "identify", broken)
    assert (await pos.calls("identify", member()))["status"] == 500
    assert "defect" in pos.counter.telling.said()


async def test_a_pos_that_reads_no_replies_is_not_read_from(pos: Pos) -> None:
    calls = 50_000
    pos.writer.write(msgspec.msgpack.encode({"call": "status"}) * calls)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pos.writer.drain(), 0.3)
    for _ in range(calls):
        assert (await pos.hears())["status"] == 200


async def test_a_pos_that_leaves_while_the_disk_is_waited_for_loses_nothing(pos: Pos) -> None:
    pos.says({"call": "transactions", "body": sale(), "ack": "disk"})
    await pos.writer.drain()
    pos.writer.close()
    async with asyncio.timeout(5):
        while pos.counter.journal.position.seq == 0:
            await asyncio.sleep(0.001)


async def test_the_socket_is_the_users_alone_and_replaces_a_left_one(tmp_path: Path) -> None:
    (tmp_path / "hook.sock").touch()
    async with door_open(tmp_path) as pos:
        assert (await pos.calls("transactions", sale()))["status"] == 201
        found = (tmp_path / "hook.sock").stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
    assert not (tmp_path / "hook.sock").exists()


async def test_a_path_that_no_socket_can_have_is_told_of(tmp_path: Path) -> None:
    async with counter(tmp_path) as behind:
        door = SocketDoor(
            behind.desk,
            behind.payloads,
            behind.queue,
            pairing_of(behind, tmp_path),
            behind.telling.events,
            behind.clock,
            limits=SMALL,
        )
        with pytest.raises(StateError, match="too long"):
            await door.open(tmp_path / ("x" * 120))
        with pytest.raises(StateError, match="cannot be opened"):
            await door.open(tmp_path / "none" / "hook.sock")
        await door.close()


MESSAGES = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(1, 50)))
def test_borders_are_found_however_the_stream_is_cut(messages: list[object], sizes: list[int]) -> None:
    encoded = [msgspec.msgpack.encode(message) for message in messages]
    stream = b"".join(encoded)
    borders = Borders(4096)
    found: list[bytes] = []
    for size in [*sizes, len(stream)]:
        part, stream = stream[:size], stream[size:]
        found.extend(borders.feed(part))
    assert found == encoded


def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    fits = msgspec.msgpack.encode(b"x" * 98)
    assert len(fits) == 100
    assert list(Borders(100).feed(fits * 3)) == [fits] * 3
    with pytest.raises(TooLarge):
        list(Borders(100).feed(msgspec.msgpack.encode(b"x" * 99)))
    with pytest.raises(InvalidInput):
        list(Borders(100).feed(b"\xc1"))


async def test_baskets_and_what_is_said_over_them_go_over_the_socket_too(pos: Pos) -> None:
    line = {"seq": 0, "amount": 500}
    opened = await pos.calls("basket", {"revision": 1, "state": "open", "lines": [line]}, id="b1")
    assert (opened["status"], opened["body"]) == (
        200,
        {"basket": "b1", "revision": 1, "state": "open", "effects": []},
    )
    for call, body in (
        ("observation", {"kind": "other_bags", "basket": "b1"}),
        ("survey_answer", {"question": "nps", "answer": "9", "basket": "b1"}),
        ("wish", {"sku": "A2", "basket": "b1"}),
    ):
        said = await pos.calls(call, body, ack="disk")
        assert (said["status"], said["body"]["ack"]) == (201, "disk")
    closed = await pos.calls("basket", {"revision": 2, "state": "closed", "sale": _built(sale("b1"))}, id="b1")
    assert (closed["status"], closed["body"]["seq"]) == (201, 3)
    stale = await pos.calls("basket", {"revision": 1, "state": "open"}, id="b1")
    assert (stale["status"], stale["error"]["code"]) == (409, "stale_revision")
    assert pos.counter.telling.counted("captures", door="socket", kind="observation", ack="disk") == 1


def _built(body: object) -> object:
    return msgspec.to_builtins(body)


async def test_whoever_is_at_the_till_gets_a_code_and_can_end_all_pairings(tmp_path: Path) -> None:
    async with door_open(tmp_path) as pos:
        pos.says({"call": "pair"})
        reply = await pos.hears()
        assert (reply["status"], len(reply["body"]["code"]), reply["body"]["seconds"]) == (200, 8, 300.0)
        pos.says({"call": "forget"})
        assert await pos.hears() == {"status": 200, "body": {"passes": 0}}


async def test_pairings_that_cannot_be_ended_are_told_of(tmp_path: Path) -> None:
    async with door_open(tmp_path) as pos:
        (tmp_path / "paired.json").mkdir()
        pos.says({"call": "forget"})
        reply = await pos.hears()
        assert (reply["status"], reply["error"]["code"]) == (500, "state")
        pos.says({"call": "pair"})
        assert (await pos.hears())["status"] == 200
