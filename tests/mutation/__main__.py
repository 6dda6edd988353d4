"""Break the core on purpose, one place at a time, and see that a test notices: `make mutate ARGS="--only framing"`.

Works on a copy of the code in `build/mutation`; `judging` makes the mutants of a part there and runs its tests in them.
A mutant that no test notices must stand in `justified.toml` with the reason why it changes nothing that matters. Prints
one JSON line a part; exits with 1 when a survivor is not justified.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from mutation.justified import Mutant, justified
from mutation.parts import ONLY, PARTS, ROOT, UNNOTICED, VERDICTS, Part, lay_out


def main() -> int:
    """Mutate the parts one after the other."""
    parser = argparse.ArgumentParser(prog="make mutate", description="Mutate the core and run its tests.")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="one part; may be given again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "mutation", help="where to work")
    parser.add_argument("--again", action="store_true", help="only what nothing noticed the last time")
    given = parser.parse_args()
    missed = 0
    for name in given.only or PARTS:
        folder = given.folder / name
        former = _unnoticed(folder / VERDICTS) if given.again else []
        lay_out(folder, PARTS[name])
        if former:
            (folder / ONLY).write_text(json.dumps(former), encoding="utf-8")
        missed += _judge(name, PARTS[name], folder, given.jobs)
    return 1 if missed else 0


def _unnoticed(verdicts: Path) -> list[str]:
    told = json.loads(verdicts.read_text(encoding="utf-8"))["verdicts"] if verdicts.exists() else {}
    return [mutant for mutant, verdict in told.items() if verdict in UNNOTICED]


def _judge(name: str, part: Part, folder: Path, jobs: int) -> int:
    """How many mutants of a part nothing noticed and nobody justified; 1 if it could not be judged."""
    judging = [sys.executable, str(Path(__file__).parent / "judging.py"), str(jobs), *part.tests]
    run = subprocess.run(judging, cwd=folder, stdout=sys.stderr, check=False)  # where mutmut looks for its settings
    found = folder / VERDICTS
    if run.returncode != 0 or not found.exists():
        print(f"{name} could not be judged", file=sys.stderr)
        return 1
    report = json.loads(found.read_text(encoding="utf-8"))
    survivors = [Mutant(**one) for one in report["unnoticed"]]
    reasons = justified()
    open_ones = [mutant for mutant in survivors if mutant not in reasons]
    counts = Counter(report["verdicts"].values())
    print(json.dumps({"part": name, **counts, "justified": len(survivors) - len(open_ones)}), flush=True)
    for mutant in open_ones:
        print(f"{mutant.where}\n- {mutant.before}\n+ {mutant.after}", file=sys.stderr)
    return len(open_ones)


if __name__ == "__main__":
    sys.exit(main())
