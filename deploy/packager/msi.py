"""The Windows installer: from a folder that PyInstaller made on Windows to an .msi, by wixl, on any system.

    python -m packager.msi FOLDER VERSION OUT

Which files there are is read from the folder. Every id is derived from a path, so that the same file keeps its
component from version to version, as Windows Installer wants it. State is no part of it: the service's folder is made
by `tillstream-agent service install`, which the installer calls, and no removal takes it.

The description is compiled and looked into by a test. The installer has not been run on Windows yet.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

NAMESPACE: Final = uuid.UUID("6d2d3a4e-1c0f-4b52-9c86-0d3f4f0f7a11")
"""For every id of this product; a change makes Windows take it for another product."""
PROGRAM: Final = "tillstream-agent.exe"
_WIX: Final = "http://schemas.microsoft.com/wix/2006/wi"


class NoProgram(Exception):
    """The folder holds no agent for Windows."""


def description(folder: Path, version: str) -> str:
    """What wixl is to build of a folder. Raises `NoProgram`."""
    if not (folder / PROGRAM).is_file():
        raise NoProgram(f"there is no {PROGRAM} in {folder}")
    wix = Element("Wix", xmlns=_WIX)
    product = SubElement(
        wix,
        "Product",
        Name="Tillstream agent",
        Id="*",
        UpgradeCode=_guid("upgrade"),
        Language="1033",
        Version=version,
        Manufacturer="Tillstream",
    )
    SubElement(product, "Package", InstallerVersion="500", Compressed="yes", InstallScope="perMachine")
    SubElement(product, "Media", Id="1", Cabinet="agent.cab", EmbedCab="yes")
    upgrade = SubElement(product, "Upgrade", Id=_guid("upgrade"))
    SubElement(upgrade, "UpgradeVersion", Minimum="0.0.0", Maximum=version, IncludeMaximum="yes", Property="OLDER")
    SubElement(upgrade, "UpgradeVersion", Minimum=version, IncludeMinimum="no", OnlyDetect="yes", Property="NEWER")
    SubElement(product, "Condition", Message="A newer Tillstream agent is installed.").text = "NOT NEWER"
    components = list(_tree(product, folder))
    feature = SubElement(product, "Feature", Id="Agent", Level="1")
    for component in components:
        SubElement(feature, "ComponentRef", Id=component)
    _service(product)
    indent(wix)
    return tostring(wix, encoding="unicode", xml_declaration=True)


def build(folder: Path, version: str, out: Path) -> None:
    """Write the installer to `out`. Raises `NoProgram` or `CalledProcessError`."""
    source = out.with_suffix(".wxs")
    source.write_text(description(folder, version), encoding="utf-8")
    command = ["wixl", "--arch", "x64", "--output", str(out.absolute()), str(source.absolute())]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "G_DEBUG": "fatal-criticals"})


def _tree(product: Element, folder: Path) -> Iterator[str]:
    """The folders below Program Files, with a component for each file; their ids."""
    target = SubElement(product, "Directory", Id="TARGETDIR", Name="SourceDir")
    programs = SubElement(target, "Directory", Id="ProgramFiles64Folder")
    root = SubElement(programs, "Directory", Id="INSTALLDIR", Name="Tillstream")
    places = {PurePosixPath("."): root}
    for path in sorted(folder.rglob("*")):
        name = PurePosixPath(path.relative_to(folder).as_posix())
        inside = places[name.parent]
        if path.is_dir():
            places[name] = SubElement(inside, "Directory", Id=_id("d", name), Name=path.name)
            continue
        component = _id("c", name)
        held = SubElement(inside, "Component", Id=component, Guid=_guid(str(name)), Win64="yes")
        file = "AGENT" if str(name) == PROGRAM else _id("f", name)
        SubElement(held, "File", Id=file, Name=path.name, Source=str(name), KeyPath="yes")
        yield component


def _service(product: Element) -> None:
    """Make the service once its files are there, and end it before they go."""
    for name, command, result in (("Install", "service install", "check"), ("Remove", "service uninstall", "ignore")):
        told = {"FileKey": "AGENT", "ExeCommand": command, "Execute": "deferred", "Impersonate": "no"}
        SubElement(product, "CustomAction", {"Id": f"Service{name}", "Return": result, **told})
    sequence = SubElement(product, "InstallExecuteSequence")
    # Files come at 4000 and go at 3500; the former version goes before, since its removal takes its service along.
    # Steps are numbered, since wixl puts "after" and "before" anywhere that fits.
    SubElement(sequence, "RemoveExistingProducts", Sequence="1501")
    SubElement(sequence, "Custom", Action="ServiceInstall", Sequence="4001").text = "NOT Installed"
    SubElement(sequence, "Custom", Action="ServiceRemove", Sequence="3499").text = 'REMOVE="ALL"'


def _id(kind: str, name: PurePosixPath) -> str:
    """An identifier of at most 72 characters, as Windows Installer has them."""
    plain = re.sub(r"\W", "_", name.name, flags=re.ASCII)[:40]
    return f"{kind}{uuid.uuid5(NAMESPACE, str(name)).hex[:16]}_{plain}"


def _guid(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, name)).upper()


if __name__ == "__main__":
    build(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
