"""A bundle that installs without a network, on a till that has the right Python.

wheels/             every distribution, as its wheel, and pip's own
requirements.txt    their versions and hashes; what is not in it is not installed
files/              command, unit, user, settings, manual page, completion
made-for            the Python and the machine that the wheels are for, as `3.11 x86_64`
install.sh          checks SHA256SUMS, makes an environment of the agent's own, and puts the files in place
"""

from __future__ import annotations

import ensurepip
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from .stage import Release, Sources, place_common


def write_bundle(sources: Sources, work: Path, wheels: Path, pip: Path, release: Release, out: Path) -> Path:
    """The bundle as a .tar.gz in `out`. `wheels` has ours, `pip` is a Python with pip, which fetches the others.

    Raises `CalledProcessError`.
    """
    made_for = f"{sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}"
    name = f"tillstream-agent-{release.version}-bundle-py{made_for.replace(' ', '-')}"
    folder = work / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    pins = sources.root / "requirements" / "bundle.txt"
    _fetch(pip, pins, work / "wheelhouse")
    for wheel in (*sorted((work / "wheelhouse").glob("*.whl")), *ours(wheels), _pip_wheel()):
        shutil.copyfile(wheel, folder / "wheels" / wheel.name)
    own = "".join(
        f"{wheel.name.split('-')[0].replace('_', '-')}=={release.version} --hash=sha256:{_digest(wheel)}\n"
        for wheel in ours(wheels)
    )
    (folder / "requirements.txt").write_text(pins.read_text(encoding="utf-8") + own, encoding="utf-8")
    (folder / "made-for").write_text(f"{made_for}\n", encoding="ascii")
    place_common(sources, folder / "files")
    shutil.copyfile(sources.deploy / "bundle" / "install.sh", folder / "install.sh")
    (folder / "install.sh").chmod(0o755)
    _write_sums(folder)
    return _packed(folder, release.made_at, out / f"{name}.tar.gz")


def ours(wheels: Path) -> list[Path]:
    """The wheels of the workspace that a till needs."""
    return sorted(wheels.glob("tillstream_*.whl"))


def _fetch(pip: Path, pins: Path, to: Path) -> None:
    """Exactly what is pinned. What an earlier build has fetched is not fetched again."""
    stamp = to / ".pins"
    if stamp.exists() and stamp.read_bytes() == pins.read_bytes():
        return
    shutil.rmtree(to, ignore_errors=True)
    command = [str(pip), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(to), "--requirement", str(pins)]
    subprocess.run(command, check=True)
    stamp.write_bytes(pins.read_bytes())


def _pip_wheel() -> Path:
    """The one that this Python brings."""
    (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    return wheel


def _write_sums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = "".join(f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="ascii")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _packed(folder: Path, made_at: int, to: Path) -> Path:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = made_at
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with tarfile.open(to, "w:gz") as archive:
        archive.add(folder, folder.name, filter=plain)
    return to
