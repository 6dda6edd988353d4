"""Fuzz with coverage as the guide: `make fuzz ARGS="--runs 1000000 --only frames"`.

Each target runs in a process of its own under atheris (libFuzzer), with one second for an input and a bound on memory.
What it finds on the way to new code is kept in `corpus/` with `--keep`. Prints one JSON line a target; exits with 1
when a target failed, and then says which input did it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from . import corpus
from .targets import TARGETS

LONGEST: Final = 16_384
MEMORY_MB: Final = 512
"""Of the whole process; its resting size is printed beside the peak."""
_STAT: Final = re.compile(r"stat::(\w+):\s+(\d+)")
_RESTING: Final = re.compile(r"INITED.* rss: (\d+)Mb")


def main() -> int:
    """Run the targets one after the other."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz every reader of foreign bytes.")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs a target (100,000)")
    parser.add_argument("--seconds", type=int, default=0, help="at most this long a target")
    parser.add_argument("--only", choices=sorted(TARGETS), help="one target")
    parser.add_argument("--keep", action="store_true", help="add what is found to the corpus")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    names = [given.only] if given.only else list(TARGETS)
    failures = sum(_run(name, given) for name in names)
    return 1 if failures else 0


def _run(name: str, given: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "corpus"
        found.mkdir()
        for number, data in enumerate(corpus.inputs(name)):
            (found / f"{number:05d}").write_bytes(data)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "fuzz.guided", name, f"-runs={given.runs}", f"-max_total_time={given.seconds}"),
                *("-timeout=1", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={LONGEST}", f"-seed={given.seed}"),
                *("-print_final_stats=1", f"-artifact_prefix={folder}/failed-", str(found)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        stats = dict(_STAT.findall(done.stderr))
        failed = [file.read_bytes().hex() for file in Path(folder).glob("failed-*")]
        report = {
            "target": name,
            "runs": int(stats.get("number_of_executed_units", 0)),
            "per_second": int(stats.get("average_exec_per_sec", 0)),
            "slowest_s": int(stats.get("slowest_unit_time_sec", 0)),
            "resting_rss_mb": int(next(iter(_RESTING.findall(done.stderr)), 0)),
            "peak_rss_mb": int(stats.get("peak_rss_mb", 0)),
            "violations": len(failed),
        }
        if given.keep and not failed:
            report["kept"] = corpus.keep(name, (file.read_bytes() for file in found.iterdir()))
    print(json.dumps(report), flush=True)
    if failed or done.returncode:
        sys.stderr.write(f"{done.stderr[-4000:]}\n{name} failed on: {' '.join(failed)}\n")
    return bool(failed or done.returncode)


if __name__ == "__main__":
    sys.exit(main())
