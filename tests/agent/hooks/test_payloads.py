"""A POS's own bytes, over HTTP and the socket: read by an adapter, captured with the bytes beside it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import msgpack
import msgspec
import pytest

from support.agents import Counter, counter
from support.disks import BROKEN, TroubledDisk
from support.doors import http_door, pairing_of
from support.golden import blanks, sample
from tillstream_agent.config_doors import AdapterSetting, Doors
from tillstream_agent.hooks.socket import SocketDoor
from tillstream_agent.journal import Disk
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.registry import ADAPTERS
from tillstream_protocol.errors import InvalidInput
from tillstream_protocol.events import Original
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.packing import unpacked
from tillstream_protocol.redaction import cut_original

TOKEN = "k" * 43
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FORM_TYPES = {"text/plain", "multipart/form-data", "application/x-www-form-urlencoded"}
ORDER = sample("woocommerce/order_created_response.json")
DAY = sample("poslog/kinds-2.xml")
RECEIPT = sample("escpos/python-escpos-3.1_tcp9100.bin")
MAPPING = {
    "format": "csv",
    "system": "kiosk",
    "rows": "sales",
    "sale": {"pos_id": "id", "total": "total", "end": ["at"]},
}
DOORS = Doors(
    {
        "kiosk": AdapterSetting("mapping", Setting("EUR", options={"mapping": MAPPING})),
        "escpos": AdapterSetting("escpos", Setting("EUR", ZoneInfo("Europe/Berlin")), sure=0.9),
    }
)


@dataclass
class Pos:
    """A POS before both doors."""

    client: aiohttp.ClientSession
    behind: Counter
    port: int
    socket: Path

    async def posts(
        self, name: str, data: bytes, kind: str | None = "application/octet-stream", query: str = "", **headers: str
    ) -> tuple[int, Any]:
        sent = {**BEARER, **({"Content-Type": kind} if kind else {}), **headers}
        skip = () if kind else ("Content-Type",)
        url = f"http://127.0.0.1:{self.port}/v1/adapters/{name}{query}"
        async with self.client.post(url, data=data, headers=sent, skip_auto_headers=skip) as reply:
            return reply.status, msgspec.json.decode(await reply.read())

    async def calls(self, *calls: dict[str, Any]) -> list[dict[str, Any]]:
        """The replies to calls that are sent together on the socket."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        writer.write(b"".join(map(msgspec.msgpack.encode, calls)))
        unpacker = msgpack.Unpacker()
        replies: list[dict[str, Any]] = []
        while len(replies) < len(calls):
            data = await reader.read(65_536)
            assert data, "the door has hung up"
            unpacker.feed(data)
            replies.extend(unpacker)
        writer.close()
        await writer.wait_closed()
        return replies

    @property
    def captured(self) -> int:
        return self.behind.journal.position.seq


@asynccontextmanager
async def doors_open(folder: Path, disk: Disk | None = None) -> AsyncIterator[Pos]:
    async with counter(folder, disk=disk, doors=DOORS) as behind:
        events, clock = behind.telling.events, behind.clock
        pairing = pairing_of(behind, folder)
        http = http_door(behind, pairing)
        socket = SocketDoor(behind.desk, behind.payloads, behind.queue, pairing, events, clock, limits=DEFAULT)
        port = await http.open(0)
        await socket.open(folder / "hook.sock")
        try:
            async with aiohttp.ClientSession() as client:
                yield Pos(client, behind, port, folder / "hook.sock")
        finally:
            await socket.close()
            await http.close()


@pytest.fixture
async def pos(tmp_path: Path) -> AsyncIterator[Pos]:
    async with doors_open(tmp_path) as opened:
        yield opened


async def test_a_payload_is_captured_and_each_of_its_transactions_is_named(pos: Pos) -> None:
    status, reply = await pos.posts("woocommerce", ORDER, "application/json")
    assert status == 201
    (one,) = reply["transactions"]
    assert one == {
        "till": pos.behind.reporter.identity.till_id.hex(),
        "epoch": pos.behind.journal.position.epoch.hex(),
        "seq": 0,
        "ack": "os",
        "repeat": False,
    }
    assert pos.behind.telling.counted("captures", door="http", kind="transaction", ack="os") == 1


