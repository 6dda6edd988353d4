"""The one class that a POS needs."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Union
from urllib.parse import quote

from .answer import Answer, TillError, failed, read
from .breaker import Breaker
from .place import Absent, finder
from .wire import Broken, Connection, Overdue, Request, Strange

DEADLINE_S = 0.25
KEPT = 4
"""Idle connections that are kept; more are needed only while more threads call at once."""
JSON = "application/json"
ANY = "application/octet-stream"
"""The content type that every adapter takes."""
UNAUTHORIZED = 401

Identifiers = Iterable[Union[tuple[str, str], Mapping[str, str]]]


class Till:
    """Calls the agent on this machine.

    Without arguments the agent's usual state folder is looked into; another machine user's agent is given by `url` and
    `token`. Every call ends within `deadline` seconds and returns an `Answer`; with `strict` it raises `TillError`
    instead of returning one that is not `ok`. Threads may share a till.

    Repeating any call is safe: a sale has its own key, a basket its revision, an offer its one answer, and the rest get
    an `event_id` here if the POS gives none. So a call whose kept connection turns out to be closed is sent once more,
    within the same deadline.

    Raises `ValueError` if the arguments contradict each other; never because there is no agent.
    """

    def __init__(
        self,
        state: Union[str, os.PathLike[str]] | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        deadline: float = DEADLINE_S,
        strict: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if deadline <= 0:
            raise ValueError("the deadline has to be above 0 seconds")
        self._finder = finder(state, url, token, os.environ)
        self._deadline = deadline
        self._strict = strict
        self._breaker = Breaker(clock, self._finder.mark)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._process = os.getpid()

    # Calls

    def transaction(self, sale: Mapping[str, Any], *, ack: str = "os", deadline: float | None = None) -> Answer:
        """Report a sale, return or whatever else the till did, as a canonical transaction.

        `deadline` shortens the till's own for this call: for who sends several within one wait.
        """
        return self._call("POST", ("transactions",), sale, ack, deadline=deadline)

    def basket(
        self,
        basket: str,
        *,
        revision: int,
        state: str = "open",
        lines: Iterable[Mapping[str, Any]] = (),
        total: int | None = None,
        currency: str | None = None,
        identifiers: Identifiers = (),
        offset_minutes: int | None = None,
        sale: Mapping[str, Any] | None = None,
        ack: str = "os",
        deadline: float | None = None,
    ) -> Answer:
        """Say how the basket stands: `open`, `suspended`, `closed` or `voided`, its lines and who buys, if known.

        `revision` grows with each change; the same one again gets the same answer. `total` is the lines' sum if it is
        left out, `offset_minutes` local time less UTC. Closing takes the `sale`, and captures it as `transaction` does.
        """
        body = {"revision": revision, "state": state, "lines": lines}
        body.update(_given(total=total, currency=currency, offset_minutes=offset_minutes, sale=sale))
        body.update(_people(identifiers))
        return self._call("PUT", ("baskets", basket), body, ack, deadline=deadline)

    def identify(self, identifiers: Identifiers, *, basket: str = "", event_id: str = "", ack: str = "os") -> Answer:
        """Say who is at the till, each as `(scheme, value)`: `("loyalty", "9900112233")`."""
        body = _event(event_id, identifiers=_Persons(identifiers), basket=basket)
        return self._call("POST", ("members", "identify"), body, ack)

    def accept(self, offer: str, *, ack: str = "os") -> Answer:
        """The customer takes the offer."""
        return self._call("POST", ("offers", offer, "accepted"), {}, ack)

    def decline(self, offer: str, *, ack: str = "os") -> Answer:
        """The customer does not want the offer."""
        return self._call("POST", ("offers", offer, "declined"), {}, ack)

    def observe(
        self,
        kind: str,
        *,
        text: str = "",
        basket: str = "",
        identifiers: Identifiers = (),
        event_id: str = "",
        ack: str = "os",
    ) -> Answer:
        """Note what the cashier saw, such as `other_bags`."""
        body = _event(event_id, kind=kind, text=text, basket=basket, **_people(identifiers))
        return self._call("POST", ("observations",), body, ack)

    def survey_answer(
        self,
        question: str,
        answer: str = "",
        *,
        text: str = "",
        basket: str = "",
        offer: str = "",
        identifiers: Identifiers = (),
        event_id: str = "",
        ack: str = "os",
    ) -> Answer:
        """Pass on what the customer said to a question: a choice or a number, words of their own, or both.

        `offer` is the id of the offer whose prompt asked.
        """
        said = {"answer": answer, "text": text, "basket": basket, "offer": offer, **_people(identifiers)}
        return self._call("POST", ("survey-answers",), _event(event_id, question=question, **said), ack)

    def wish(
        self,
        *,
        text: str = "",
        sku: str = "",
        basket: str = "",
        identifiers: Identifiers = (),
        event_id: str = "",
        ack: str = "os",
    ) -> Answer:
        """Note what the customer would have liked to buy: in words, by product number, or both."""
        body = _event(event_id, text=text, sku=sku, basket=basket, **_people(identifiers))
        return self._call("POST", ("wish-list",), body, ack)

    def adapt(self, adapter: str, data: bytes, *, kind: str = ANY, ack: str = "os") -> Answer:
        """Hand over the POS's own bytes for one of the agent's adapters to read; `kind` is their content type."""
        return self._call("POST", ("adapters", adapter), _Bytes(data), ack, kind)

    def close(self) -> None:
        """Hang up. A later call connects again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()

    def __enter__(self) -> Till:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What every call goes through

    def _call(
        self,
        method: str,
        parts: tuple[str, ...],
        body: Body,
        ack: str,
        kind: str = JSON,
        *,
        deadline: float | None = None,
    ) -> Answer:
        seconds = self._deadline if deadline is None else min(deadline, self._deadline)
        answer = self._answered(method, parts, body, ack, kind, seconds)
        if self._strict and not answer.ok:
            raise TillError(answer)
        return answer

    def _answered(self, method: str, parts: tuple[str, ...], body: Body, ack: str, kind: str, seconds: float) -> Answer:
        deadline = time.monotonic() + seconds
        try:
            request = _request(method, parts, body, ack, kind)
        except Exception as error:  # noqa: BLE001 (whatever the POS gave, it goes on selling)
            return failed("invalid_input", f"the call cannot be written: {error}", retryable=False)
        if not self._breaker.admits():
            return failed("resting", "the agent could not be reached lately; it is tried again soon", retryable=True)
        answer, reached = self._tried(request, deadline, seconds)
        if reached:
            self._breaker.succeeded()
        else:
            self._breaker.failed()
        return answer

    def _tried(self, request: Request, deadline: float, seconds: float) -> tuple[Answer, bool]:
        """The answer, and whether there is an agent."""
        try:
            status, said = self._exchange(request, deadline)
        except Absent as error:
            return failed("unreachable", str(error), retryable=True, hint=error.hint), False
        except Overdue:
            return failed("timeout", f"no answer within {seconds:.2g} s", retryable=True), False
        except Broken as error:
            return failed("unreachable", f"the agent cannot be reached: {error}", retryable=True), False
        except Strange as error:
            return failed("not_understood", str(error), retryable=True), False
        except Exception as error:  # noqa: BLE001 (a defect here must not stop a sale)
            return failed("defect", f"the client failed: {type(error).__name__}", retryable=True), False
        try:
            return read(status, said), True
        except (ValueError, KeyError, TypeError, AttributeError):
            return failed("not_understood", f"status {status} without an agent's answer", retryable=True), False

    def _exchange(self, request: Request, deadline: float) -> tuple[int, bytes]:
        while True:
            connection = self._take() or Connection(self._finder.find(), deadline)
            used, kept = connection.used, False
            try:
                status, said, kept = connection.ask(request, deadline)
            except Broken as error:
                if used and error.unanswered:
                    continue  # it was closed while it idled; repeating a call counts nothing twice
                raise
            finally:
                if not kept:
                    connection.close()
            if status == UNAUTHORIZED:  # the token may have changed: the next connection reads it anew
                kept = False
                self.close()
            self._give(connection, kept=kept)
            return status, said

    def _take(self) -> Connection | None:
        with self._lock:
            if self._process != os.getpid():  # after a fork: the connections are the parent's, who goes on with them
                self._process, inherited, self._idle = os.getpid(), self._idle, []
                for one in inherited:
                    one.close()
            while self._idle:
                connection = self._idle.pop()
                if not connection.stale():
                    return connection
                connection.close()
        return None

    def _give(self, connection: Connection, *, kept: bool) -> None:
        with self._lock:
            if kept and len(self._idle) < KEPT:
                self._idle.append(connection)
                return
        connection.close()


