"""What of the core is mutated, by which tests each part is judged, and how a copy of both is laid out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
WORDS: Final = [r"^\s*raise \w+\(", r"^\s*(message|hint|limit|field) ?=", r'^\s*f?"[^"]*",?( hint=.*)?$']
"""Not mutated: the words of an error. That it is raised, and which, is."""

UNNOTICED: Final = frozenset({"survived", "no tests"})
VERDICTS: Final = "verdicts.json"
ONLY: Final = "only.json"
"""Where the names of the mutants stand that are to be judged; without it all are."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is mutated together, and by which tests it is judged."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


def _protocol(sources: str, tests: str) -> Part:
    return Part(
        tuple(f"tillstream_protocol/{name}.py" for name in sources.split()),
        tuple(f"tests/protocol/test_{name}.py" for name in tests.split()),
    )


def _sync(sources: str) -> Part:
    return Part(tuple(f"tillstream_agent/sync/{name}.py" for name in sources.split()), ("tests/agent/sync",))


def _journal(sources: str) -> Part:
    """Without the campaigns on the simulated disk: what they find by the way, a test of its own has to say."""
    tests = (
        "blocking damage empty_runs footers housing inherited journal placing reading recovering retention room sending"
        " seqs syncing syncs tags waiting_for_the_disk what_earlier_runs_left writing"
    )
    return Part(
        tuple(f"tillstream_agent/journal/{name}.py" for name in sources.split()),
        tuple(f"tests/agent/journal/test_{name}.py" for name in tests.split()),
    )


PARTS: Final = {
    "framing": _protocol("framing", "framing framing_limits chunk_repair unfinished_frames"),
    "ranges": _protocol("ranges backoff", "ranges backoff usual_waits"),
    "sealing": _protocol("sealing", "sealing sealing_limits"),
    "signing": _protocol("signing", "signing messages"),
    "sync-flow": _sync("answers flow keys link refusals rewind rotate"),
    "sync-wire": _sync("asking enrol push transport upload"),
    "journal-writing": _journal(
        "blocking chunks directory disk doubts errors journal observer room seqs syncing tags writer"
    ),
    "journal-reading": _journal("inherited overlaps reader reading retention shelf"),
    "journal-recovery": _journal("chain damage headless mending recovery"),
}


def lay_out(folder: Path, part: Part) -> None:
    """One source folder, the tests that judge, and the settings of mutmut and pytest."""
    shutil.rmtree(folder, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__")
    for side in ("protocol", "agent"):
        package = f"tillstream_{side}"
        shutil.copytree(ROOT / side / "src" / package, folder / "src" / package, ignore=skip)
    shutil.copytree(ROOT / "protocol" / "vectors", folder / "protocol" / "vectors", ignore=skip)
    for shared in ("support", "model"):
        shutil.copytree(ROOT / "tests" / shared, folder / "tests" / shared, ignore=skip)
    for test in part.tests:
        place = folder / test
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / test).is_dir():
            shutil.copytree(ROOT / test, place, ignore=skip)
        else:
            shutil.copy(ROOT / test, place)
        for conftest in (ROOT / test).parent.glob("conftest.py"):
            shutil.copy(conftest, place.parent)
    (folder / "pyproject.toml").write_text(_settings(part), encoding="utf-8")


def _settings(part: Part) -> str:
    mutmut: dict[str, object] = {
        "source_paths": ["src"],
        "only_mutate": [f"src/{source}" for source in part.sources],
        "do_not_mutate_patterns": WORDS,
        "also_copy": ["protocol"],
    }
    pytest: dict[str, object] = {
        "addopts": ["--import-mode=importlib"],
        "pythonpath": ["tests"],
        "asyncio_mode": "auto",
        "asyncio_default_fixture_loop_scope": "function",
        "filterwarnings": ["error", "ignore::pytest.PytestAssertRewriteWarning"],
    }
    tables = {"tool.mutmut": mutmut, "tool.pytest.ini_options": pytest}
    return "\n".join(
        line
        for name, table in tables.items()
        for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), "")
    )
