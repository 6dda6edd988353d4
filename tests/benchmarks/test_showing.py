"""A run as tables and as pictures."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from rich.console import Console

from benchmarks.figures import Answer, Conclusion, Machine, Measure, Ratio, Role, Row, Run, Skipped
from benchmarks.machine import describe, weigh
from benchmarks.plots import draw, picture
from benchmarks.tables import by_condition, show


def row(subject: str, condition: str = "idle", role: Role = "rival", **fields: object) -> Row:
    known = {"question": "capture", "promise": "process", "sealed": False, "calls": 1000}
    times = {"p50": 12.0, "p99": 34.0, "p999": 56.0, "max": 78.0}
    return msgspec.convert({**known, **times, "subject": subject, "condition": condition, "role": role, **fields}, Row)


ANSWER = Answer(
    rows=(
        row("floor", role="floor"),
        row("ours <&>", role="ours", floor_ratio=3.5, against={"theirs": Ratio(4.25, 9.75)}),
        row("theirs", versus="ours <&>"),
        row("ours <&>", "draining", role="ours", p99=34_567.0),
    ),
    measures=(
        Measure("capture", "rate", "now", 12_345.6, "a second", floor_share=0.25),
        Measure("capture", "nothing", "now", 0.0, "a second"),
        Measure("capture", "size", "now", 1.25, "MB"),
    ),
    skipped=(Skipped("capture", "a rival", "not installed here: rival"),),
    conclusions=(Conclusion("capture", "ours is [4] times as fast"),),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(describe(tmp_path), "short", {"capture": ANSWER}, {"capture": 1.5})


def test_a_table_shows_every_figure_what_was_left_out_and_what_follows(run: Run) -> None:
    text = io.StringIO()
    show(run, Console(file=text, width=200))
    said = text.getvalue()
    for expected in ("ours <&>", "34,567", "4.25", "9.75", "3.5", "12,346", "25.0%", "a kill", "draining"):
        assert expected in said
    assert "left out: a rival: not installed here: rival" in said
    assert "ours is [4] times as fast" in said


def test_what_was_timed_together_stands_together() -> None:
    again = [row("a", "x"), row("b", "x"), row("a", "y"), row("a", "x"), row("a", "x")]
    assert [(condition, len(rows)) for condition, rows in by_condition(again)] == [
        ("x", 2),
        ("y", 1),
        ("x", 1),
        ("x", 1),
    ]


def test_a_picture_is_well_formed_and_shows_every_row(run: Run, tmp_path: Path) -> None:
    (file,) = draw(run, tmp_path / "new" / "plots")
    svg = ET.fromstring(file.read_text(encoding="utf-8"))
    said = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert said.count("ours <&>") == 2
    assert {"theirs", "floor", "draining", "rate, now", "12,346", "size, now", "1.25", "12 / 34,567"} <= set(said)
    assert file.name == "capture.svg"


def test_the_same_figures_give_the_same_picture(run: Run, tmp_path: Path) -> None:
    (one,), (other,) = draw(run, tmp_path / "one"), draw(run, tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("answer", [Answer(rows=(row("alone"),)), Answer(measures=ANSWER.measures), Answer()])
def test_a_question_may_have_only_some_kinds_of_figures(answer: Answer) -> None:
    ET.fromstring(picture("q", answer))


def test_bars_stay_inside_the_picture() -> None:
    svg = ET.fromstring(picture("q", ANSWER))
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for bar in svg.iter("{http://www.w3.org/2000/svg}rect"):
        assert 0 <= float(bar.attrib["x"]) <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width
        assert 0 <= float(bar.attrib["y"]) <= height


def test_a_run_is_told_as_json_and_read_back(run: Run) -> None:
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run


def test_the_machine_is_described_without_its_name_or_any_path(tmp_path: Path) -> None:
    machine = describe(tmp_path)
    assert machine.cores >= 1
    assert machine.memory_mb > 0
    assert machine.file_system != "unknown"
    encoded = msgspec.json.encode(machine).decode()
    assert str(tmp_path) not in encoded
    assert set(Machine.__struct_fields__) == {
        *("processor", "cores", "memory_mb", "python", "sqlite", "file_system", "load"),
    }


def test_a_process_is_weighed() -> None:
    import os

    before = weigh(os.getpid())
    held = bytearray(50_000_000)
    held[::4096] = b"x" * len(held[::4096])
    total = sum(range(5_000_000))
    after = weigh(os.getpid())
    assert total
    assert after.resident - before.resident > 30_000_000 or after.peak > before.resident + 30_000_000
    assert after.cpu >= before.cpu
    assert after.peak >= after.resident - 4096 * 64


def test_a_process_that_is_gone_is_not_weighed() -> None:
    with pytest.raises(OSError, match="No such"):
        weigh(2**22 + 1)
