"""A boot has an id that stays the same until the next one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tillstream_agent.boot import boot_id


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms name no boot")
def test_a_boot_is_named_and_stays_the_same() -> None:
    assert boot_id()
    assert boot_id() == boot_id()


def test_where_the_platform_names_none_there_is_none(tmp_path: Path) -> None:
    assert boot_id(tmp_path / "none") is None
    (tmp_path / "empty").write_bytes(b"\n")
    assert boot_id(tmp_path / "empty") is None
    (tmp_path / "odd").write_bytes(b"\xff\n")
    assert boot_id(tmp_path / "odd") is None
