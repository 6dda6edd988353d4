"""How agents come to speak for tills."""

from __future__ import annotations

import asyncio
import os

import pytest

from support.serving import Server, Till, sale
from tillstream_protocol import messages, versions
from tillstream_protocol.messages import Token
from tillstream_protocol.pack import open_pack
from tillstream_protocol.signing import BadSignature, SignKey, verify
from tillstream_server import office_fleet


async def test_an_agent_joins_the_till_that_its_token_names(server: Server) -> None:
    till = Till(server)
    reply = await till.enrols(await server.token("checkout-3"))
    assert (reply.retailer, reply.store, reply.till, reply.currency) == ("acme", "north", "checkout-3", "USD")
    assert server.count("enrolments_total", outcome="joined") == 1


async def test_the_pack_that_comes_with_it_opens_at_the_till(server: Server) -> None:
    till = await server.till()
    pack = open_pack(till.reply.pack, till.introduction.server_public_key, till.reply.till_id)
    assert (pack.retailer, pack.store, pack.campaigns) == ("acme", "north", ())


async def test_tokens_without_a_till_make_the_next_ones(server: Server) -> None:
    token = await server.token(uses=3)
    names = [(await Till(server).enrols(token)).till for _ in range(3)]
    assert names == ["till-1", "till-2", "till-3"]


async def test_a_token_lets_in_as_many_agents_as_it_has_uses_even_at_once(server: Server) -> None:
    token = Token.parse(await server.token(uses=2))
    replies = await asyncio.gather(*(Till(server).asks_in(token.secret) for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 200, 403, 403, 403]


async def test_an_answer_that_got_lost_is_given_again_without_another_use(server: Server) -> None:
    till = Till(server)
    token = await server.token()
    first = await till.enrols(token)
    again = await till.enrols(token)
    assert (again.till_id, again.till) == (first.till_id, first.till)
    assert server.count("enrolments_total", outcome="repeated") == 1


async def test_a_new_device_takes_over_a_till_and_the_old_one_is_out(server: Server) -> None:
    old = await server.till("till-9")
    new = await server.till("till-9")
    assert new.reply.till_id == old.reply.till_id
    assert (await old.uploads(old.batch(sale()))).error["code"] == "revoked"
    assert (await new.uploads(new.batch(sale()))).status == 200
    assert [one["till"] for one in (await server.order(office_fleet.TillList()))["tills"]] == ["till-9"]


@pytest.mark.parametrize(("uses", "wait", "code"), [(1, 0, "token_used"), (5, 3 * 86_400, "token_expired")])
async def test_a_token_that_is_spent_says_so_here_and_in_the_log(
    server: Server, uses: int, wait: int, code: str
) -> None:
    text = await server.token(uses=uses)
    await Till(server).enrols(text)
    server.clock.turn(wait)
    reply = await Till(server).asks_in(Token.parse(text).secret)
    assert (reply.status, reply.error["code"]) == (403, code)
    assert "new one" in reply.error["hint"]
    assert server.count("enrolments_total", outcome=code) == 1
    assert server.logged("enrolment_refused")[0]["outcome"] == code


async def test_a_token_that_nobody_made_is_refused(server: Server) -> None:
    reply = await Till(server).asks_in(b"x" * 16)
    assert (reply.status, reply.error["code"]) == (403, "token_unknown")


async def test_no_token_appears_in_the_log(server: Server) -> None:
    text = await server.token()
    await Till(server).enrols(text)
    assert text not in server.log.getvalue()


async def test_a_revoked_till_is_not_joined_until_it_is_allowed_again(server: Server) -> None:
    await server.till("till-1")
    await server.order(office_fleet.TillRevoke("acme", "north", "till-1"))
    token = Token.parse(await server.token("till-1"))
    reply = await Till(server).asks_in(token.secret)
    assert (reply.status, reply.error["code"]) == (403, "token_till_revoked")
    await server.order(office_fleet.TillAllowAgain("acme", "north", "till-1"))
    assert (await Till(server).asks_in(token.secret)).status == 200


async def test_a_proof_by_another_key_is_refused_and_costs_no_use(server: Server) -> None:
    token = Token.parse(await server.token())
    till, other = Till(server), SignKey(b"o" * 32)
    proof = other.sign(messages.proof_bytes(token.secret, till.device.public))
    request = messages.EnrolRequest(token.secret, till.device.public, proof, 1, "0.1.0", "test")
    reply = await till.posts("/till/v1/enrol", request)
    assert (reply.status, reply.error["code"]) == (401, "bad_signature")
    assert (await till.asks_in(token.secret)).status == 200


async def test_an_agent_of_another_protocol_is_told_what_to_upgrade(server: Server) -> None:
    token = Token.parse(await server.token())
    reply = await Till(server).asks_in(token.secret, protocol=99)
    assert (reply.status, reply.error["code"]) == (400, "version_mismatch")
    assert reply.error["hint"] == "upgrade the server first"


async def test_a_truncated_request_names_what_is_wrong(server: Server) -> None:
    reply = await server.send("POST", "/till/v1/enrol", b"\x93\x01", {"Content-Type": messages.CONTENT_TYPE})
    assert (reply.status, reply.error["code"], reply.error["field"]) == (400, "invalid_input", "body")


async def test_json_is_not_taken_where_msgpack_is_spoken(server: Server) -> None:
    reply = await server.send("POST", "/till/v1/hello", b"{}", {"Content-Type": "application/json"})
    assert (reply.status, reply.error["limit"]) == (415, "application/msgpack")


async def test_compressed_bodies_are_refused(server: Server) -> None:
    headers = {"Content-Type": messages.CONTENT_TYPE, "Content-Encoding": "gzip"}
    reply = await server.send("POST", "/till/v1/hello", b"\x1f\x8b", headers)
    assert (reply.status, reply.error["field"]) == (415, "Content-Encoding")


async def test_the_answer_certifies_what_it_says(server: Server) -> None:
    till = await server.till("till-4")
    certificate = messages.open_certificate(till.reply.certificate, till.introduction.server_public_key)
    assert certificate == messages.Certificate(
        till.reply.till_id, "acme", "north", "till-4", till.device.public, server.clock.now_ms()
    )


async def test_the_protocols_that_the_server_speaks_are_signed(server: Server) -> None:
    nonce = os.urandom(16)
    reply = await Till(server).posts("/till/v1/hello", messages.Hello(nonce, versions.PROTOCOL))
    one = messages.decode_introduction(reply.body)
    assert one.protocol_from <= versions.PROTOCOL <= one.protocol_to
    public = (one.server_public_key, one.box_public_key, one.escrow_public_key)

    def signed(first: int, last: int) -> None:
        verify(one.server_public_key, messages.introduction_bytes(nonce, *public, first, last), one.signature)

    signed(one.protocol_from, one.protocol_to)
    for first, last in ((one.protocol_from + 1, one.protocol_to), (one.protocol_from, one.protocol_to + 1)):
        with pytest.raises(BadSignature):
            signed(first, last)
