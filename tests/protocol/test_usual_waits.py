"""The waits that both sides keep to where nothing else was asked for."""

from __future__ import annotations

from itertools import islice

from tillstream_protocol.backoff import full_jitter


def test_the_first_wait_is_within_half_a_second_and_none_is_longer_than_a_minute() -> None:
    assert list(islice(full_jitter(lambda: 1.0), 9)) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
