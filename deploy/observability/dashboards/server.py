"""The server itself: whether it keeps up, and what it needs."""

from __future__ import annotations

from typing import Final

from .panels import SERVER, Dashboard, Query, Row, lines, number, rate

_PROCESS = f'job="tillstream-server", {SERVER}'


def _batch(quantile: float) -> Query:
    bucket = f"sum by (le) (rate(tillstream_server_batch_seconds_bucket{{{SERVER}}}[$__rate_interval]))"
    return Query(f"histogram_quantile({quantile}, {bucket})", f"p{quantile * 100:g}")


INTERNALS: Final = Dashboard(
    "server",
    "Tillstream · Server",
    "Whether the server keeps up with its tills, and what it needs for that.",
    (
        Row(
            "Now",
            (
                number("Up", "Servers that answer.", f"sum(up{{{_PROCESS}}})"),
                number(
                    "Ledger readable",
                    "1 while the figures of fleet and ledger can be read.",
                    f"min(tillstream_server_ledger_readable{{{SERVER}}})",
                ),
                number(
                    "Running for",
                    "Since the last start.",
                    f"time() - max(process_start_time_seconds{{{_PROCESS}}})",
                    unit="s",
                ),
                number(
                    "Certificate ends in",
                    "Of the certificate that the server shows. Far below zero: it shows none, a proxy does.",
                    f"min(tillstream_server_tls_certificate_end_timestamp_seconds{{{SERVER}}}) - time()",
                    unit="s",
                ),
                number(
                    "Free disk",
                    "Where the ledger lies.",
                    f"min(tillstream_server_data_free_bytes{{{SERVER}}})",
                    unit="bytes",
                ),
                number(
                    "Version",
                    "That runs.",
                    f"count by (version) (tillstream_server_build_info{{{SERVER}}})",
                    legend="{{version}}",
                ),
            ),
        ),
        Row(
            "Work",
            (
                lines(
                    "Batches to the ledger",
                    "From a batch's last byte to its commit.",
                    _batch(0.5),
                    _batch(0.99),
                    Query(f"max(tillstream:batch_seconds:p99_rate5m{{{SERVER}}})", "p99 over 5 minutes"),
                    unit="s",
                ),
                lines(
                    "Batches waiting",
                    "In memory and not yet committed. Past the setting batches_waiting, tills are told to come later.",
                    Query(f"sum(tillstream_server_batches_waiting{{{SERVER}}})", "waiting"),
                ),
                lines(
                    "Errors",
                    "Unexpected errors, and requests that were not HTTP, a second.",
                    Query(rate("tillstream_server_unexpected_errors_total"), "unexpected"),
                    Query(rate("tillstream_server_malformed_requests_total"), "malformed"),
                    unit="cps",
                ),
                lines(
                    "Packs",
                    "Packs signed for tills, a second.",
                    Query(rate("tillstream_server_packs_issued_total"), "packs"),
                    unit="cps",
                ),
                lines(
                    "Tills taken back",
                    "Tills that asked to be taken back by their certificate, a second.",
                    Query(rate("tillstream_server_returns_total", "outcome"), "{{outcome}}"),
                    unit="cps",
                ),
                lines(
                    "Sign-ins",
                    "Attempts to sign in to the console, a second, by outcome.",
                    Query(rate("tillstream_server_console_sign_ins_total", "outcome"), "{{outcome}}"),
                    unit="cps",
                ),
                lines(
                    "Alarms sounded",
                    "Things in tills' histories that do not fit, as they are noticed, a second.",
                    Query(rate("tillstream_server_alarms_total", "kind"), "{{kind}}"),
                    unit="cps",
                ),
            ),
        ),
        Row(
            "Process and disk",
            (
                lines(
                    "Processor",
                    "Cores in use.",
                    Query(rate("process_cpu_seconds_total", where=_PROCESS), "cores"),
                ),
                lines(
                    "Memory",
                    "Resident.",
                    Query(f"sum(process_resident_memory_bytes{{{_PROCESS}}})", "resident"),
                    unit="bytes",
                ),
                lines(
                    "Open files",
                    "A push session takes one; at the limit nobody is let in.",
                    Query(f"sum(process_open_fds{{{_PROCESS}}})", "open"),
                    Query(f"sum(process_max_fds{{{_PROCESS}}})", "limit"),
                ),
                lines(
                    "Ledger",
                    "Size of the database and of its write-ahead log.",
                    Query(f"sum(tillstream_server_ledger_bytes{{{SERVER}}})", "database"),
                    Query(f"sum(tillstream_server_ledger_wal_bytes{{{SERVER}}})", "write-ahead log"),
                    unit="bytes",
                ),
                lines(
                    "Free disk",
                    "Where the ledger lies.",
                    Query(f"min(tillstream_server_data_free_bytes{{{SERVER}}})", "free"),
                    unit="bytes",
                ),
                lines(
                    "Scrape",
                    "How long Prometheus waits for this server's figures.",
                    Query(f"max(scrape_duration_seconds{{{_PROCESS}}})", "scrape"),
                    unit="s",
                ),
            ),
        ),
    ),
)
