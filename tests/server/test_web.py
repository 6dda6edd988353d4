"""What every answer has in common, and the pages that need no key."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from support.serving import Server, sale, serving
from tillstream_protocol.errors import Damaged, InvalidInput, TillstreamError, TooLarge
from tillstream_protocol.signing import BadSignature, Unsigned
from tillstream_protocol.versions import VersionMismatch
from tillstream_server.app import CannotListen
from tillstream_server.auth import Forbidden, Unauthorised
from tillstream_server.folder import FolderBusy
from tillstream_server.gateway.flow import Busy
from tillstream_server.gateway.requests import Revoked, UnknownDevice, UnsupportedMedia
from tillstream_server.ledger.database import LedgerFault
from tillstream_server.web import is_from_here, status_of


async def test_the_front_page_says_what_this_is_and_where_to_look(server: Server) -> None:
    reply = await server.get("/")
    assert reply.headers["Content-Type"].startswith("text/html")
    for link in ("/api/openapi.json", "/healthz", "/readyz", "/metrics"):
        assert f'href="{link}"'.encode() in reply.body


async def test_a_server_that_serves_is_alive_and_ready(server: Server) -> None:
    assert (await server.get("/healthz")).json() == {"status": "ok"}
    assert (await server.get("/readyz")).json() == {"status": "ready"}


async def test_metrics_are_there_from_the_start_as_zeros(server: Server) -> None:
    text = (await server.get("/metrics")).body.decode()
    for line in (
        'tillstream_server_batches_total{outcome="unsigned"} 0.0',
        'tillstream_server_records_total{outcome="duplicate"} 0.0',
        'tillstream_server_enrolments_total{outcome="token_expired"} 0.0',
        "tillstream_server_push_sessions 0.0",
    ):
        assert line in text.splitlines()


async def test_no_metric_names_a_till(server: Server) -> None:
    till = await server.till("checkout-77")
    async with till.on_push():
        pass
    text = (await server.get("/metrics")).body.decode()
    assert "checkout-77" not in text
    assert till.reply.till_id.hex() not in text


async def test_an_address_that_leads_nowhere_says_so(server: Server) -> None:
    reply = await server.get("/till/v2/batches")
    assert (reply.status, reply.error["code"]) == (404, "not_found")


async def test_a_wrong_method_names_the_right_one(server: Server) -> None:
    reply = await server.get("/till/v1/batches")
    assert (reply.status, reply.error["code"], reply.headers["Allow"]) == (405, "method_not_allowed", "POST")


async def test_every_answer_carries_the_headers_of_a_careful_server(server: Server) -> None:
    for path in ("/", "/healthz", "/nowhere", "/api/v1/tills"):
        headers = (await server.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Server" not in headers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unsigned(""), 401),
        (BadSignature(""), 401),
        (UnknownDevice(""), 401),
        (Unauthorised(""), 401),
        (Revoked(""), 403),
        (Forbidden(""), 403),
        (TooLarge(""), 413),
        (UnsupportedMedia(""), 415),
        (Busy(""), 503),
        (InvalidInput(""), 400),
        (Damaged(""), 400),
        (VersionMismatch(""), 400),
        (LedgerFault(""), 503),
        (TillstreamError(""), 500),
    ],
)
def test_the_status_says_whose_fault_it_is(error: TillstreamError, status: int) -> None:
    assert status_of(error) == status


async def test_more_batches_than_it_will_hold_are_sent_away_for_a_while(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", batches_waiting=1) as server:
        till = await server.till()
        first, second = till.batch(sale(1)), till.batch(sale(2))
        with closing(sqlite3.connect(server.folder.ledger, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # whoever writes now has to wait
            waiting = asyncio.create_task(till.uploads(first))
            async with asyncio.timeout(10):
                while server.count("batches_waiting") != 1:
                    await asyncio.sleep(0.01)
            reply = await till.uploads(second)
            other.execute("ROLLBACK")
        assert (reply.status, reply.error["code"], reply.error["retryable"]) == (503, "busy", True)
        assert int(reply.headers["Retry-After"]) > 0
        assert server.count("batches_total", outcome="busy") == 1
        assert (await waiting).status == 200
        assert (await till.uploads(second)).status == 200


async def test_a_port_in_use_is_told_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CannotListen, match="in use") as caught:
            async with serving(tmp_path / "data", port=taken.getsockname()[1]):
                pass
    assert "--port" in str(caught.value.hint)


async def test_an_address_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="cannot listen"):
        async with serving(tmp_path / "data", host="192.0.2.1"):
            pass


async def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match=r"none\.pem"):
        async with serving(tmp_path / "data", tls_certificate="none.pem", tls_key="none.pem"):
            pass


async def test_two_servers_never_share_a_folder(tmp_path: Path) -> None:
    async with serving(tmp_path / "data"):
        with pytest.raises(FolderBusy):
            async with serving(tmp_path / "data"):
                pass


async def test_a_server_that_was_stopped_goes_on_with_what_it_had(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        key = await server.key()
    async with serving(tmp_path / "data") as server:
        assert (await server.get("/api/v1/ledger/summary", key)).status == 200


async def test_metrics_tell_money_so_what_comes_through_a_proxy_needs_a_key(server: Server) -> None:
    for header in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"):
        behind = {header: "127.0.0.1"}
        reply = await server.get("/metrics", behind)
        assert (reply.status, reply.error["code"]) == (401, "unauthorised")
        assert b"tillstream_server_amount" not in reply.body
    refused = await server.get("/metrics", behind | await server.key("marketer"))
    assert (refused.status, refused.error["code"]) == (403, "forbidden")
    assert (await server.get("/metrics", behind | await server.key("operator"))).status == 200


@pytest.mark.parametrize(
    ("remote", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        (None, False),
        ("", False),
    ],
)
def test_this_machine_is_its_loopback_alone(remote: Any, here: bool) -> None:
    request = make_mocked_request("GET", "/metrics", {"Host": "127.0.0.1:8700"}).clone(remote=remote)
    assert is_from_here(request) is here


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost:8700", True),
        ("127.9.9.9", True),
        ("[::1]:8700", True),
        ("head.example.com", False),
        ("localhost.example.com", False),
        ("10.0.0.1:8700", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_a_proxy_that_says_nothing_of_itself_is_known_by_the_name_that_was_asked_for(host: str, here: bool) -> None:
    request = make_mocked_request("GET", "/metrics", {"Host": host}).clone(remote="127.0.0.1")
    assert is_from_here(request) is here


async def test_a_stranger_behind_a_silent_proxy_reads_no_figures(server: Server) -> None:
    """HAProxy passes the Host on that was asked for; nginx, unless told otherwise, asks for its own in HTTP/1.0."""
    assert (await server.get("/metrics", {"Host": "head.example.com"})).status == 401
    host, _, port = server.address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"GET /metrics HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        reply = await reader.read()
    finally:
        writer.close()
    assert reply.split(b" ", 2)[1] == b"401"
    assert b"tillstream_server_amount" not in reply
