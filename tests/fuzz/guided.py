"""One target under libFuzzer: `python -m fuzz.guided TARGET [libFuzzer's flags]`. `python -m fuzz` starts it."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["tillstream_protocol", "tillstream_agent", "tillstream_server"]):
    from .targets import TARGETS


def main() -> None:
    """Run until libFuzzer ends the process."""
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
