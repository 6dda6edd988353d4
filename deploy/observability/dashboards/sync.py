"""Sync: what waits at tills, how fast it comes, and what is not taken."""

from __future__ import annotations

from typing import Final

from .panels import SERVER, Dashboard, Query, Row, lines, number, over_tills, rate, stack

_LAG = "tillstream_server_fleet_sync_lag_seconds"

SYNC: Final = Dashboard(
    "sync",
    "Tillstream · Sync",
    "What waits at tills, how it comes in, and what the server does not take.",
    (
        Row(
            "Now",
            (
                number(
                    "Queued at tills",
                    "Records not acknowledged, as last heard; silent tills count with what they had.",
                    f"sum(tillstream_server_fleet_queued_records{{{SERVER}}})",
                    warn=1000,
                ),
                number(
                    "Oldest",
                    "Age of the oldest record of a talking till that is not acknowledged.",
                    f"max(tillstream_server_fleet_sync_lag_max_seconds{{{SERVER}}})",
                    unit="s",
                    warn=300,
                    alarm=900,
                ),
                number(
                    "Behind by a minute",
                    "Talking tills whose oldest record waits for more than a minute.",
                    f'sum({_LAG}_bucket{{{SERVER}, le="+Inf"}}) - sum({_LAG}_bucket{{{SERVER}, le="60.0"}})',
                    warn=1,
                ),
                number(
                    "Rejected",
                    "The part of records that cannot be taken: dead letters and conflicts.",
                    f"max(tillstream:records_rejected:ratio_rate5m{{{SERVER}}})",
                    unit="percentunit",
                    warn=0.001,
                    alarm=0.01,
                ),
                number(
                    "Dead letters",
                    "Records that are kept until their cause is gone: tillstream-server dead-letters list.",
                    f"sum(tillstream_server_dead_letters_kept{{{SERVER}}})",
                    warn=1,
                ),
                number(
                    "Push sessions",
                    "Tills on the push channel.",
                    f"sum(tillstream_server_push_sessions{{{SERVER}}})",
                ),
            ),
        ),
        Row(
            "Over time",
            (
                lines("Lag over tills", "Age of the oldest record that waits.", *over_tills("sync_lag"), unit="s"),
                lines(
                    "Queue",
                    "Records that wait at tills, and those that a till keeps because they were refused.",
                    Query(f"sum(tillstream_server_fleet_queued_records{{{SERVER}}})", "waiting"),
                    Query(f"sum(tillstream_server_fleet_refused_records{{{SERVER}}})", "refused, kept at tills"),
                ),
                stack(
                    "Records",
                    "Records a second by what became of them. A repeat was acknowledged before and counts nothing.",
                    Query(rate("tillstream_server_records_total", "outcome"), "{{outcome}}"),
                    unit="cps",
                ),
                stack(
                    "Batches",
                    "Batches a second by what became of them.",
                    Query(rate("tillstream_server_batches_total", "outcome"), "{{outcome}}"),
                    unit="cps",
                ),
                lines(
                    "Not taken",
                    "The parts of records and of batches that were refused.",
                    Query(f"max(tillstream:records_rejected:ratio_rate5m{{{SERVER}}})", "records"),
                    Query(f"max(tillstream:batches_refused:ratio_rate5m{{{SERVER}}})", "batches"),
                    unit="percentunit",
                ),
                lines(
                    "Push channel",
                    "Messages to tills, their receipts, and heartbeats, a second.",
                    Query(rate("tillstream_server_pushes_sent_total"), "pushed"),
                    Query(rate("tillstream_server_push_receipts_total"), "receipts"),
                    Query(rate("tillstream_server_heartbeats_total"), "heartbeats"),
                    unit="cps",
                ),
                lines(
                    "Sessions ended",
                    "Why push sessions end, a second. Many replaced ones mean a clone.",
                    Query(rate("tillstream_server_push_sessions_ended_total", "outcome"), "{{outcome}}"),
                    unit="cps",
                ),
                lines(
                    "Losses and second askings",
                    "Losses that tills have stated, by reason, and records that tills were asked for again, a second.",
                    Query(rate("tillstream_server_losses_stated_total", "reason"), "lost: {{reason}}"),
                    Query(rate("tillstream_server_asked_again_total"), "asked again"),
                    unit="cps",
                ),
                lines(
                    "Set aside",
                    "What is kept for somebody to look at.",
                    Query(f"sum(tillstream_server_dead_letters_kept{{{SERVER}}})", "dead letters"),
                    Query(f"sum(tillstream_server_conflicts_kept{{{SERVER}}})", "conflicts"),
                    Query(f"sum(tillstream_server_quarantined_batches{{{SERVER}}})", "batches of revoked tills"),
                ),
            ),
        ),
    ),
)
