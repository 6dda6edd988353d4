"""What is asked for by a key is computed once, whoever asks; and the parts that need no server."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from importlib.resources import files
from zoneinfo import ZoneInfo

import pytest

from support.serving import SetClock
from tillstream_server.console import live
from tillstream_server.console.live import Feed
from tillstream_server.console.showing import Showing
from tillstream_server.console.throttle import MAX_KEPT, MAX_NAME, Throttle, TooManyAttempts
from tillstream_server.console.words import LANGUAGES, load
from tillstream_server.users import ROLES


class Asked:
    """A computation that counts, and fails when it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.fails = False
        self.told: list[BaseException] = []
        self.before: str | None = None

    async def __call__(self, key: str, before: str | None) -> str:
        self.before = before
        self.times += 1
        await asyncio.sleep(0)
        if self.fails:
            raise RuntimeError("it failed")
        return f"{key} {self.times}"

    def feed(self, seconds: float = 0.01) -> Feed[str, str]:
        return Feed(self, lambda _, error: self.told.append(error), seconds=seconds)


async def test_who_asks_at_the_same_time_shares_an_answer() -> None:
    asked = Asked()
    feed = asked.feed(seconds=60)
    assert await asyncio.gather(*(feed.latest("a") for _ in range(50))) == ["a 1"] * 50
    assert await feed.latest("a") == "a 1"
    assert await feed.latest("b") == "b 2"


async def test_a_failure_is_told_to_who_asked_and_not_kept() -> None:
    asked = Asked()
    asked.fails = True
    feed = asked.feed(seconds=60)
    with pytest.raises(RuntimeError):
        await feed.latest("a")
    asked.fails = False
    assert await feed.latest("a") == "a 2"


async def test_a_computation_is_given_the_value_before_and_none_after_a_failure() -> None:
    asked = Asked()
    feed = asked.feed(seconds=0)
    found = []
    for times, fails in enumerate((False, False, True, False), 1):
        asked.fails = fails
        while asked.times < times:
            await asyncio.gather(feed.latest("a"), return_exceptions=True)
        found.append(asked.before)
    assert found == [None, "a 1", "a 2", None]


async def test_all_who_follow_are_told_what_was_computed_once_until_nobody_is_left() -> None:
    asked = Asked()
    feed = asked.feed()

    async def three() -> list[str]:
        found: list[str] = []
        async with aclosing(feed.follow("a")) as values:
            async for value in values:
                found.append(value)
                if len(found) == 3:
                    break
        return found

    assert await asyncio.gather(*(three() for _ in range(50))) == [["a 1", "a 2", "a 3"]] * 50
    times = asked.times
    await asyncio.sleep(0.1)
    assert asked.times <= times + 1


async def test_what_is_followed_is_the_value_before_though_more_is_followed_than_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "MAX_KEPT", 1)
    given: list[str | None] = []

    async def compute(key: str, before: str | None) -> str:
        given.append(before)
        return f"{key} {len(given)}"

    feed = Feed(compute, lambda *_: None, seconds=0.01)
    async with aclosing(feed.follow("a")) as one, aclosing(feed.follow("b")) as other:
        for _ in range(3):
            await asyncio.gather(anext(one), anext(other))
    assert given[:2] == [None, None]
    assert None not in given[2:]


async def test_who_follows_goes_on_after_a_failure() -> None:
    asked = Asked()
    feed = asked.feed()
    async with aclosing(feed.follow("a")) as values:
        assert await anext(values) == "a 1"
        asked.fails = True
        while not asked.told:
            await asyncio.sleep(0.01)
        asked.fails = False
        assert (await anext(values)).startswith("a ")


async def test_closing_ends_all_who_follow() -> None:
    feed = Asked().feed(seconds=60)

    async def follow() -> int:
        return len([value async for value in feed.follow("a")])

    tasks = [asyncio.create_task(follow()) for _ in range(3)]
    await asyncio.sleep(0.05)
    feed.close()
    assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [1, 1, 1]


