"""The Python client where the agent is slow, broken, gone or something else: no exception, and no time lost."""

from __future__ import annotations

import ast
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tillstream_pos import Answer, Till, TillError
from tillstream_pos.breaker import LONGEST_S

SOURCES = sorted((Path(__file__).parents[2] / "deploy/pos/python/src").rglob("*.py"))
SALE: dict[str, Any] = {"kind": "sale"}
CAPTURED = b'{"till": "t", "epoch": "e", "seq": 7, "ack": "os"}'
Handle = Callable[[socket.socket], None]


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """Something that listens where an agent might: each connection is handed to `handle`."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            with suppress(OSError):
                self.handle(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join()


@contextmanager
def peer(handle: Handle, **options: Any) -> Iterator[tuple[Till, Peer]]:
    other = Peer(handle)
    try:
        with Till(url=f"http://127.0.0.1:{other.port}", token="t" * 43, **options) as till:
            yield till, other
    finally:
        other.close()


def reply(body: bytes, head: str = "HTTP/1.1 201 Created") -> bytes:
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def asked(connection: socket.socket) -> bytes:
    """One request without its end being looked for: they are small, and each comes in one piece."""
    return connection.recv(65_536)


def says(data: bytes, *, hangs_up: bool = True) -> Handle:
    def handle(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(data)
        if hangs_up:
            connection.close()

    return handle


def timed(till: Till) -> tuple[Answer, float]:
    started = time.monotonic()
    answer = till.transaction(SALE)
    return answer, time.monotonic() - started


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    answer = Till(url=f"http://127.0.0.1:{port}", token="t").transaction(SALE)
    assert (answer.ok, answer.code, answer.retryable, answer.status) == (False, "unreachable", True, 0)


def test_there_is_no_agent_at_all(tmp_path: Path) -> None:
    answer = Till(tmp_path / "nothing").transaction(SALE)
    assert (answer.code, answer.retryable) == ("unreachable", True)
    assert "hook.port" in (answer.hint or "")


@pytest.mark.parametrize("port", ["", "many"])
def test_a_state_folder_that_makes_no_sense_is_told(tmp_path: Path, port: str) -> None:
    (tmp_path / "hook.port").write_text(port)
    answer = Till(tmp_path).transaction(SALE)
    assert (answer.code, answer.error) == ("unreachable", "the agent's state folder cannot be read")
    assert "url and token" in (answer.hint or "")


def test_the_usual_state_folder_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILLSTREAM_STATE", str(tmp_path / "given"))
    assert str(tmp_path / "given") in (Till().transaction(SALE).hint or "")
    monkeypatch.delenv("TILLSTREAM_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert str(tmp_path / "tillstream-agent") in (Till().transaction(SALE).hint or "")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(tmp_path / "home/.local/state/tillstream-agent") in (Till().transaction(SALE).hint or "")


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "https://127.0.0.1:1", "token": "t"},
        {"url": "http://till.example:1", "token": "t"},
        {"url": "http://127.0.0.1:1/v1", "token": "t"},
        {"url": "http://127.0.0.1:1"},
        {"url": "http://127.0.0.1:1", "token": "t", "state": "x"},
        {"token": "t"},
        {"deadline": 0},
    ],
)
def test_arguments_that_contradict_each_other_are_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"agent|give|token|deadline"):
        Till(**arguments)


def test_an_agent_that_hangs_costs_the_deadline_and_then_nothing() -> None:
    clock = Clock()
    with peer(lambda _: None, deadline=0.1, clock=clock) as (till, other):
        for _ in range(2):
            answer, seconds = timed(till)
            assert (answer.code, answer.retryable) == ("timeout", True)
            assert seconds < 0.5
        resting, seconds = timed(till)
        assert (resting.code, resting.retryable, other.connections) == ("resting", True, 2)
        assert seconds < 0.1


def test_an_answer_that_dribbles_is_cut_off_at_the_deadline() -> None:
    stop = threading.Event()

    def dribble(connection: socket.socket) -> None:
        asked(connection)
        for byte in reply(CAPTURED):
            if stop.wait(0.02):
                return
            connection.sendall(bytes([byte]))

    with peer(dribble, deadline=0.1) as (till, _):
        answer, seconds = timed(till)
        stop.set()
    assert answer.code == "timeout"
    assert seconds < 0.5


def test_after_a_rest_one_call_tries_and_the_rests_grow() -> None:
    clock = Clock()
    with peer(says(b""), deadline=5, clock=clock) as (till, other):
        rests = []
        for _ in range(2):
            assert till.transaction(SALE).code == "unreachable"
        for _ in range(8):
            assert till.transaction(SALE).code == "resting"
            before, tries = clock.now, other.connections
            while other.connections == tries:
                clock.now += 0.5
                till.transaction(SALE)
            rests.append(clock.now - before)
        assert rests[:3] == [1.0, 2.0, 4.0]
        assert max(rests) == LONGEST_S
        other.handle = says(reply(CAPTURED), hangs_up=False)
        clock.now += LONGEST_S
        assert till.transaction(SALE).ok


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"x" * 40_000,
        reply(b"<html>"),
        reply(b"[]"),
        reply(b"{}", "HTTP/1.1 404 Not Found"),
        reply(b'{"error": 5}', "HTTP/1.1 500 Oops"),
        reply(b'{"seq": "many", "till": "", "epoch": ""}'),
        reply(b'{"effects": [{}]}'),
        reply(b'{"transactions": 5}'),
    ],
)
def test_what_no_agent_says_is_not_understood(said: bytes) -> None:
    with peer(says(said), deadline=5) as (till, _):
        assert till.transaction(SALE).code == "not_understood"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 201", reply(CAPTURED)[:-1]])
def test_an_agent_that_hangs_up_is_told(said: bytes) -> None:
    with peer(says(said), deadline=5) as (till, other):
        answer = till.transaction(SALE)
        assert (answer.code, other.connections) == ("unreachable", 1)


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced() -> None:
    with peer(says(reply(CAPTURED)), deadline=5) as (till, other):
        for _ in range(3):
            assert till.transaction(SALE).ok
        assert other.connections == 3


def test_a_kept_connection_that_closes_on_the_next_call_is_replaced_within_it() -> None:
    def handle(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(reply(CAPTURED))
        if other.connections == 1:
            asked(connection)
            connection.close()

    with peer(handle, deadline=5) as (till, other):
        assert till.transaction(SALE).ok
        assert till.transaction(SALE).ok
        assert other.connections == 2


def test_an_answer_that_closes_the_connection_is_heeded() -> None:
    with peer(says(reply(CAPTURED, "HTTP/1.1 201 Created\r\nConnection: close"), hangs_up=False), deadline=5) as (
        till,
        _,
    ):
        assert till.transaction(SALE).ok
        assert till._idle == []


def test_trouble_of_the_agent_is_worth_repeating() -> None:
    body = b'{"error": {"code": "journal_full", "message": "the disk is full", "hint": "make room"}}'
    with peer(says(reply(body, "HTTP/1.1 507 Insufficient Storage")), deadline=5) as (till, _):
        answer = till.transaction(SALE)
    assert (answer.code, answer.retryable, answer.hint, answer.status) == ("journal_full", True, "make room", 507)


def test_refusals_do_not_make_it_rest() -> None:
    body = b'{"error": {"code": "invalid_input", "message": "no"}}'
    with peer(says(reply(body, "HTTP/1.1 400 Bad Request")), deadline=5) as (till, _):
        assert [till.transaction(SALE).code for _ in range(4)] == ["invalid_input"] * 4


def test_every_record_of_an_adapted_document_is_named() -> None:
    record = CAPTURED.decode()
    body = f'{{"transactions": [{record}, {record[:-1]}, "repeat": true}}]}}'.encode()
    with peer(says(reply(body)), deadline=5) as (till, _):
        answer = till.adapt("odoo", b"[]")
    assert answer.captured is None
    assert [(one.seq, one.repeat) for one in answer.records] == [(7, False), (7, True)]


def test_strictness_concerns_trouble_too(tmp_path: Path) -> None:
    with pytest.raises(TillError, match="no agent runs") as caught:
        Till(tmp_path, strict=True).transaction(SALE)
    assert caught.value.answer.code == "unreachable"


def test_each_call_goes_where_the_agent_expects_it() -> None:
    heard: list[str] = []

    def handle(connection: socket.socket) -> None:
        while data := asked(connection):
            head, _, body = data.decode().partition("\r\n\r\n")
            heard.append(f"{head.split(' HTTP')[0]} {body}")
            connection.sendall(reply(b"{}", "HTTP/1.1 200 OK"))

    with peer(handle, deadline=5) as (till, _):
        till.basket(
            "B/7", revision=3, lines=iter([{"seq": 1}]), total=5, currency="EUR", identifiers=[("email", "a@b")]
        )
        till.basket("B7", revision=4, state="closed", sale=SALE, ack="disk")
        till.observe("other_bags", text="two", basket="B7", event_id="e1")
        till.survey_answer("nps", "9", offer="f" * 32, event_id="e2")
        till.wish(sku="S-1", event_id="e3")
        till.adapt("escpos", b"\x1b@", kind="application/octet-stream")
    assert heard == [
        'PUT /v1/baskets/B%2F7?ack=os {"revision": 3, "state": "open", "lines": [{"seq": 1}], "total": 5, '
        '"currency": "EUR", "identifiers": [{"scheme": "email", "value": "a@b"}]}',
        'PUT /v1/baskets/B7?ack=disk {"revision": 4, "state": "closed", "lines": [], "sale": {"kind": "sale"}}',
        'POST /v1/observations?ack=os {"event_id": "e1", "kind": "other_bags", "text": "two", "basket": "B7"}',
        f'POST /v1/survey-answers?ack=os {{"event_id": "e2", "question": "nps", "answer": "9", "offer": "{"f" * 32}"}}',
        'POST /v1/wish-list?ack=os {"event_id": "e3", "sku": "S-1"}',
        "POST /v1/adapters/escpos?ack=os \x1b@",
    ]


def test_what_has_no_key_of_its_own_gets_one() -> None:
    heard: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        heard.append(asked(connection))
        connection.sendall(reply(b"{}"))

    with peer(handle, deadline=5) as (till, _):
        till.observe("mood")
    assert b'"event_id": "' in heard[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_process_leaves_its_parents_connections_alone() -> None:
    def handle(connection: socket.socket) -> None:
        with suppress(OSError):
            while asked(connection):
                connection.sendall(reply(CAPTURED))

    with peer(lambda one: threading.Thread(target=handle, args=(one,)).start(), deadline=5) as (till, other):
        assert till.transaction(SALE).ok
        till._process = -1  # as after a fork
        assert till.transaction(SALE).ok
        assert other.connections == 2


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_is_written_for_python_3_9_and_the_standard_library(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
