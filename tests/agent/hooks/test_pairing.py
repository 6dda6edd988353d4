"""A code pairs one screen, once, within five minutes and five tries; what it is exchanged for is kept as a hash."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from support.agents import NOW_MS
from support.tills import TurnedClock
from tillstream_agent.folder import StateError
from tillstream_agent.hooks.pairing import ALPHABET, CODE_SIZE, MAX_PASSES, TRIES, NotPaired, Pairing, bearer_of

TOKEN = "k" * 43


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(NOW_MS)


@pytest.fixture
def pairing(tmp_path: Path, clock: TurnedClock) -> Pairing:
    return Pairing(tmp_path / "paired.json", TOKEN, clock, os.urandom)


def again(folder: Path, clock: TurnedClock, token: str = TOKEN) -> Pairing:
    """The same agent after a restart."""
    return Pairing(folder / "paired.json", token, clock, os.urandom)


async def test_a_code_is_exchanged_once(pairing: Pairing) -> None:
    code = pairing.code().code
    assert len(code) == CODE_SIZE
    assert set(code) <= set(ALPHABET)
    secret = await pairing.redeem(f" {code.lower()} ", "display")
    assert pairing.knows(secret, "display")
    with pytest.raises(NotPaired):
        await pairing.redeem(code, "display")


async def test_without_a_code_nothing_opens(pairing: Pairing) -> None:
    for given in ("", "ABCDEFGH", "\udc80"):
        with pytest.raises(NotPaired):
            await pairing.redeem(given, "display")


async def test_a_code_is_good_for_five_minutes(pairing: Pairing, clock: TurnedClock) -> None:
    code = pairing.code()
    clock.turn(code.seconds)
    with pytest.raises(NotPaired):
        await pairing.redeem(code.code, "display")
    code = pairing.code()
    clock.turn(code.seconds - 1)
    assert await pairing.redeem(code.code, "display")


async def test_after_five_wrong_tries_the_right_one_is_too_late(pairing: Pairing) -> None:
    code = pairing.code().code
    for _ in range(TRIES - 1):
        with pytest.raises(NotPaired):
            await pairing.redeem("WRONG", "display")
    assert await pairing.redeem(code, "display"), "the fifth try is still one"
    code = pairing.code().code
    for _ in range(TRIES):
        with pytest.raises(NotPaired):
            await pairing.redeem("WRONG", "display")
    with pytest.raises(NotPaired) as caught:
        await pairing.redeem(code, "display")
    assert caught.value.hint is not None


async def test_the_code_after_one_that_was_tried_out_says_so_and_is_good_at_once(
    pairing: Pairing, clock: TurnedClock
) -> None:
    for _ in range(TRIES + 1):
        with pytest.raises(NotPaired):
            await pairing.redeem("WRONG", "pos")
    assert not pairing.code().after_wrong_tries, "there was none to be ended"
    for _ in range(TRIES + 1):
        with pytest.raises(NotPaired):
            await pairing.redeem("WRONG", "pos")
    code = pairing.code()
    assert code.after_wrong_tries
    assert await pairing.redeem(code.code, "display")
    assert not pairing.code().after_wrong_tries, "one that was used"
    clock.turn(code.seconds)
    assert not pairing.code().after_wrong_tries, "one that was too old"


async def test_a_new_code_ends_the_one_before(pairing: Pairing) -> None:
    first, second = pairing.code().code, pairing.code().code
    with pytest.raises(NotPaired):
        await pairing.redeem(first, "display")
    assert await pairing.redeem(second, "display")


async def test_what_is_kept_is_no_secret_and_survives_a_restart(
    pairing: Pairing, tmp_path: Path, clock: TurnedClock
) -> None:
    secret = await pairing.redeem(pairing.code().code, "display")
    file = tmp_path / "paired.json"
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert again(tmp_path, clock).knows(secret, "display")
    assert not again(tmp_path, clock, "another token").knows(secret, "display")


async def test_a_screen_is_no_pos_and_a_pos_no_screen(pairing: Pairing) -> None:
    screen = await pairing.redeem(pairing.code().code, "display")
    pos = await pairing.redeem(pairing.code().code, "pos", "https://pos.example")
    assert not pairing.knows(screen, "pos")
    assert not pairing.knows(pos, "display")
    assert pairing.knows(pos, "pos", "https://pos.example")
    assert not pairing.knows(pos, "pos", "https://other.example")
    assert not pairing.knows("", "pos")


async def test_forgetting_ends_all_and_is_told(tmp_path: Path, clock: TurnedClock) -> None:
    told: list[bool] = []
    pairing = Pairing(tmp_path / "paired.json", TOKEN, clock, os.urandom, lambda: told.append(True))
    secret = await pairing.redeem(pairing.code().code, "display")
    code = pairing.code().code
    assert (await pairing.forget()).passes == 1
    assert told == [True]
    assert not pairing.knows(secret, "display")
    assert not again(tmp_path, clock).knows(secret, "display")
    with pytest.raises(NotPaired):
        await pairing.redeem(code, "display")


async def test_the_oldest_of_too_many_goes(pairing: Pairing) -> None:
    pos = await pairing.redeem(pairing.code().code, "pos")
    secrets = [await pairing.redeem(pairing.code().code, "display") for _ in range(MAX_PASSES + 1)]
    assert [pairing.knows(secret, "display") for secret in (secrets[0], secrets[1], secrets[-1])] == [False, True, True]
    assert pairing.knows(pos, "pos")


@pytest.mark.parametrize("content", [b"", b"{", b'{"passes": [{"kind": "king"}]}', b'{"more": 1}'])
async def test_a_damaged_file_means_that_nobody_is_paired(tmp_path: Path, clock: TurnedClock, content: bytes) -> None:
    (tmp_path / "paired.json").write_bytes(content)
    pairing = again(tmp_path, clock)
    assert pairing.knows(await pairing.redeem(pairing.code().code, "display"), "display")


async def test_what_cannot_be_kept_is_not_handed_out(pairing: Pairing, tmp_path: Path) -> None:
    (tmp_path / "paired.json").mkdir()
    with pytest.raises(StateError, match="cannot be kept"):
        await pairing.redeem(pairing.code().code, "display")


def test_the_forms_of_each_screen_have_a_token_of_their_own(pairing: Pairing) -> None:
    assert pairing.form_token("one") == pairing.form_token("one") != pairing.form_token("two")
    assert "one" not in pairing.form_token("one")


@pytest.mark.parametrize(("header", "secret"), [("Bearer abc", "abc"), ("bearer abc", ""), ("abc", ""), ("", "")])
def test_a_bearer_is_read_from_its_header(header: str, secret: str) -> None:
    assert bearer_of(header) == secret
