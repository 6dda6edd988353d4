"""What a server says in its own words reaches those who read it, whole."""

from __future__ import annotations

import msgspec
import pytest

from tillstream_agent.sync.transport import Refused, Response, Unreachable, server_address
from tillstream_protocol.errors import ErrorBody, InvalidInput

TOLD = ErrorBody("token_used", "it was used", "token", "one use", "ask for another", retryable=True)


def test_a_refusal_keeps_everything_that_the_server_said() -> None:
    with pytest.raises(Refused) as caught:
        Response(409, msgspec.json.encode({"error": TOLD})).require_ok()
    error = caught.value
    assert (error.message, error.field, error.limit, error.hint) == (TOLD.message, TOLD.field, TOLD.limit, TOLD.hint)
    assert (error.code, error.status, error.retryable) == ("token_used", 409, True)


def test_a_refusal_in_no_words_is_not_worth_another_try() -> None:
    with pytest.raises(Refused) as caught:
        Response(418, b"").require_ok()
    assert (caught.value.code, caught.value.message) == ("http_418", "the server answered with status 418")
    assert caught.value.retryable is False


@pytest.mark.parametrize("status", [200, 204, 299])
def test_every_status_of_success_is_a_good_answer(status: int) -> None:
    assert Response(status, b"yes").require_ok() == b"yes"


@pytest.mark.parametrize("status", [100, 199, 300, 301, 400, 499])
def test_no_other_status_is(status: int) -> None:
    with pytest.raises(Refused):
        Response(status, b"").require_ok()


def test_trouble_of_the_servers_own_names_its_reason() -> None:
    with pytest.raises(Unreachable, match="the disk is full") as caught:
        Response(500, msgspec.json.encode({"error": ErrorBody("full", "the disk is full")})).require_ok()
    assert caught.value.retryable
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize("given", ["https://head.example#there", "http://", "//head.example"])
def test_what_has_a_fragment_or_lacks_a_host_or_a_scheme_is_no_address(given: str) -> None:
    with pytest.raises(InvalidInput):
        server_address(given)
