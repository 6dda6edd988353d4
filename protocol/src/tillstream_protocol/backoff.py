"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def full_jitter(uniform: Callable[[], float], *, first: float = 0.5, cap: float = 60.0) -> Iterator[float]:
    """Yield waiting times in seconds: uniform between 0 and a bound that doubles from `first` up to `cap`.

    `uniform` gives numbers in [0, 1). The jitter is applied after the cap, so that tills that have waited long do
    not all return together. Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    bound = min(cap, first)
    while True:
        yield uniform() * bound
        bound = min(cap, bound * 2)
