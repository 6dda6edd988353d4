"""What is counted is there from the start, names nobody, and agrees with what is logged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.agents import Telling
from tillstream_agent.events import JournalEvents, json_logger
from tillstream_agent.journal import JournalFull
from tillstream_agent.metrics import Gauges, LatencyWindow
from tillstream_protocol.errors import InvalidInput, TillstreamError, UnknownField

FORBIDDEN = {"till", "store", "member", "sku", "cashier", "operator", "retailer"}


async def test_every_series_is_there_with_its_zero() -> None:
    telling = Telling()
    now = Gauges(3, 400, 1500, 2, connected=True, pack_version=7, online=True, clock_ahead_ms=-250, disk_free=1 << 30)
    text = (await telling.metrics.render(now)).decode()
    assert 'tillstream_agent_captures_total{ack="disk",door="socket",kind="member_identified"} 0.0' in text
    assert 'tillstream_agent_refusals_total{reason="too_large"} 0.0' in text
    assert 'tillstream_agent_sync_batches_total{outcome="revoked"} 0.0' in text
    assert "tillstream_agent_hook_seconds_count 0.0" in text
    assert "tillstream_agent_queue_oldest_seconds 1.5" in text
    assert "tillstream_agent_push_connected 1.0" in text
    assert "tillstream_agent_online 1.0" in text
    assert "tillstream_agent_clock_ahead_seconds -0.25" in text
    assert "tillstream_agent_disk_free_bytes 1.073741824e+09" in text
    assert 'tillstream_agent_build_info{version="' in text
    assert "process_resident_memory_bytes " in text


def test_no_label_names_a_till_or_a_person() -> None:
    for family in Telling().registry.collect():
        for sample in family.samples:
            assert not FORBIDDEN & sample.labels.keys()


class SomethingElse(TillstreamError):
    code = "something_else"


def test_a_refusal_of_a_new_kind_makes_no_new_series() -> None:
    telling = Telling()
    telling.events.refused("http", SomethingElse("new"))
    assert telling.counted("refusals", reason="error") == 1


def test_a_refused_field_is_logged_by_name_only_if_the_format_has_it() -> None:
    telling = Telling()
    telling.events.refused("http", InvalidInput("Expected `int`", field="lines[0].amount"))
    telling.events.refused("http", UnknownField("there is no field", field="5551234567"))
    assert [line["field"] for line in telling.lines()] == ["lines[0].amount", None]


def test_a_capture_ends_the_capture_trouble() -> None:
    telling = Telling()
    telling.events.capture_failed("http", JournalFull("no room"))
    assert (telling.events.capture_trouble, telling.events.last_error) == ("journal_full", "journal_full")
    telling.events.captured("http", "transaction", "os", repeat=False, seconds=0.001)
    assert (telling.events.capture_trouble, telling.events.last_error) == ("", "journal_full")


def test_each_event_is_one_json_line_with_its_level() -> None:
    telling = Telling()
    telling.events.link_back(queued=3)
    telling.events.push_refused(InvalidInput("what"))
    assert [(line["event"], line["level"]) for line in telling.lines()] == [
        ("link_back", "info"),
        ("push_refused", "error"),
    ]


def test_what_is_below_the_level_is_not_logged() -> None:
    telling = Telling()
    log = json_logger(telling.stream, "warning")
    log.info("quiet")
    log.warning("loud")
    assert telling.said() == ["loud"]


def test_the_journals_incidents_are_counted() -> None:
    telling = Telling()
    journal = JournalEvents(json_logger(telling.stream, "debug"), telling.metrics, telling.events)
    journal.opened(1)
    journal.synced(5, 0.002)
    journal.sync_failed(1, "planted")
    journal.torn(1, 20)
    journal.damaged(1, 10, 20)
    journal.set_aside("0000000001.chunk", "planted")
    journal.discarded(1)
    for what in ("sync_failed", "torn", "damaged", "set_aside"):
        assert telling.counted("journal_incidents", what=what) == 1
    assert telling.events.last_error == "journal_set_aside"


def test_what_the_journal_lost_gave_up_or_cannot_sync_is_told_of_and_counted() -> None:
    telling = Telling()
    findings: list[str] = []
    log = json_logger(telling.stream, "debug")
    journal = JournalEvents(log, telling.metrics, telling.events, lambda: findings.append("found"))
    for what in ("lost", "given_up", "sync_stuck"):
        assert telling.counted("journal_incidents", what=what) == 0
    journal.sync_stuck(7, 5.0)
    journal.lost(3, 10, None, "damaged_frame")
    assert telling.events.last_error == "journal_lost"
    assert findings == ["found"]
    journal.given_up(4, 4096)
    for what in ("lost", "given_up", "sync_stuck"):
        assert telling.counted("journal_incidents", what=what) == 1
    told = [{name: line[name] for name in line if name not in ("level", "timestamp")} for line in telling.lines()]
    assert told == [
        {"event": "journal_sync_stuck", "records": 7, "seconds": 5.0},
        {"event": "journal_lost", "chunk": 3, "first": 10, "last": None, "reason": "damaged_frame"},
        {"event": "chunk_given_up", "chunk": 4, "size": 4096},
    ]
    assert [line["level"] for line in telling.lines()] == ["error", "error", "warning"]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_quantiles_are_of_the_values_given(values: list[float]) -> None:
    window = LatencyWindow()
    for value in values:
        window.add(value)
    latency = window.take()
    assert latency.count == len(values)
    assert latency.max == round(max(values) * 1e6)
    assert latency.p50 <= latency.p99 <= latency.max
    assert latency.p50 in {round(value * 1e6) for value in values}
    assert window.read().count == 0


def test_a_full_window_forgets_the_oldest() -> None:
    window = LatencyWindow(capacity=2)
    for value in (9.0, 1.0, 2.0):
        window.add(value)
    assert (window.read().max, window.read().count) == (2_000_000, 3)
