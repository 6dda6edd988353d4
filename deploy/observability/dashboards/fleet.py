"""The fleet: which tills are there, which are not, and what they run."""

from __future__ import annotations

from typing import Final

from .panels import SERVER, Dashboard, Query, Row, lines, number, over_tills, rate, stack


def _tills(state: str) -> str:
    return f'sum(tillstream_server_fleet_tills{{{SERVER}, state="{state}"}})'


FLEET: Final = Dashboard(
    "fleet",
    "Tillstream · Fleet",
    "Which tills talk, which do not, and what they run. Everything comes from heartbeats: no till is scraped.",
    (
        Row(
            "Now",
            (
                number("Talking", "Tills heard within the setting silent_seconds.", _tills("talking")),
                number("Silent", "Tills heard once, and not lately.", _tills("silent"), warn=1, alarm=10),
                number("Never heard", "Tills that were enrolled and have sent no heartbeat yet.", _tills("unheard")),
                number("Revoked", "Tills that were turned away; their queues are kept.", _tills("revoked")),
                number(
                    "Off the main version",
                    "Talking tills that run another version than most.",
                    f"sum(tillstream_server_fleet_tills_off_main_version{{{SERVER}}})",
                ),
                number(
                    "Open alarms",
                    "Clones, old images, lost tails and missing records that nobody has settled.",
                    f"sum(tillstream_server_alarms_open{{{SERVER}}})",
                    warn=1,
                ),
            ),
        ),
        Row(
            "Over time",
            (
                stack(
                    "Tills by state",
                    "Each till is in one state, so the states add up to all tills.",
                    Query(f"sum by (state) (tillstream_server_fleet_tills{{{SERVER}}})", "{{state}}"),
                    width=12,
                ),
                stack(
                    "Versions",
                    "Talking tills by their agent's version; rare ones are under other.",
                    Query(f"sum by (version) (tillstream_server_fleet_tills_by_version{{{SERVER}}})", "{{version}}"),
                    width=12,
                ),
                lines(
                    "Silent part",
                    "Of the tills that were ever heard and are not revoked.",
                    Query(f"max(tillstream:fleet_silent:ratio{{{SERVER}}})", "silent"),
                    unit="percentunit",
                ),
                lines(
                    "Clocks",
                    "How far tills' clocks are from the server's. Past five minutes a till makes no offers.",
                    *over_tills("clock_skew"),
                    unit="s",
                ),
                lines(
                    "Disks and files",
                    "Tills short of disk, and files that tills keep because they were damaged or torn.",
                    Query(f"sum(tillstream_server_fleet_tills_short_of_disk{{{SERVER}}})", "under 1 GiB free"),
                    Query(f"sum(tillstream_server_fleet_damaged_files{{{SERVER}}})", "damaged files"),
                ),
                lines(
                    "Alarms by kind",
                    "Open alarms; the page When a till is ill says what each means.",
                    Query(f"sum by (kind) (tillstream_server_alarms_open{{{SERVER}}})", "{{kind}}"),
                ),
                lines(
                    "Enrolments",
                    "Attempts to enrol a second, by outcome. Those refused name their reason.",
                    Query(rate("tillstream_server_enrolments_total", "outcome"), "{{outcome}}"),
                    unit="cps",
                ),
                lines(
                    "Settings from head office",
                    "What became of settings at tills, and rollouts that their reports halted, a second.",
                    Query(rate("tillstream_server_settings_reported_total", "outcome"), "{{outcome}}"),
                    Query(rate("tillstream_server_rollouts_halted_total"), "rollouts halted"),
                    unit="cps",
                ),
                lines(
                    "Drift",
                    "The part of talking tills that runs another version than most.",
                    Query(f"max(tillstream:fleet_off_main_version:ratio{{{SERVER}}})", "off the main version"),
                    unit="percentunit",
                ),
            ),
        ),
    ),
)
