"""The mutants that no test notices because they change nothing that matters, each with its reason."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

JUSTIFIED: Final = Path(__file__).parent / "justified.toml"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: in which function, what stood there, and what stands there now."""

    where: str
    before: str
    after: str


def justified() -> dict[Mutant, str]:
    """The reason why each needs no test. Raises `KeyError` for an entry that is not complete."""
    listed = tomllib.loads(JUSTIFIED.read_text(encoding="utf-8"))["mutant"]
    return {Mutant(one["where"], one["before"], one["after"]): one["why"] for one in listed}
