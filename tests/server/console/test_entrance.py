"""Who gets in, who does not, and what their browser is given."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from support.consoles import PASSWORD, Visitor, visitor
from support.serving import Server, serving
from tillstream_server.admin import CommandFailed
from tillstream_server.console.visit import MAX_FORM
from tillstream_server.users import MAX_SESSIONS, SESSION_MS, UserCreate, UserList, UserPassword, UserRemove


def code(server: Server) -> str:
    return (server.folder.root / "console-setup-code").read_text(encoding="ascii").strip()


def first_user(server: Server, **fields: str) -> dict[str, str]:
    return {"code": code(server), "name": "ada", "password": PASSWORD, "again": PASSWORD, **fields}


async def test_the_first_user_is_made_by_who_can_read_the_code(server: Server, guest: Visitor) -> None:
    file = server.folder.root / "console-setup-code"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await guest.goes("/")).path == "/set-up"
    assert (await guest.goes("/sign-in")).path == "/set-up"
    page = await guest.fills("/set-up", **first_user(server))
    assert (page.status, page.path) == (200, "/sales")
    assert "ada" in page.words
    assert "Administrator" in page.words
    assert not file.exists()
    async with visitor(server) as other:
        assert (await other.goes("/set-up")).path == "/sign-in"


async def test_the_code_is_not_in_the_log_but_its_place_is(server: Server) -> None:
    (line,) = server.logged("console_to_be_set_up")
    assert line["code_in"].endswith("console-setup-code")
    assert code(server) not in server.log.getvalue()


async def test_a_form_that_cannot_be_taken_says_why_and_makes_nobody(server: Server, guest: Visitor) -> None:
    for wrong, says in (
        ({"code": "AAAA-BBBB-CCCC-DDDD"}, "not the code"),
        ({"again": "something else entirely"}, "passwords differ"),
        ({"password": "tiny7", "again": "tiny7"}, "too short"),
        ({"password": "aaaaaaaaaaaaaaaa", "again": "aaaaaaaaaaaaaaaa"}, "easy to guess"),
        ({"name": "lovelace", "password": "lovelaces secret", "again": "lovelaces secret"}, "easy to guess"),
        ({"name": "a b"}, "A name has"),
    ):
        page = await guest.fills("/set-up", **first_user(server, **wrong))
        assert page.status == 400
        assert says in page.words
        assert wrong.get("password", PASSWORD) not in page.text
    assert (await server.order(UserList()))["users"] == []


async def test_a_code_is_typed_in_any_case_and_with_spaces(server: Server, guest: Visitor) -> None:
    page = await guest.fills("/set-up", **first_user(server, code=code(server).lower().replace("-", " ")))
    assert page.path == "/sales"


async def test_guessing_at_the_code_comes_to_an_end(server: Server, guest: Visitor) -> None:
    for _ in range(5):
        assert (await guest.fills("/set-up", **first_user(server, code="WRONG"))).status == 400
    page = await guest.fills("/set-up", **first_user(server))
    assert page.status == 429
    assert int(page.headers["Retry-After"]) >= 1


async def test_a_user_signs_in_and_out(server: Server, guest: Visitor) -> None:
    await server.order(UserCreate("ada", "viewer", password=PASSWORD))
    page = await guest.signs_in("ada")
    assert page.path == "/sales"
    page = await guest.posts("/sign-out", {"form_token": page.form_token})
    assert page.path == "/sign-in"
    assert (await guest.goes("/sales")).path == "/sign-in"


async def test_neither_name_nor_password_is_said_to_be_the_wrong_one(server: Server, guest: Visitor) -> None:
    await server.order(UserCreate("ada", "viewer", password=PASSWORD))
    tried = (("ada", "not it, whatever it is"), ("eve", PASSWORD), ("", ""), ("ada", "x" * 257))
    for name, password in tried:
        page = await guest.signs_in(name, password)
        assert page.status == 401
        assert "Name or password is wrong." in page.words
    assert server.count("console_sign_ins_total", outcome="wrong") == len(tried)


async def test_guessing_at_a_password_is_slowed_down_and_heals(server: Server, guest: Visitor) -> None:
    await server.order(UserCreate("ada", "viewer", password=PASSWORD))
    for _ in range(5):
        assert (await guest.signs_in("ada", "a wrong password")).status == 401
    assert (await guest.signs_in("ada")).status == 429
    assert server.count("console_sign_ins_total", outcome="throttled") == 1
    server.clock.turn(61)
    assert (await guest.signs_in("ada")).path == "/sales"


async def test_guesses_at_the_same_time_are_as_many_as_one_after_another(server: Server, guest: Visitor) -> None:
    await server.order(UserCreate("ada", "viewer", password=PASSWORD))
    fields = {"form_token": (await guest.goes("/sign-in")).form_token, "name": "ada", "password": "a wrong password"}
    answers = await asyncio.gather(*(guest.posts("/sign-in", fields) for _ in range(12)))
    assert Counter(page.status for page in answers) == {401: 5, 429: 7}


async def test_behind_our_proxy_guesses_are_the_guessers_own(initialised: Path, tmp_path: Path) -> None:
    shutil.copytree(initialised, tmp_path / "data")
    async with serving(tmp_path / "data", proxies="127.0.0.1, 10.0.0.0/8") as server, visitor(server) as guest:
        await server.order(UserCreate("ada", "viewer", password=PASSWORD))
        page = await guest.goes("/sign-in")
        wrong = {"form_token": page.form_token, "name": "ada", "password": ""}
        hops = ("203.0.113.9", "198.51.100.1, 203.0.113.9", "203.0.113.9, 10.1.2.3")
        for number in range(6):
            answer = await guest.posts("/sign-in", wrong, **{"X-Forwarded-For": hops[number % 3]})
            assert answer.status == (401 if number < 5 else 429)
        guest.headers["X-Forwarded-For"] = "203.0.113.10"
        assert (await guest.signs_in("ada")).path == "/sales"


async def test_nobody_is_believed_to_be_a_proxy_unasked(server: Server, guest: Visitor) -> None:
    wrong = {"form_token": (await guest.goes("/sign-in")).form_token, "name": "ada", "password": ""}
    for number in range(6):
        answer = await guest.posts("/sign-in", wrong, **{"X-Forwarded-For": f"203.0.113.{number}"})
    assert answer.status == 429


async def test_what_the_browser_keeps_is_for_this_server_and_no_script(server: Server, guest: Visitor) -> None:
    await server.order(UserCreate("ada", "viewer", password=PASSWORD))
    for host, secure in (("127.0.0.1:8700", False), ("[::1]:8700", False), ("console.example.com", True)):
        cookie = (await guest.goes("/sign-in", Host=host)).headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert ("Secure" in cookie) == secure


async def test_the_database_holds_neither_password_nor_session(server: Server, guest: Visitor) -> None:
    await server.order(UserCreate("ada", "viewer", password=PASSWORD))
    await guest.signs_in("ada")
    (cookie,) = [one.value for one in guest.http.cookie_jar if one.key == "tillstream_session"]
    with closing(sqlite3.connect(server.folder.ledger)) as conn:
        held = (
            conn.execute("SELECT * FROM console_user").fetchall()
            + conn.execute("SELECT * FROM console_session").fetchall()
        )
    assert "$argon2id$v=19$m=65536,t=2,p=1$" in str(held)
    assert PASSWORD not in str(held)
    assert cookie not in str(held)


async def test_a_session_ends_after_a_working_day(server: Server, admin: Visitor) -> None:
    server.clock.turn(SESSION_MS / 1000 - 1)
    assert (await admin.goes("/sales")).path == "/sales"
    server.clock.turn(2)
    assert (await admin.goes("/sales")).path == "/sign-in"


async def test_whoever_is_removed_is_out_at_once(server: Server, admin: Visitor) -> None:
    await server.order(UserRemove("ada"))
    assert (await admin.goes("/fleet")).path == "/set-up"
    with pytest.raises(CommandFailed) as caught:
        await server.order(UserRemove("ada"))
    assert caught.value.code == "unknown_user"


async def test_another_password_ends_sessions_and_one_is_made_where_none_is_given(
    server: Server, admin: Visitor
) -> None:
    made = await server.order(UserPassword("ada"))
    assert (await admin.goes("/sales")).path == "/sign-in"
    assert (await admin.signs_in("ada", made["password"])).path == "/sales"


async def test_ones_own_password_is_changed_by_who_knows_it(server: Server, admin: Visitor) -> None:
    new = "quite another row of words"
    async with visitor(server) as elsewhere:
        await elsewhere.signs_in("ada")
        page = await admin.fills("/account", current="not mine at all", password=new, again=new)
        assert page.status == 400
        assert "The present password is another." in page.words
        page = await admin.fills("/account", current=PASSWORD, password=new, again=new)
        assert "The password is changed." in page.words
        assert (await admin.goes("/sales")).path == "/sales"
        assert (await elsewhere.goes("/sales")).path == "/sign-in"
        assert (await elsewhere.signs_in("ada", new)).path == "/sales"


async def test_a_user_holds_only_so_many_sessions(server: Server, admin: Visitor) -> None:
    rows = [(bytes([n]) * 32, "ada", "t", n, 2**50) for n in range(MAX_SESSIONS + 3)]
    with closing(sqlite3.connect(server.folder.ledger)) as conn, conn:
        conn.executemany("INSERT INTO console_session VALUES (?, ?, ?, ?, ?)", rows)
    async with visitor(server) as again:
        await again.signs_in("ada")
        assert (await again.goes("/sales")).path == "/sales"
    with closing(sqlite3.connect(server.folder.ledger)) as conn:
        assert conn.execute("SELECT COUNT(*) FROM console_session").fetchone() == (MAX_SESSIONS,)


async def test_a_form_that_was_not_served_here_changes_nothing(admin: Visitor) -> None:
    for fields in ({}, {"form_token": ""}, {"form_token": "A" * 43}):
        assert (await admin.posts("/sign-out", fields)).status == 403
    page = await admin.goes("/account")
    others = ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"})
    for headers in others:
        assert (await admin.posts("/sign-out", {"form_token": page.form_token}, **headers)).status == 403
    assert (await admin.posts("/sign-out", {}, **{"Content-Type": "text/plain"})).status == 400
    assert (await admin.goes("/sales")).path == "/sales"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"form_token=\xff", {}, 400),
        (b"form_token=%FF", {}, 400),
        (b"&".join(b"f%d=" % number for number in range(40)), {}, 400),
        (b"form_token=x", {"Content-Type": "application/x-www-form-urlencoded; charset=hex"}, 403),
        (b"form_token=x", {"Content-Type": "text/plain"}, 400),
        (b"form_token=x", {"Cookie": "tillstream_form=" + "\udcff" * 43}, 403),
        (b"form_token=x", {"Cookie": "tillstream_session=\udcff"}, 403),
        (b"name=" + b"x" * MAX_FORM, {}, 400),
    ],
)
async def test_what_no_browser_sends_is_refused_and_not_worth_a_line(
    server: Server, body: bytes, headers: dict[str, str], status: int
) -> None:
    given = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body)), **headers}
    assert (await server.send("POST", "/sign-in", body, given)).status == status
    assert server.logged("unexpected_error") == []


async def test_a_form_says_its_length(server: Server) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"name=" + b"x" * MAX_FORM

    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    async with server.http.post(f"{server.address}/sign-in", data=parts(), headers=kind) as response:
        assert response.status == 400


async def test_where_all_users_were_removed_there_is_a_code_for_the_next(server: Server, admin: Visitor) -> None:
    code = server.folder.root / "console-setup-code"
    code.unlink()
    await server.order(UserRemove("ada"))
    assert (await admin.goes("/")).path == "/set-up"
    page = await admin.fills("/set-up", code=code.read_text(), name="eve", password=PASSWORD, again=PASSWORD)
    assert page.path == "/sales"


async def test_htmx_loads_a_whole_page_where_there_is_no_piece_for_it(server: Server, admin: Visitor) -> None:
    answer = await admin.goes("/fleet?state=odd", **{"HX-Request": "true"})
    assert (answer.text, answer.headers["HX-Redirect"]) == ("", "/fleet?state=odd")
    await server.order(UserRemove("ada"))
    answer = await admin.goes("/fleet", **{"HX-Request": "true"})
    assert (answer.text, answer.headers["HX-Redirect"]) == ("", "/sign-in")


async def test_a_user_has_a_name_that_is_free_a_role_and_a_place_that_fits(server: Server) -> None:
    await server.order(UserCreate("ada", "viewer", password=PASSWORD))
    for wrong, about in (
        (UserCreate("ada", "admin", password=PASSWORD), "user_exists"),
        (UserCreate("bob", "manager", password=PASSWORD), "invalid_input"),
        (UserCreate("bob", "viewer", store="north", password=PASSWORD), "invalid_input"),
        (UserCreate("bob", "viewer", password="too short"), "weak_password"),
    ):
        with pytest.raises(CommandFailed) as caught:
            await server.order(wrong)
        assert caught.value.code == about
    await server.order(UserCreate("bob", "manager", "acme", "north", PASSWORD))
    listed = (await server.order(UserList()))["users"]
    assert [(one["name"], one["role"], one["store"]) for one in listed] == [
        ("ada", "viewer", None),
        ("bob", "manager", "north"),
    ]


async def test_a_page_says_what_it_is_in_the_browsers_language(guest: Visitor) -> None:
    page = await guest.goes("/", **{"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"})
    assert '<html lang="de">' in page.text
    assert "Konsole einrichten" in page.words
    assert '<html lang="en">' in (await guest.goes("/", **{"Accept-Language": "fi"})).text


async def test_every_page_runs_nothing_but_our_own_files(admin: Visitor) -> None:
    for path in ("/sales", "/fleet", "/stores", "/account", "/tills/no/such/till", "/assets/console.js"):
        headers = (await admin.goes(path)).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
    assert (await admin.goes("/sales")).headers["Cache-Control"] == "no-store"
    text = (await admin.goes("/sales")).text
    assert "style=" not in text
    assert "<style" not in text
    assert " onclick" not in text
