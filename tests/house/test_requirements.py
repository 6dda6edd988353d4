"""What gets installed is pinned, vouched for by hashes, and no more than each side needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from house.tree import ROOT

REQUIREMENT = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;\\]+)(?: ; [^\\]+?)?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)$"
)
FILES = sorted((ROOT / "requirements").glob("*.txt"))


def logical_lines(path: Path) -> list[str]:
    return re.sub(r" *\\\n *", " ", path.read_text(encoding="utf-8")).splitlines()


def pins(path: Path) -> set[tuple[str, str]]:
    return {(found["name"], found["version"]) for line in logical_lines(path) if (found := REQUIREMENT.match(line))}


def names(path: Path) -> set[str]:
    return {name for name, _ in pins(path)}


def asked_for(part: str) -> set[str]:
    project = tomllib.loads((ROOT / part / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = (re.match(r"[A-Za-z0-9._-]+", one) for one in project["dependencies"])
    return {one[0].lower() for one in found if one is not None and not one[0].startswith("tillstream-")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_line_is_a_name_a_version_and_hashes_and_nothing_else(path: Path) -> None:
    assert [line for line in logical_lines(path) if not REQUIREMENT.match(line)] == []
    assert pins(path)


def test_there_is_a_file_for_each_environment() -> None:
    tools = {"ansible", "bench", "build", "bundle", "deploy-server", "fuzz", "grafana", "mutate", "package", "tryton"}
    assert {path.stem for path in FILES} == tools | {"agent", "bootstrap", "dev", "server", "test"}


@pytest.mark.parametrize("part", ["agent", "server"])
def test_a_side_gets_what_it_and_the_protocol_ask_for(part: str) -> None:
    assert asked_for(part) | asked_for("protocol") <= names(ROOT / "requirements" / f"{part}.txt")


@pytest.mark.parametrize("name", ["agent", "bundle", "server", "test"])
def test_what_ships_is_what_was_tested(name: str) -> None:
    assert pins(ROOT / "requirements" / f"{name}.txt") <= pins(ROOT / "requirements" / "dev.txt")


def test_packages_and_bundle_hold_the_same_versions() -> None:
    assert pins(ROOT / "requirements" / "bundle.txt") <= pins(ROOT / "requirements" / "package.txt")
    assert names(ROOT / "requirements" / "bundle.txt") - names(ROOT / "requirements" / "agent.txt") == {"uvloop"}


def test_the_agent_asks_for_nothing_that_only_the_server_needs() -> None:
    servers_own = asked_for("server") - asked_for("agent") - asked_for("protocol")
    assert {"alembic", "sqlalchemy"} <= servers_own
    assert servers_own.isdisjoint(names(ROOT / "requirements" / "agent.txt"))
