"""How much of everything: a full run, a quick one, and the short one that tests run."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of calls, records, tills and so on; times in seconds. Every question ends after `limit_s`."""

    name: str
    limit_s: float
    calls: int
    """How often each capturing call is timed; those that wait for the disk a tenth as often."""
    lines: tuple[int, ...]
    """Baskets beside the usual one."""
    queued: tuple[int, ...]
    """Records that wait, for the growth of capture; the last of them then drain."""
    offers_a_second: int
    stored: int
    """Records into each store that the journal is compared with."""
    drained: int
    """Records that wait on all tills together."""
    fleet: int
    """The tills of a whole retailer."""
    ingested: int
    ledger: int
    """Transactions of the ledger that has filled up; projections are rebuilt of as many."""
    campaigns: tuple[int, ...]
    decisions: int
    deadlines: int
    """Customers whose calls come at fifty a second, in each trouble."""
    connected: tuple[int, ...]
    pushes: int
    consoled: int
    """Tills of the chain whose pages head office looks at, with a year of sales."""
    rest_s: float
    starts: int


FULL = Sizes(
    name="full",
    limit_s=7200,
    calls=10_000,
    lines=(1, 200),
    queued=(100_000, 1_000_000),
    offers_a_second=50,
    stored=20_000,
    drained=200_000,
    fleet=100,
    ingested=40_000,
    ledger=2_000_000,
    campaigns=(10, 100, 1000),
    decisions=5_000,
    deadlines=1_000,
    connected=(10, 1_000, 5_000),
    pushes=500,
    consoled=100_000,
    rest_s=60,
    starts=5,
)
QUICK = Sizes(
    name="quick",
    limit_s=120,
    calls=250,
    lines=(1, 200),
    queued=(1_000, 8_000),
    offers_a_second=50,
    stored=1_000,
    drained=3_000,
    fleet=10,
    ingested=2_000,
    ledger=4_000,
    campaigns=(10, 100, 1000),
    decisions=200,
    deadlines=200,
    connected=(10, 200),
    pushes=40,
    consoled=5_000,
    rest_s=3,
    starts=2,
)
SHORT = replace(
    QUICK,
    name="short",
    calls=12,
    lines=(1,),
    queued=(30,),
    stored=20,
    drained=40,
    fleet=3,
    ingested=40,
    ledger=60,
    campaigns=(3,),
    decisions=10,
    deadlines=10,
    connected=(4,),
    pushes=4,
    consoled=100,
    rest_s=0.3,
    starts=1,
)
SIZES = {sizes.name: sizes for sizes in (FULL, QUICK, SHORT)}