async def test_the_same_payload_again_is_a_repeat(pos: Pos) -> None:
    _, first = await pos.posts("poslog", DAY, "text/xml; charset=utf-8", "?ack=disk")
    count = len(first["transactions"])
    assert count > 1
    assert {one["ack"] for one in first["transactions"]} == {"disk"}
    status, again = await pos.posts("poslog", DAY)
    assert status == 200
    assert [one["seq"] for one in again["transactions"]] == [one["seq"] for one in first["transactions"]]
    assert all(one["repeat"] for one in again["transactions"])
    assert pos.captured == count


async def test_an_order_whose_uuid_holds_the_customers_short_number_by_chance_is_a_repeat_too(pos: Pos) -> None:
    order = sample("odoo/sync_from_ui.json")
    first = await pos.posts("odoo", order)
    again = await pos.posts("odoo", order)
    assert (first[0], again[0]) == (201, 200)
    assert [one["seq"] for one in again[1]["transactions"]] == [one["seq"] for one in first[1]["transactions"]]


async def test_the_socket_takes_the_same(pos: Pos) -> None:
    call = {"call": "adapters", "name": "woocommerce", "body": ORDER}
    first, again, status = await pos.calls(call, {**call, "ack": "disk"}, {"call": "status"})
    assert (first["status"], again["status"], status["status"]) == (201, 200, 200)
    assert first["body"]["transactions"][0]["seq"] == again["body"]["transactions"][0]["seq"] == 0
    assert pos.behind.telling.counted("captures", door="socket", kind="transaction", ack="os") == 1


async def test_the_socket_names_what_it_does_not_take(pos: Pos) -> None:
    unknown, broken = await pos.calls(
        {"call": "adapters", "name": "fax", "body": b""}, {"call": "adapters", "name": "woocommerce", "body": b"{"}
    )
    assert (unknown["status"], unknown["error"]["code"]) == (404, "not_found")
    assert (broken["status"], broken["error"]["field"]) == (400, "body")


async def test_a_payload_that_sells_nothing_captures_nothing(pos: Pos) -> None:
    assert await pos.posts("escpos", b"\x1b@\x1bp\x00\x19\xfa") == (200, {"transactions": []})


@pytest.mark.parametrize("kind", [*sorted(FORM_TYPES), "text/csv", "image/png", None])
async def test_what_a_form_can_send_and_what_the_format_is_not_is_not_read(pos: Pos, kind: str | None) -> None:
    status, reply = await pos.posts("woocommerce", ORDER, kind)
    assert (status, reply["error"]["code"]) == (415, "unsupported_media_type")
    assert pos.captured == 0


@pytest.mark.parametrize("name", ADAPTERS)
def test_no_format_goes_by_a_type_that_a_form_can_send(name: str) -> None:
    adapter = ADAPTERS[name]
    assert not FORM_TYPES & {adapter.media_type, *adapter.also}


async def test_an_unknown_adapter_is_not_found_and_the_known_ones_are_named(pos: Pos) -> None:
    status, reply = await pos.posts("fax", b"")
    assert (status, reply["error"]["field"]) == (404, "name")
    assert "woocommerce" in reply["error"]["limit"]


async def test_a_payload_without_the_token_is_not_read(pos: Pos) -> None:
    status, _ = await pos.posts("woocommerce", ORDER, Authorization="Bearer wrong")
    assert status == 401


async def test_one_wrong_transaction_refuses_the_payload_as_a_whole(pos: Pos) -> None:
    status, reply = await pos.posts("kiosk", b"id,total,at\n1,5.00,2026-01-01T10:00\n2,five,2026-01-01T10:00\n")
    assert (status, reply["error"]["code"], reply["error"]["field"]) == (400, "invalid_input", "row 3, total")
    assert pos.captured == 0


async def test_a_transaction_that_the_till_cannot_take_refuses_the_payload_and_is_named(pos: Pos) -> None:
    first, *_ = readings = ADAPTERS["poslog"].read(DAY, Setting("USD"))
    of_another = replace(first, transaction=msgspec.structs.replace(first.transaction, retailer="another"))
    pos.behind.payloads._formats["poslog"] = replace(ADAPTERS["poslog"], read=lambda *_: [*readings, of_another])
    status, reply = await pos.posts("poslog", DAY)
    assert (status, reply["error"]["field"]) == (400, f"transactions[{len(readings)}].retailer")
    assert pos.captured == 0


