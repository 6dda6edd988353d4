"""Only the POS, with its token, and the cashier's page, with its key, may speak to the loopback hook."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from tillstream_agent.hooks.guard import (
    DISPLAY_COOKIE,
    JSON,
    MSGPACK,
    Forbidden,
    Guard,
    Unauthorized,
    UnsupportedMedia,
    media_type,
    opened_by_hand,
    wants_msgpack,
)

TOKEN = "k" * 43
PAGE = "http://127.0.0.1:8710"


class Passes:
    """One screen, one program and one page were paired."""

    def knows(self, secret: str, kind: str, origin: str | None = None) -> bool:
        return (secret, kind) == ("screen", "display") or (
            kind == "pos" and (secret, origin) in (("program", None), ("page", "https://pos.example"))
        )


GUARD = Guard(TOKEN, 8710, Passes(), ["https://pos.example"])


class Headers:
    """Headers as aiohttp gives them."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self._given = CIMultiDict(pairs)

    def getall(self, key: str, default: list[str]) -> list[str]:
        return self._given.getall(key, default)


@pytest.mark.parametrize("host", ["127.0.0.1:8710", "localhost:8710", "LOCALHOST:8710", "[::1]:8710"])
def test_the_loopback_names_are_served(host: str) -> None:
    GUARD.admit(Headers(("Host", host)))


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        ("",),
        ("127.0.0.1",),
        ("127.0.0.1:8711",),
        ("evil.example:8710",),
        ("127.0.0.1.evil.example:8710",),
        ("localhost.:8710",),
        ("0.0.0.0:8710",),
        ("127.0.0.1:8710", "evil.example"),
    ],
)
def test_any_other_host_is_refused(hosts: tuple[str, ...]) -> None:
    with pytest.raises(Forbidden) as caught:
        GUARD.admit(Headers(*(("Host", host) for host in hosts)))
    assert caught.value.field == "Host"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8710", "http://localhost:8710", "https://pos.example"])
def test_its_own_and_configured_origins_are_served(origin: str) -> None:
    GUARD.admit(Headers(("Host", "localhost:8710"), ("Origin", origin)))


@pytest.mark.parametrize(
    "origin",
    ["null", "", "https://evil.example", "http://pos.example", "https://pos.example:444", "http://127.0.0.1"],
)
def test_any_other_origin_is_refused(origin: str) -> None:
    with pytest.raises(Forbidden) as caught:
        GUARD.admit(Headers(("Host", "localhost:8710"), ("Origin", origin)))
    assert caught.value.field == "Origin"


def test_the_token_opens() -> None:
    GUARD.authenticate(Headers(("Authorization", f"Bearer {TOKEN}")))


@pytest.mark.parametrize(
    "given", [(), ("",), (TOKEN,), (f"bearer {TOKEN}x",), ("Bearer \udc80",), (f"Bearer {TOKEN}", f"Bearer {TOKEN}")]
)
def test_anything_else_does_not(given: tuple[str, ...]) -> None:
    with pytest.raises(Unauthorized):
        GUARD.authenticate(Headers(*(("Authorization", value) for value in given)))


def test_a_pos_that_was_paired_opens_from_where_it_was_paired() -> None:
    GUARD.authenticate(Headers(("Authorization", "Bearer program")))
    GUARD.authenticate(Headers(("Authorization", "Bearer page"), ("Origin", "https://pos.example")))
    for origin in ("https://other.example", PAGE):
        with pytest.raises(Unauthorized):
            GUARD.authenticate(Headers(("Authorization", "Bearer page"), ("Origin", origin)))


def test_a_screens_cookie_shows_the_page_and_opens_nothing_else() -> None:
    assert GUARD.authenticate_display(Headers(), {DISPLAY_COOKIE: "screen"}) == "screen"
    assert GUARD.authenticate_display(Headers(("Authorization", f"Bearer {TOKEN}")), {}) == ""
    with pytest.raises(Unauthorized) as caught:
        GUARD.authenticate_display(Headers(), {DISPLAY_COOKIE: "wrong"})
    assert caught.value.hint is not None
    with pytest.raises(Unauthorized):
        GUARD.authenticate(Headers(("Authorization", "Bearer screen")))


