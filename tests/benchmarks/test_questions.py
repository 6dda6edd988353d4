"""Each question in short: the figures have the right shape, and every row stands for work that was really done.

That is for the questions themselves to see, and they raise where it is not so: a store that holds less than it was
given, a server that does not count what was sent. No figure's size is looked at here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import capture, choice, console, deadline, decide, drain, ingest, push, rebuild, weight
from benchmarks.__main__ import QUESTIONS
from benchmarks.figures import Answer, Ratio, Role, Row
from benchmarks.ledgers import NotStored, check_stored, counted_in, filled, join, portions
from benchmarks.rivals.jetstream import LOOPBACK
from benchmarks.rivals.persistent import DISK_FLOOR, FLOOR, SQLITE_FULL, SQLITE_NORMAL
from benchmarks.sizes import QUICK, SHORT
from benchmarks.stand import data
from benchmarks.tables import by_condition

pytestmark = pytest.mark.system


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: sockets, whose paths may not be long, lie deep in it."""
    return tmp_path_factory.mktemp("q")


async def short(name: str, folder: Path) -> Answer:
    """A question's short form, and what holds for every answer."""
    place = folder / name
    place.mkdir()
    answer = await QUESTIONS[name](place, SHORT)
    for _, together in by_condition(answer.rows):
        others = {row.subject for row in together if row.role != "ours"}
        for row in together:
            assert row.question == name
            assert 0 < row.p50 <= row.p99 <= row.p999 <= row.max
            assert row.calls >= 1
            assert set(row.against) == (others if row.role == "ours" else set())
    assert all(one.question == name and one.value >= 0 and one.unit for one in answer.measures)
    assert all(one.question == name and one.text for one in answer.conclusions)
    return answer


def subjects(answer: Answer, condition: str) -> set[str]:
    return {row.subject for row in answer.rows if row.condition == condition}


async def test_capture_beside_everything_else_then_growing_and_draining(tmp_path: Path) -> None:
    answer = await short("capture", tmp_path)
    doors = {capture.name(door, "os") for door in ("in process", "Unix socket", "loopback HTTP")}
    doors.add(capture.queue("os"))
    own_floors = {FLOOR, capture.UNIX, LOOPBACK}
    assert doors | own_floors | {SQLITE_NORMAL} <= subjects(answer, "idle")
    assert doors | own_floors | {SQLITE_NORMAL} <= subjects(answer, "idle, 1 line")
    assert {capture.name("in process", "disk"), capture.queue("disk"), DISK_FLOOR, SQLITE_FULL} <= subjects(
        answer, "idle, on the disk"
    )
    inside = subjects(answer, "idle, back to back")
    assert {capture.name("in process", "os"), FLOOR, SQLITE_NORMAL} <= inside
    assert not inside & {capture.name("Unix socket", "os"), LOOPBACK, "NATS JetStream, publish and ack"}
    assert subjects(answer, "idle, alone, back to back") == {
        capture.name("in process", "os"),
        capture.queue("os"),
        FLOOR,
    }
    for condition in (capture.BASE, "50 offers a second stream in", "30 queued", "30 drain"):
        assert subjects(answer, condition) == doors | own_floors
    everyone = {row.subject for row in answer.rows} | {one.subject for one in answer.skipped}
    assert {"litequeue", "NATS JetStream, sync always", "PostHog SDK, in memory"} <= everyone
    assert {one.subject: one.value for one in answer.measures}["offers that came meanwhile"] > 0
    assert all(row.sealed == (row.role == "ours") for row in answer.rows)


async def test_journal_or_sqlite_says_what_follows_from_its_figures(tmp_path: Path) -> None:
    answer = await short("journal", tmp_path)
    for condition in (choice.PACED, choice.BURST):
        assert {choice.JOURNAL, choice.SAME_WORK, FLOOR} <= subjects(answer, condition)
    assert {choice.JOURNAL_DISK, choice.SAME_WORK_DISK, DISK_FLOOR} <= subjects(answer, choice.AT_ONCE)
    assert answer.conclusions[-1].text.startswith("The decision for a journal of our own ")
    assert {one.unit for one in answer.measures} == {"bytes a record", "records/s"}


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [(10.0, 20.0, "stands"), (20.0, 10.0, "falls")],
)
def test_the_verdict_goes_the_way_of_the_figures(ours: float, theirs: float, verdict: str) -> None:
    def row(subject: str, p99: float, role: Role, against: dict[str, Ratio]) -> Row:
        return Row("journal", subject, "now", role, "process", True, 9, 1, p99, p99, p99, against=against)

    beside_it = {choice.SAME_WORK: Ratio(1, theirs / ours)}
    timed = [row(choice.JOURNAL, ours, "ours", beside_it), row(choice.SAME_WORK, theirs, "rival", {})]
    assert f"of our own {verdict}" in choice.conclude(timed)[-1].text


async def test_a_drain_of_one_till_and_of_many(tmp_path: Path) -> None:
    answer = await short("drain", tmp_path)
    rates = {(one.subject, one.condition): one.value for one in answer.measures if one.unit == "records/s"}
    assert set(rates) == {(drain.AGENT, "1 till"), (drain.FLEET, "3 tills")}
    assert all(rate > 0 for rate in rates.values())
    assert any(one.subject == drain.FLOOR and one.role == "floor" for one in answer.measures)