class _Persons:
    """Identifiers as the POS gave them: pairs or mappings."""

    def __init__(self, given: Identifiers) -> None:
        self._given = given

    def written(self) -> list[dict[str, str]]:
        """As the agent reads them."""
        return [dict(one) if isinstance(one, Mapping) else {"scheme": one[0], "value": one[1]} for one in self._given]


class _Bytes:
    """A body that goes as it is."""

    def __init__(self, data: bytes) -> None:
        self.data = data


Body = Union[Mapping[str, Any], _Bytes]


def _request(method: str, parts: tuple[str, ...], body: Body, ack: str, kind: str) -> Request:
    path = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    if isinstance(body, _Bytes):
        data = bytes(memoryview(body.data))
    else:
        data = json.dumps(body, allow_nan=False, default=_written).encode()
    return Request(method, f"{path}?ack={quote(ack, safe='')}", data, kind)


def _written(value: object) -> object:
    if isinstance(value, _Persons):
        return value.written()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no place in JSON")


def _people(identifiers: Identifiers) -> dict[str, Any]:
    return {"identifiers": _Persons(identifiers)} if identifiers else {}


def _given(**fields: Any) -> dict[str, Any]:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _event(event_id: str, **fields: Any) -> dict[str, Any]:
    return _given(event_id=event_id or uuid.uuid4().hex, **fields)