@pytest.mark.parametrize("host", ["127.0.0.1:8710", "localhost:8710", "[::1]:8710"])
def test_the_page_itself_may_use_its_buttons(host: str) -> None:
    called = Headers(("Host", host), ("Origin", f"http://{host}"))
    assert GUARD.authenticate_page(called, {DISPLAY_COOKIE: "screen"}) == "screen"


@pytest.mark.parametrize(
    "origins",
    [
        (),
        ("null",),
        ("https://pos.example",),
        ("http://localhost:8710",),
        ("https://127.0.0.1:8710",),
        (PAGE, PAGE),
        (PAGE, "https://pos.example"),
    ],
)
def test_no_other_page_may(origins: tuple[str, ...]) -> None:
    called = Headers(("Host", "127.0.0.1:8710"), *(("Origin", origin) for origin in origins))
    with pytest.raises(Forbidden) as caught:
        GUARD.authenticate_page(called, {DISPLAY_COOKIE: "screen"})
    assert caught.value.field == "Origin"


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (("Sec-Fetch-Site", "none"), ("Sec-Fetch-Dest", "document")),
        (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Dest", "document"), ("Referer", f"{PAGE}/display")),
        (("Referer", f"{PAGE}/display?code=A"), ("Origin", PAGE)),
    ],
)
def test_a_person_opens_a_link_in_a_window(sent: tuple[tuple[str, str], ...]) -> None:
    assert opened_by_hand(Headers(("Host", "127.0.0.1:8710"), *sent))


@pytest.mark.parametrize(
    "sent",
    [
        (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "document")),
        (("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Dest", "document")),
        (("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "document")),
        (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Dest", "iframe")),
        (("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Dest", "document"), ("Sec-Fetch-Dest", "frame")),
        (("Sec-Fetch-Site", "none"),),
        (("Sec-Fetch-Dest", "iframe"),),
        (("Origin", "https://pos.example"),),
        (("Origin", "null"),),
        (("Referer", "https://evil.example/"),),
        (("Referer", f"{PAGE}.evil.example/"),),
        (("Referer", f"{PAGE}@evil.example/"),),
        (("Referer", f"https://evil.example/{PAGE}"),),
        (("Referer", "http://127.0.0.1:1/"),),
        (("Referer", f"{PAGE}/"), ("Referer", "https://evil.example/")),
    ],
)
def test_a_page_that_opens_a_link_is_no_person(sent: tuple[tuple[str, str], ...]) -> None:
    assert not opened_by_hand(Headers(("Host", "127.0.0.1:8710"), *sent))


def test_the_hooks_token_does_not_press_buttons() -> None:
    called = Headers(("Host", "127.0.0.1:8710"), ("Origin", PAGE), ("Authorization", f"Bearer {TOKEN}"))
    with pytest.raises(Unauthorized):
        GUARD.authenticate_page(called, {})


@pytest.mark.parametrize(
    ("given", "kind"),
    [("application/json", JSON), ("Application/JSON; charset=utf-8", JSON), ("application/msgpack", MSGPACK)],
)
def test_json_and_msgpack_are_read(given: str, kind: str) -> None:
    assert media_type(Headers(("Content-Type", given))) == kind


@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_can_send_is_not_read(given: str) -> None:
    with pytest.raises(UnsupportedMedia):
        media_type(Headers(("Content-Type", given)))


def test_a_missing_type_and_an_encoded_body_are_not_read() -> None:
    with pytest.raises(UnsupportedMedia):
        media_type(Headers())
    with pytest.raises(UnsupportedMedia) as caught:
        media_type(Headers(("Content-Type", JSON), ("Content-Encoding", "gzip")))
    assert caught.value.field == "Content-Encoding"


def test_a_reply_comes_in_msgpack_when_asked_for() -> None:
    assert wants_msgpack(Headers(("Accept", f"{MSGPACK}, */*")))
    assert not wants_msgpack(Headers(("Accept", "*/*")))
