"""Packages are built, installed into an empty root, and the agent joins a server and sells from there as its own user.

Everything here is asked for by `make check-deploy`, which takes a minute or two.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.packages import (
    CONFINED,
    PACKAGER,
    Installed,
    arrived,
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

pytestmark = [asked_for, pytest.mark.skipif(not PACKAGER.exists(), reason="`make package` sets up its environment")]
DPKG = ("dpkg", "--force-script-chrootless", "--force-depends", "--force-not-root")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All of them, built in a folder that was empty."""
    return packages_of(tmp_path_factory.mktemp("dist"), "deb", "rpm", "bundle")


@pytest.fixture(scope="module", autouse=True)
def lintian(packages: dict[str, Path]) -> Iterator[subprocess.Popen[str] | None]:
    """It takes its time, so it runs beside the other tests; None where it is not installed."""
    if shutil.which("lintian") is None:
        yield None
        return
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", str(packages["deb"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        yield running
        running.kill()


@pytest.fixture(scope="module")
def till(packages: dict[str, Path]) -> Iterator[Installed]:
    """A root into which the .deb was installed, and nothing else."""
    with scratch() as root:
        for folder in ("updates", "info"):
            (root / "var/lib/dpkg" / folder).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        start = time.monotonic()
        output(*DPKG, f"--root={root}", "--install", packages["deb"])
        report(installed="deb", seconds=round(time.monotonic() - start, 1))
        yield Installed(root)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A real one on a free port."""
    await app.init(Folder(tmp_path / "server"), "USD", os.urandom)
    async with serving(tmp_path / "server") as opened:
        yield opened


@needs("dpkg", "systemd-sysusers", "setpriv")
@as_root
async def test_the_deb_runs_as_its_own_user_with_no_memory_both_written_and_run(
    till: Installed, server: Server
) -> None:
    assert till.state.stat().st_mode & 0o777 == 0o700
    assert (till.state.stat().st_uid, till.state.stat().st_gid) == till.user
    said = await till.runs("enroll", "--server", server.address, "--token", await server.token())
    assert "enrolled as till" in said
    async with till.serving(sys.executable, str(CONFINED)) as agent:
        await agent.sells("from the package")
        await arrived(server, 1)
        await agent.gives_a_sign_of_life()
        facts = agent.facts()
        report(running="deb", ready_s=round(agent.ready_s, 2), resident_kib=facts["VmRSS"], user=facts["Uid"])
        assert facts["Uid"] == till.user[0] != 0
        assert "online" in await till.runs("status")
    await till.runs("config", "check")


@needs("dpkg", "systemd-sysusers", "setpriv")
@as_root
def test_a_purge_keeps_the_queue_and_says_so(packages: dict[str, Path]) -> None:
    with scratch() as root:
        for folder in ("updates", "info"):
            (root / "var/lib/dpkg" / folder).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        output(*DPKG, f"--root={root}", "--install", packages["deb"])
        queue = root / "var/lib/tillstream-agent/journal/a.chunk"
        queue.parent.mkdir()
        queue.write_bytes(b"sealed")
        said = output(*DPKG, f"--root={root}", "--purge", "tillstream-agent")
        assert queue.read_bytes() == b"sealed"
        assert f"the till's queue and keys are kept in {queue.parent.parent}" in said
        assert not (root / "usr/lib/tillstream-agent").exists()
        assert not (root / "etc/tillstream-agent/agent.toml").exists()


@needs("rpm")
def test_the_rpm_holds_what_the_deb_holds(packages: dict[str, Path]) -> None:
    ask = ("rpm", "--query", "--package", packages["rpm"])
    listed = set(output(*ask, "--list").split("\n"))
    packed = {line.split()[-1].removeprefix(".") for line in output("dpkg", "-c", packages["deb"]).splitlines()}
    assert "/usr/lib/tillstream-agent/tillstream-agent" in listed
    assert {path for path in packed if not path.endswith("/")} <= listed
    assert "/etc/tillstream-agent/agent.toml" in output(*ask, "--configfiles")
    assert "systemd-sysusers" in output(*ask, "--scripts")
    assert "glibc >= 2." in output(*ask, "--requires")


@needs("rpm")
@as_root
def test_the_rpm_installs_and_runs_where_nothing_else_is(packages: dict[str, Path]) -> None:
    with scratch() as root:
        output("rpm", f"--root={root}", "--install", "--nodeps", "--noscripts", packages["rpm"])
        program = root / "usr/lib/tillstream-agent/tillstream-agent"
        assert output("env", "-i", program, "--version").startswith("tillstream-agent ")


@needs("unshare", "setpriv", "systemd-sysusers")
@as_root
async def test_the_bundle_installs_without_a_network_and_keeps_the_settings(
    packages: dict[str, Path], server: Server, tmp_path: Path
) -> None:
    output("tar", "-xzf", packages["bundle"], "-C", tmp_path)
    (folder,) = tmp_path.glob("tillstream-agent-*")
    offline = ("unshare", "--net", "env", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin")
    with scratch() as root:
        settings = root / "etc/tillstream-agent/agent.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text("[log]\nlevel = 'debug'\n")
        start = time.monotonic()
        said = output(*offline, folder / "install.sh", "--root", root, "--python", everybodys_python())
        report(installed="bundle", seconds=round(time.monotonic() - start, 1), network="none")
        assert "next, as root: tillstream-agent enroll" in said
        till = Installed(root)
        await till.runs("enroll", "--server", server.address, "--token", await server.token())
        async with till.serving() as agent:
            await agent.sells("from the bundle")
            await arrived(server, 1)
            report(running="bundle", ready_s=round(agent.ready_s, 2), resident_kib=agent.facts()["VmRSS"])
        assert settings.read_text() == "[log]\nlevel = 'debug'\n"


@needs("unshare")
@as_root
def test_a_bundle_that_was_altered_installs_nothing(packages: dict[str, Path], tmp_path: Path) -> None:
    output("tar", "-xzf", packages["bundle"], "-C", tmp_path)
    (folder,) = tmp_path.glob("tillstream-agent-*")
    (wheel,) = (folder / "wheels").glob("tillstream_agent-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"more")
    with scratch() as root:
        done = subprocess.run(
            [folder / "install.sh", "--root", root, "--python", sys.executable], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "this bundle is damaged" in done.stderr
        assert list(root.iterdir()) == []


@needs("lintian")
def test_lintian_finds_no_error_and_no_warning(lintian: subprocess.Popen[str]) -> None:
    said, _ = lintian.communicate(timeout=900)
    assert (lintian.returncode, said) == (0, "")