async def test_a_journal_that_fails_half_way_gets_the_rest_when_the_payload_comes_again(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with doors_open(tmp_path, disk) as pos:
        before = await pos.behind.payloads.read("poslog", DAY)
        await pos.behind.payloads.capture(before[:2])
        disk.trouble.write = BROKEN
        status, reply = await pos.posts("poslog", DAY)
        assert (status, reply["error"]["code"]) == (503, "journal_unavailable")
        disk.trouble.write = None
        status, reply = await pos.posts("poslog", DAY)
        assert status == 201
        assert [one["repeat"] for one in reply["transactions"]].count(True) == 2
        assert len({one["seq"] for one in reply["transactions"]}) == len(before)


async def test_a_reading_that_is_not_sure_says_so_and_is_kept(pos: Pos) -> None:
    (sale,) = await pos.behind.payloads.read("escpos", RECEIPT)
    assert sale.transaction.ext is not None
    assert sale.transaction.ext["confidence"] == 0.85


async def test_the_till_says_what_the_payload_does_not(tmp_path: Path) -> None:
    async with counter(tmp_path) as behind:
        sale, *_ = await behind.payloads.read("odoo", sample("odoo/sync_from_ui.json"))
        assert sale.transaction.currency == "USD"
        assert "currency" in (sale.transaction.ext or {})["assumed"]  # type: ignore[operator]


async def test_the_original_bytes_go_along_with_their_digest_and_type(pos: Pos) -> None:
    (sale,) = await pos.behind.payloads.read("woocommerce", ORDER)
    assert sale.original.data == ORDER
    assert sale.original.sha256 == hashlib.sha256(ORDER).digest()
    assert sale.original.media_type == "application/json"
    (sale,) = await pos.behind.payloads.read("woocommerce", ORDER, media_type="application/vnd.shop+json")
    assert sale.original.media_type == "application/vnd.shop+json"


async def test_card_numbers_in_the_bytes_are_cut_in_the_adapters_thread_and_counted(
    pos: Pos, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def cut(original: Original) -> tuple[Original, int]:
        threads.append(threading.current_thread().name)
        return cut_original(original)

    monkeypatch.setattr("tillstream_agent.capture.cut_original", cut)
    job = b"Coffee    3.50\nTOTAL     3.50\nCash      3.50\nCard 4111111111111111\n2026-01-01 10:00:00\n"
    (sale,) = await pos.behind.payloads.read("escpos", job)
    (captured,) = await pos.behind.payloads.capture([sale])
    (thread,) = threads
    assert thread.startswith("adapter")
    assert b"4111111111111111" not in sale.original.data
    assert sale.original.sha256 == hashlib.sha256(sale.original.data).digest()
    assert captured.redactions >= 1


async def test_a_sale_that_no_record_has_room_for_is_refused_before_anything_is_captured(pos: Pos) -> None:
    notes = [{"id": number, "key": "note", "value": "x" * 20_000} for number in range(63)]
    body = msgspec.json.encode({**msgspec.json.decode(ORDER), "meta_data": notes})
    with pytest.raises(InvalidInput) as caught:
        await pos.behind.payloads.read("woocommerce", body)
    assert (caught.value.code, caught.value.field) == ("too_large", "body")


async def test_bytes_that_a_record_has_no_room_for_are_compressed(pos: Pos) -> None:
    body = ORDER + b" " * DEFAULT.record
    (sale,) = await pos.behind.payloads.read("woocommerce", body)
    assert sale.original.form == "zstd"
    assert unpacked(sale.original).data == body
    (captured,) = await pos.behind.payloads.capture([sale])
    assert (captured.repeat, captured.left_out) == (False, False)


async def test_and_left_out_where_that_does_not_help_which_is_counted(pos: Pos) -> None:
    (sale,) = await pos.behind.payloads.read("woocommerce", ORDER + blanks(6 * 1024 * 1024))
    (captured,) = await pos.behind.payloads.capture([sale])
    assert (sale.original.form, captured.left_out, pos.captured) == ("left_out", True, 1)
    assert pos.behind.telling.counted("originals_left_out") == 1
    assert "original_left_out" in pos.behind.telling.said()


async def test_a_defect_of_an_adapter_ends_no_door(pos: Pos, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_data: bytes, _setting: Setting) -> list[Any]:
        raise ZeroDivisionError

    monkeypatch.setitem(pos.behind.payloads._formats, "woocommerce", replace(ADAPTERS["woocommerce"], read=fails))
    assert (await pos.posts("woocommerce", ORDER))[0] == 500
    (reply,) = await pos.calls({"call": "adapters", "name": "woocommerce", "body": ORDER})
    assert reply["status"] == 500
    assert pos.behind.telling.said().count("defect") == 2
