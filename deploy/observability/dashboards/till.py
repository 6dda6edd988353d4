"""The till: whether anybody waits for us, and what reaches the cashier's screen."""

from __future__ import annotations

from typing import Final

from .panels import AGENT, AGENTS, SERVER, SERVERS, Dashboard, Query, Row, lines, number, over_tills, rate, stack

_HOOK = "tillstream_agent_hook_seconds_bucket"


def _hook(quantile: float) -> Query:
    expr = f"histogram_quantile({quantile}, sum by (le) (rate({_HOOK}{{{AGENT}}}[$__rate_interval])))"
    return Query(expr, f"p{quantile * 100:g}")


_EVERYWHERE: Final = Row(
    "Every till, by heartbeat",
    (
        number(
            "Slow hooks",
            "The part of tills that kept one call in a hundred waiting over 5 ms, in their last interval with calls.",
            f"max(tillstream:fleet_slow_hook:ratio{{{SERVER}}})",
            unit="percentunit",
            warn=0.01,
            alarm=0.05,
        ),
        number(
            "Worst p99",
            "The slowest till's p99.",
            f"max(tillstream_server_fleet_hook_p99_max_seconds{{{SERVER}}})",
            unit="s",
            warn=0.005,
            alarm=0.05,
        ),
        lines("Hook p99 over tills", "Each till's own p99, spread over tills.", *over_tills("hook_p99"), unit="s"),
        lines(
            "What cashiers do",
            "New records a second by what they are: offers shown and answered, members, observations.",
            Query(rate("tillstream_server_taken_records_total", "body"), "{{body}}"),
            unit="cps",
        ),
    ),
)

_ONE: Final = Row(
    "Agents that Prometheus reads on their own machine",
    (
        lines("Hook", "How long a POS waits for an answer.", _hook(0.5), _hook(0.99), _hook(0.999), unit="s"),
        stack(
            "Captures",
            "Records a second by kind.",
            Query(rate("tillstream_agent_captures_total", "kind", AGENT), "{{kind}}"),
            unit="cps",
        ),
        lines(
            "Refused calls",
            "Calls of the POS that were not taken, a second by reason.",
            Query(rate("tillstream_agent_refusals_total", "reason", AGENT), "{{reason}}"),
            unit="cps",
        ),
        lines(
            "Queue",
            "Records that wait, and those set aside.",
            Query(f"sum by (instance) (tillstream_agent_queue_records{{{AGENT}}})", "waiting at {{instance}}"),
            Query(f"sum by (instance) (tillstream_agent_queue_aside_records{{{AGENT}}})", "aside at {{instance}}"),
        ),
        lines(
            "To the disk",
            "How long a group of records takes to reach the disk, p99.",
            Query(
                "histogram_quantile(0.99, sum by (le) "
                f"(rate(tillstream_agent_journal_sync_seconds_bucket{{{AGENT}}}[$__rate_interval])))",
                "p99",
            ),
            unit="s",
        ),
        lines(
            "Offers",
            "Offers a second: received from the server, decided at the till, shown on a screen.",
            Query(rate("tillstream_agent_offers_received_total", where=AGENT), "received"),
            Query(rate("tillstream_agent_offers_decided_total", where=AGENT), "decided here"),
            Query(rate("tillstream_agent_offers_shown_total", where=AGENT), "shown"),
            unit="cps",
        ),
        lines(
            "Link",
            "1 while the server is reached, and while the push channel is open.",
            Query(f"min by (instance) (tillstream_agent_online{{{AGENT}}})", "online: {{instance}}"),
            Query(f"min by (instance) (tillstream_agent_push_connected{{{AGENT}}})", "push: {{instance}}"),
        ),
        lines(
            "Clock",
            "How far the till's clock is ahead of the server's.",
            Query(f"tillstream_agent_clock_ahead_seconds{{{AGENT}}}", "{{instance}}"),
            unit="s",
        ),
        lines(
            "Free disk",
            "What the agent may still write.",
            Query(f"tillstream_agent_disk_free_bytes{{{AGENT}}}", "{{instance}}"),
            unit="bytes",
        ),
    ),
)

TILL: Final = Dashboard(
    "till-experience",
    "Tillstream · Till experience",
    "Whether a POS ever waits for the agent, and what reaches the cashier. The lower half needs agents to be read.",
    (_EVERYWHERE, _ONE),
    (SERVERS, AGENTS),
)