async def test_ingest_empty_and_filled_from_one_till_and_many_and_where_the_time_goes(tmp_path: Path) -> None:
    answer = await short("ingest", tmp_path)
    rates = [one for one in answer.measures if one.unit == "transactions/s"]
    floors = (ingest.LEDGER_ROWS, ingest.EVERY_ROW, ingest.LIBRARIES, ingest.BOTH)
    for subject in (ingest.PIPELINE, ingest.GATEWAY, *floors):
        assert {one.condition for one in rates if one.subject == subject} == {
            *("empty ledger, 1 till", "empty ledger, 3 tills", "ledger of 60, 1 till", "ledger of 60, 3 tills"),
        }
    assert all(one.floor_share for one in rates if one.subject == ingest.PIPELINE)
    assert {one.role for one in rates if one.subject in floors} == {"floor"}
    assert any(one.subject.startswith("stage: ") for one in answer.measures)
    together = [one.text for one in answer.conclusions if "with the libraries' calls and the bare insert" in one.text]
    assert [text.split(":")[0] for text in together] == [
        *("empty ledger, 1 till", "ledger of 60, 1 till", "empty ledger, 3 tills", "ledger of 60, 3 tills"),
    ]


async def test_a_push_reaches_the_screen_with_others_connected(tmp_path: Path) -> None:
    answer = await short("push", tmp_path)
    assert push.SCREEN in subjects(answer, "4 tills connected")
    assert [one.unit for one in answer.measures] == ["KB"]


async def test_a_till_decides_with_its_line_cut(tmp_path: Path) -> None:
    answer = await short("decide", tmp_path)
    books = {"3 campaigns", "3 campaigns, all visited"}
    assert subjects(answer, decide.ALONE) == subjects(answer, decide.SOCKET) == books
    assert "within 5 ms" in answer.conclusions[0].text


async def test_answers_come_while_server_and_disk_are_in_trouble(tmp_path: Path) -> None:
    answer = await short("deadline", tmp_path)
    called = {f"{call}, 3 campaigns" for call in ("open basket", "observation", "closed basket")}
    assert subjects(answer, deadline.GONE) == subjects(answer, deadline.FULL) == called
    assert "within 5 ms" in answer.conclusions[0].text


async def test_the_weight_of_an_agent(tmp_path: Path) -> None:
    answer = await short("weight", tmp_path)
    told = {(one.subject, one.unit): one.value for one in answer.measures}
    assert told[weight.AGENT, "MB resident"] > 10
    assert told["protocol wheel", "KB"] > 10
    assert told["agent with everything it needs", "MB on disk"] > told["agent and protocol alone", "MB on disk"] > 0
    assert answer.skipped == ()


async def test_a_rebuild_comes_to_the_same_projections(tmp_path: Path) -> None:
    answer = await short("rebuild", tmp_path)
    assert {one.subject for one in answer.measures} == {rebuild.OURS, rebuild.FLOOR}
    assert counted_in(tmp_path / "ledger-60") == 60


async def test_a_ledger_that_holds_less_than_was_sent_is_noticed(tmp_path: Path) -> None:
    async with data(tmp_path / "data") as parts:
        (sealer,) = await join(parts, 1)
        await parts.intake.pipeline.process(sealer.device, sealer.batch(3))
        await check_stored(parts, 3)
        with pytest.raises(NotStored, match="of 4 transactions the ledger has 3 and the projections count 3"):
            await check_stored(parts, 4)


async def test_a_ledger_is_filled_once_and_never_left_half_full(tmp_path: Path) -> None:
    (tmp_path / "ledger-7.part").mkdir()
    (tmp_path / "ledger-7.part" / "left by an earlier question").touch()
    place = await filled(tmp_path, 7)
    assert counted_in(place) == 7
    assert list(tmp_path.iterdir()) == [place]
    (place / "mark").touch()
    assert await filled(tmp_path, 7) == place
    assert (place / "mark").exists()


def test_portions_make_up_the_whole() -> None:
    assert list(portions(10, 4)) == [4, 4, 2]
    assert list(portions(8, 4)) == [4, 4]
    assert list(portions(0, 4)) == []


def test_short_and_quick_ask_every_question_that_a_full_run_does() -> None:
    assert set(QUESTIONS) == {
        "capture",
        "journal",
        "drain",
        "ingest",
        "push",
        "decide",
        "deadline",
        "weight",
        "rebuild",
        "console",
    }
    for sizes in (QUICK, SHORT):
        assert all(getattr(sizes, name) for name in ("lines", "queued", "campaigns", "connected"))
        assert sizes.limit_s <= 120


async def test_console_asks_for_every_page_and_has_them_watched(tmp_path: Path) -> None:
    answer = await short("console", tmp_path)
    assert {one.subject for one in answer.measures} == {
        *console.PAGES,
        "1 watching live sales",
        "50 watching live sales",
        "50 watching live sales, each of a store",
    }
    assert all(re.fullmatch(r"\d+ tills, [1-9][\d,]+ rows of a year's sales", one.condition) for one in answer.measures)
    assert all(one.value > 0 for one in answer.measures if "ms" in one.unit)
