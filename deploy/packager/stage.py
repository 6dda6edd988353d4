"""The tree that a package puts on a till, and nfpm's description of it.

    /usr/bin/tillstream-agent                   the command, as people type it
    /usr/lib/tillstream-agent/                  the agent with its Python
    /usr/lib/systemd/system/, sysusers.d/       how it runs, and as whom
    /etc/tillstream-agent/agent.toml            its settings; a change by hand outlives an upgrade
    /usr/share/…                                manual page, completion, licences

State is not part of it: the unit and the scripts make /var/lib/tillstream-agent, and no package ever removes it.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from .freeze import NAME, copy_licences, needed_glibc
from .texts import squeezed, write_texts

SETTINGS: Final = "etc/tillstream-agent/agent.toml"
LIBRARY: Final = f"usr/lib/{NAME}"
MAINTAINER: Final = "The Tillstream authors <tillstream@tillstream.invalid>"
REVISION: Final = "1"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm7"}
_DOCS: Final = f"usr/share/doc/{NAME}"


@dataclass(frozen=True, slots=True)
class Release:
    """What is packaged."""

    version: str
    made_at: int
    """When the sources were last changed, in seconds since 1970: the time of every file of a package."""

    @property
    def made(self) -> datetime:
        """The same, in UTC."""
        return datetime.fromtimestamp(self.made_at, UTC)

    def debian(self) -> str:
        """Debian's own changelog of a package that follows another one."""
        signed = f" -- {MAINTAINER}  {format_datetime(self.made)}"
        return f"{NAME} ({self.version}-{REVISION}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n{signed}\n"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the repository's parts lie."""

    root: Path

    @property
    def deploy(self) -> Path:
        """What is packaged beside the agent itself."""
        return self.root / "deploy" / "agent"


def place_common(sources: Sources, tree: Path) -> None:
    """What packages and bundle have in common: command, unit, user, settings, manual page, completion."""
    deploy = sources.deploy
    for origin, place, mode in (
        (deploy / "tillstream-agent.sh", f"usr/bin/{NAME}", 0o755),
        (deploy / "systemd" / f"{NAME}.service", f"usr/lib/systemd/system/{NAME}.service", 0o644),
        (deploy / "sysusers" / f"{NAME}.conf", f"usr/lib/sysusers.d/{NAME}.conf", 0o644),
        (deploy / "etc" / "agent.toml", SETTINGS, 0o644),
    ):
        target = tree / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, target)
        target.chmod(mode)
    write_texts(tree)


def place_packaged(sources: Sources, tree: Path, frozen: Path, shipped: frozenset[str], release: Release) -> None:
    """What packages have beyond: the frozen agent, the licences of `shipped`, and what Debian's policy asks for."""
    shutil.copytree(frozen, tree / LIBRARY, symlinks=True)
    docs = tree / _DOCS
    copy_licences(docs / "licences", shipped)
    shutil.copyfile(sources.deploy / "debian" / "copyright", docs / "copyright")
    (docs / "changelog.gz").write_bytes(squeezed((sources.root / "CHANGELOG.md").read_bytes()))
    (docs / "changelog.Debian.gz").write_bytes(squeezed(release.debian().encode()))
    overrides = tree / "usr/share/lintian/overrides" / NAME
    overrides.parent.mkdir(parents=True)
    shutil.copyfile(sources.deploy / "debian" / "lintian-overrides", overrides)


def description(sources: Sources, tree: Path, release: Release) -> str:
    """What nfpm is to build, as JSON, which is YAML too."""
    glibc = needed_glibc(tree / LIBRARY)
    files = [path for path in sorted(tree.rglob("*")) if path.is_symlink() or not path.is_dir()]
    made = release.made.strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {
        "name": NAME,
        "arch": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "version": release.version,
        "release": REVISION,
        "section": "net",
        "priority": "optional",
        "maintainer": MAINTAINER,
        "vendor": "Tillstream",
        "license": "Apache-2.0",
        "description": _DESCRIPTION,
        "mtime": made,
        "contents": [_content(tree, path, made) for path in files],
        "overrides": {
            "deb": {
                "depends": [f"libc6 (>= {glibc})", "init-system-helpers (>= 1.52)", "systemd (>= 247)"],
                "scripts": _scripts(sources.deploy / "debian", "postinst", "prerm", "postrm"),
            },
            "rpm": {
                "depends": [f"glibc >= {glibc}", "systemd", "util-linux"],
                "scripts": _scripts(sources.deploy / "rpm", "postinstall", "preremove", "postremove"),
            },
        },
        "deb": {"compression": "gzip"},
        "rpm": {"compression": "gzip", "summary": "Tillstream agent of one till"},
    }
    return json.dumps(told, indent=1)


def _scripts(folder: Path, after: str, before_removal: str, after_removal: str) -> dict[str, str]:
    names = {"postinstall": after, "preremove": before_removal, "postremove": after_removal}
    return {when: str(folder / name) for when, name in names.items()}


_DESCRIPTION: Final = """Tillstream agent of one till
Captures what happens at a till without slowing it down, keeps it in a sealed
local queue, syncs it to the retailer's own server, and shows the cashier the
offers that come back.
"""


def _content(tree: Path, path: Path, made: str) -> dict[str, object]:
    place = f"/{path.relative_to(tree).as_posix()}"
    if path.is_symlink():
        return {"src": str(path.readlink()), "dst": place, "type": "symlink", "file_info": {"mtime": made}}
    kind = {"type": "config|noreplace"} if place == f"/{SETTINGS}" else {}
    mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    owned = {"mode": mode, "owner": "root", "group": "root", "mtime": made}
    return {"src": str(path), "dst": place, "file_info": owned, **kind}
