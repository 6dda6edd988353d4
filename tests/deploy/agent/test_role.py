"""The Ansible role: what ansible-lint thinks of it, and that a second run changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.packages import (
    ROOT,
    Installed,
    as_root,
    asked_for,
    everybodys_python,
    needs,
    output,
    packages_of,
    report,
    scratch,
)
from support.serving import Server, serving
from tillstream_server import app
from tillstream_server.folder import Folder

ANSIBLE = ROOT / ".venv-ansible" / "bin"
HERE = ROOT / "deploy" / "agent" / "ansible"

pytestmark = [
    asked_for,
    pytest.mark.skipif(not (ANSIBLE / "ansible-lint").exists(), reason="`make check-deploy` sets up Ansible"),
]


def environment(home: Path) -> dict[str, str]:
    """Ansible's own programs first, and nothing of this user's settings."""
    names = {"PATH": f"{ANSIBLE}:{os.environ['PATH']}", "HOME": str(home), "LC_ALL": "C.UTF-8"}
    return names | {"ANSIBLE_ROLES_PATH": str(HERE / "roles"), "ANSIBLE_LOCALHOST_WARNING": "false"}


def test_ansible_lint_has_nothing_to_say_by_its_production_profile(tmp_path: Path) -> None:
    command: list[str | Path] = [
        ANSIBLE / "ansible-lint",
        "--offline",
        "--profile",
        "production",
        "--strict",
        "site.yml",
        "roles",
    ]
    said = output(*command, cwd=HERE, env=environment(tmp_path))
    assert re.search(r"Passed: 0 failure\(s\), 0 warning\(s\)", said), said


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A real one on a free port."""
    await app.init(Folder(tmp_path / "server"), "USD", os.urandom)
    async with serving(tmp_path / "server") as opened:
        yield opened


@needs("setpriv", "systemd-sysusers")
@as_root
async def test_a_second_run_changes_nothing(server: Server, tmp_path: Path) -> None:
    bundle = packages_of(tmp_path, "bundle")["bundle"]
    with scratch() as root:
        settings: dict[str, object] = {
            "tillstream_agent_package": str(bundle),
            "tillstream_agent_server": server.address,
            "tillstream_agent_token": await server.token(),
            "tillstream_agent_root": str(root),
            "tillstream_agent_python": everybodys_python(),
            "tillstream_agent_settings": {"hook": {"port": 0, "origins": ["https://pos.example"]}},
        }
        first = await asyncio.to_thread(play, settings, tmp_path)
        assert first["changed"] > 0
        shown = await Installed(root).runs("config", "show", "--json")
        values = {one["name"]: one["value"] for one in json.loads(shown)["settings"]}
        assert (values["hook.port"], values["hook.origins"]) == (0, ["https://pos.example"])
        identity = (root / "var/lib/tillstream-agent/identity.json").read_bytes()
        assert await asyncio.to_thread(play, settings, tmp_path) | {"ok": 0} == first | {"ok": 0, "changed": 0}
        assert (root / "var/lib/tillstream-agent/identity.json").read_bytes() == identity
        wrong = settings | {"tillstream_agent_settings": {"hook": {"port": 70_000}}}
        refused = await asyncio.to_thread(run, wrong, tmp_path)
        assert refused.returncode != 0
        assert "which is not a whole number from 0 to 65535" in refused.stdout
        assert "70000" not in (root / "etc/tillstream-agent/agent.toml").read_text()


def play(settings: dict[str, object], home: Path) -> dict[str, int]:
    """One run of the role on this machine: how many tasks were ok, changed, failed …"""
    start = time.monotonic()
    done = run(settings, home)
    assert done.returncode == 0, done.stdout + done.stderr
    recap = re.search(r"^localhost +: (.+)$", done.stdout, re.MULTILINE)
    assert recap is not None, done.stdout
    counts = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", recap[1])}
    report(role="tillstream_agent", seconds=round(time.monotonic() - start, 1), **counts)
    return counts


def run(settings: dict[str, object], home: Path) -> subprocess.CompletedProcess[str]:
    given = home / "settings.json"
    given.write_text(json.dumps({"ansible_python_interpreter": settings["tillstream_agent_python"], **settings}))
    playbook = home / "play.yml"
    playbook.write_text("- hosts: localhost\n  connection: local\n  roles: [tillstream_agent]\n")
    command: list[str | Path] = [
        ANSIBLE / "ansible-playbook",
        "--inventory",
        "localhost,",
        "--extra-vars",
        f"@{given}",
        playbook,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment(home), cwd=home, timeout=240)