def test_attempts_at_one_name_from_many_places_come_to_an_end_and_heal() -> None:
    clock = SetClock()
    throttle = Throttle(clock)
    for number in range(60):
        throttle.take(f"10.0.0.{number}", "ada")
    with pytest.raises(TooManyAttempts):
        throttle.take("10.9.9.9", "ada")
    throttle.take("10.9.9.9", "bob")
    clock.turn(11)
    throttle.take("10.9.9.9", "ada")


def test_one_place_comes_to_an_end_whatever_names_it_tries() -> None:
    throttle = Throttle(SetClock())
    for number in range(30):
        throttle.take("10.0.0.1", f"user{number}")
    with pytest.raises(TooManyAttempts):
        throttle.take("10.0.0.1", "somebody")
    throttle.take("10.0.0.2", "somebody")


def test_the_book_of_attempts_has_an_end() -> None:
    throttle = Throttle(SetClock())
    for number in range(MAX_KEPT):
        throttle.take(f"10.0.{number // 256}.{number % 256}", f"user{number}" + "x" * 1000)
    assert len(throttle._spent) <= MAX_KEPT
    assert max(len(name) for _, name in throttle._spent) <= MAX_NAME


def test_what_succeeded_is_no_guess() -> None:
    throttle = Throttle(SetClock())
    for _ in range(100):
        throttle.take("10.0.0.1", "ada")
        throttle.give_back("10.0.0.1", "ada")


def test_every_language_says_everything_and_fills_in_the_same_places() -> None:
    english = load("en").strings
    for language in LANGUAGES:
        strings = load(language).strings
        assert strings.keys() == english.keys()
        for name, text in strings.items():
            assert text.strip()
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[name])), name
    assert {f"role.{role}" for role in ROLES} <= english.keys()


def test_every_string_that_a_template_names_is_there_and_none_is_left_over() -> None:
    english = load("en").strings
    used: set[str] = set()
    begins: set[str] = set()
    for file in files("tillstream_server.console").joinpath("templates").iterdir():
        text = file.read_text(encoding="utf-8")
        used.update(re.findall(r"""t\((?:"|')([\w.]+)(?:"|')[,)]""", text.replace("has_asset(", "")))
        begins.update(re.findall(r"""t\((?:"|')([\w.]+\.)(?:"|') ~""", text))
    assert used <= english.keys()
    left = {name for name in english if name not in used and not name.startswith((*begins, "error.", "ago"))}
    assert left == set()


@pytest.mark.parametrize(
    ("minor", "currency", "english", "german"),
    [
        (123456789, "EUR", "1,234,567.89", "1.234.567,89"),
        (-5, "USD", "−0.05", "−0,05"),
        (1500, "JPY", "1,500", "1.500"),
        (1500, "KWD", "1.500", "1,500"),
    ],
)
def test_amounts_are_written_as_their_language_and_currency_have_them(
    minor: int, currency: str, english: str, german: str
) -> None:
    for language, text in (("en", english), ("de", german)):
        show = Showing(load(language), ZoneInfo("UTC"), 0)
        assert show.amount(minor, currency) == text


def test_spans_and_changes_are_short() -> None:
    show = Showing(load("en"), ZoneInfo("UTC"), 1_000_000)
    plain = [show.duration(ms).replace("\N{NO-BREAK SPACE}", " ") for ms in (0, 59_999, 3_661_000, -90_000, 90_061_000)]
    assert plain == ["0 s", "59 s", "1 h 1 min", "−1 min 30 s", "1 d 1 h"]
    assert [show.change(now, before) for now, before in ((3, 0), (103, 100), (95, 100), (1, 1))] == [
        "–",
        "+3.0\N{NO-BREAK SPACE}%",
        "−5.0\N{NO-BREAK SPACE}%",
        "±0.0\N{NO-BREAK SPACE}%",
    ]
    assert show.moment(None) == "–"
    assert show.moment(2**62) == "–"
    assert show.ago(None) == "–"
