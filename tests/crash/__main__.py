"""`make crash ARGS="CAMPAIGN …"`: one campaign of kills and power cuts, or each in turn.

Without ARGS each runs once in its usual size; all of it ends by itself within about an hour on a small machine. What
follows a campaign's name goes to it; `--help` there says what it takes.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

CAMPAIGNS: Final = {
    "journal": ["model.journal_campaign", "all"],
    "kills": ["crash.kills"],
    "calls": ["crash.calls"],
    "syscalls": ["crash.syscalls"],
    "replies": ["crash.replies"],
    "server-power": ["model.server_power"],
    "keys": ["model.key_loss"],
    "heavy-start": ["crash.heavy_start"],
}


def main() -> int:
    """Run what is asked for. Returns 1 if a promise was broken, 2 for a campaign that there is not."""
    asked = sys.argv[1:]
    if not asked:
        return max([_run(module, more) for module, *more in CAMPAIGNS.values()])
    if asked[0] not in CAMPAIGNS:
        sys.stderr.write(f"there is no campaign {asked[0]!r}; there are {', '.join(CAMPAIGNS)}\n")
        return 2
    module, *more = CAMPAIGNS[asked[0]]
    return _run(module, asked[1:] or more)


def _run(module: str, arguments: list[str]) -> int:
    sys.stderr.write(f"== {module} {' '.join(arguments)}\n")
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
