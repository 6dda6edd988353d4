"""How things are timed: in turn, on the same records, with what warms up left out."""

from __future__ import annotations

from benchmarks.harness import Rounds, Subject, Timings, interleave, quantile, rows


def subject(name: str, calls: list[tuple[str, int]], role: str = "rival", **fields: str) -> Subject[int]:
    async def call(record: int) -> None:
        calls.append((name, record))

    return Subject(name, call, role, "process", **fields)  # type: ignore[arg-type]


async def test_subjects_take_turns_on_the_same_records_and_the_warm_up_is_not_counted() -> None:
    calls: list[tuple[str, int]] = []
    pauses: list[int] = []

    async def between() -> None:
        pauses.append(len(calls))

    timed = await interleave(
        [subject("a", calls), subject("b", calls)],
        "now",
        Rounds(count=2, warm_up=1, first=5),
        lambda n: n * 10,
        between,
    )
    assert calls == [("a", 50), ("b", 50), ("a", 60), ("b", 60), ("a", 70), ("b", 70)]
    assert pauses == [2, 4, 6]
    assert [len(one.times) for one in timed] == [2, 2]
    assert [one.condition for one in timed] == ["now", "now"]


def test_quantiles_are_by_the_nearest_rank() -> None:
    times = list(range(1, 101))
    assert [quantile(times, share) for share in (0, 0.5, 0.99, 1)] == [1, 51, 100, 100]
    assert quantile([], 0.5) == 0
    assert quantile([7], 0.999) == 7


def timings(name: str, role: str, *times: int, **fields: str) -> Timings[int]:
    made = Timings(subject(name, [], role, **fields), "now")
    made.times.extend(times)
    return made


def test_ours_is_set_beside_everything_else_and_each_beside_its_floor() -> None:
    floor = timings("floor", "floor", 1_000, 1_000)
    ours = timings("ours", "ours", 3_000, 3_000, floor="floor")
    other = timings("other", "rival", 6_000, 9_000, floor="floor")
    told = {row.subject: row for row in rows("q", [floor, ours, other])}
    assert told["ours"].floor_ratio == 3
    assert told["other"].floor_ratio == 9
    assert told["floor"].floor_ratio is None
    assert {name: (ratio.p50, ratio.p99) for name, ratio in told["ours"].against.items()} == {
        "floor": (0.33, 0.33),
        "other": (3, 3),
    }
    assert told["other"].against == {}
    assert (told["ours"].p50, told["ours"].max, told["ours"].calls) == (3, 3, 2)


def test_nothing_that_was_timed_in_no_time_divides() -> None:
    told = rows("q", [timings("ours", "ours", 1_000), timings("floor", "floor", 0)])
    assert told[0].against["floor"].p50 == 0
    told = rows("q", [timings("ours", "ours", 0), timings("floor", "floor", 1_000)])
    assert told[0].against["floor"].p50 == 0


def test_a_tenth_more_warms_up() -> None:
    assert Rounds.of(1000, first=3) == Rounds(1000, 100, 3)
    assert Rounds.of(5).total == 7
