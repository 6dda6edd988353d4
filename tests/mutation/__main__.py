"""Break the core on purpose, one place at a time, and see that a test notices: `make mutate ARGS="--only framing"`.

mutmut makes the mutants and runs them; it wants one source folder, so it works on a copy in `build/mutation`. A mutant
that no test notices must stand in `justified.toml` with the reason why it changes nothing that matters. Prints one
JSON line a part; exits with 1 when a survivor is not justified.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
WORK: Final = ROOT / "build" / "mutation"
JUSTIFIED: Final = Path(__file__).parent / "justified.toml"
WORDS: Final = [r"^\s*raise \w+\(", r"^\s*(message|hint|limit|field)="]
"""Not mutated: the words of an error. That it is raised, and which, is."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is mutated together, and by which tests it is judged."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


_PROTOCOL: Final = "tests/protocol/test_{}.py"
PARTS: Final = {
    "framing": Part(("tillstream_protocol/framing.py",), tuple(map(_PROTOCOL.format, ("framing", "framing_limits")))),
    "sealing": Part(
        ("tillstream_protocol/sealing.py", "tillstream_protocol/ranges.py", "tillstream_protocol/backoff.py"),
        tuple(map(_PROTOCOL.format, ("sealing", "ranges", "backoff"))),
    ),
    "signing": Part(("tillstream_protocol/signing.py",), tuple(map(_PROTOCOL.format, ("signing", "messages")))),
    "journal": Part(("tillstream_agent/journal/*",), ("tests/agent/journal",)),
    "sync": Part(("tillstream_agent/sync/*",), ("tests/agent/sync",)),
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: where, what stood there, and what stands there now."""

    where: str
    before: str
    after: str


def main() -> int:
    """Mutate the parts one after the other."""
    parser = argparse.ArgumentParser(prog="make mutate", description="Mutate the core and run its tests.")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="one part; may be given again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    missed = sum(_judge(name, PARTS[name], given.jobs) for name in given.only or PARTS)
    return 1 if missed else 0


def _judge(name: str, part: Part, jobs: int) -> int:
    """How many mutants of a part nothing noticed and nobody justified; 1 if it could not be judged."""
    folder = WORK / name
    _lay_out(folder, part)
    environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".hypothesis")}
    judging = [sys.executable, str(Path(__file__).parent / "judging.py"), str(folder), str(jobs), *part.tests]
    run = subprocess.run(judging, cwd=folder, env=environment, stdout=sys.stderr, check=False)
    found = folder / "verdicts.json"
    report = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {"verdicts": {}, "unnoticed": []}
    survivors = [Mutant(**one) for one in report["unnoticed"]]
    reasons = justified()
    open_ones = [mutant for mutant in survivors if mutant not in reasons]
    counts = Counter(report["verdicts"].values())
    print(json.dumps({"part": name, **counts, "justified": len(survivors) - len(open_ones)}), flush=True)
    for mutant in open_ones:
        print(f"{mutant.where}\n- {mutant.before}\n+ {mutant.after}", file=sys.stderr)
    return len(open_ones) if run.returncode == 0 and report["verdicts"] else 1


def _lay_out(folder: Path, part: Part) -> None:
    """One source folder, the tests that judge, and mutmut's settings."""
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
        copy = shutil.copytree if (ROOT / test).is_dir() else shutil.copy
        copy(ROOT / test, place)
        for conftest in (ROOT / test).parent.glob("conftest.py"):
            shutil.copy(conftest, place.parent)
    (folder / "tests" / "conftest.py").unlink(missing_ok=True)  # its last word would end mutmut's own process
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/{source}" for source in part.sources],
        "do_not_mutate_patterns": WORDS,
        "also_copy": ["protocol"],
        "pytest_add_cli_args_test_selection": list(part.tests),
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    pytest = ["[tool.pytest.ini_options]", 'addopts = ["--import-mode=importlib"]', 'pythonpath = ["tests"]']
    lines += "\n".join(["", "", *pytest, 'asyncio_mode = "auto"', ""])
    (folder / "pyproject.toml").write_text(f"[tool.mutmut]\n{lines}", encoding="utf-8")


def justified() -> set[Mutant]:
    listed = tomllib.loads(JUSTIFIED.read_text(encoding="utf-8")).get("mutant", []) if JUSTIFIED.exists() else []
    return {Mutant(one["where"], one["before"], one["after"]) for one in listed if one["why"]}


if __name__ == "__main__":
    sys.exit(main())
