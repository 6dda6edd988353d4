"""The Windows installer, as far as it can be looked at without Windows: what wixl makes of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from packager.msi import NoProgram, build, description
from support.packages import needs, output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What PyInstaller would leave on Windows, in little."""
    inside = tmp_path / "tillstream-agent" / "_internal" / "lib"
    inside.mkdir(parents=True)
    (inside / "b.pyd").write_bytes(b"library")
    (inside.parent / "a name with spaces.json").write_bytes(b"{}")
    (inside.parent.parent / "tillstream-agent.exe").write_bytes(b"program")
    return inside.parent.parent


def test_a_folder_without_the_agent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoProgram, match=r"no tillstream-agent\.exe"):
        description(tmp_path, "1.0.0")


def test_a_file_keeps_its_ids_from_version_to_version(folder: Path) -> None:
    first = description(folder, "1.0.0")
    (folder / "_internal" / "new.pyd").touch()
    second = description(folder, "1.1.0")
    guids = re.compile(r'Component Id="(\w+)" Guid="([\w-]+)"')
    kept = set(guids.findall(first))
    assert len(kept) == 3
    assert kept < set(guids.findall(second))
    code = re.compile(r'UpgradeCode="([\w-]+)"')
    assert code.findall(first) == code.findall(second) != []


@needs("wixl", "msiinfo")
def test_wixl_makes_an_installer_that_makes_the_service_last_and_ends_it_first(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "agent.msi"
    build(folder, "1.0.0", made)

    def table(name: str) -> dict[str, list[str]]:
        rows = [line.split("\t") for line in output("msiinfo", "export", made, name).splitlines()[3:]]
        return {row[0]: row[1:] for row in rows}

    assert {row[1] for row in table("File").values()} == {"tillstream-agent.exe", "b.pyd", "a name with spaces.json"}
    steps = {name: int(row[1]) for name, row in table("InstallExecuteSequence").items()}
    assert steps["RemoveExistingProducts"] < steps["InstallFiles"] < steps["ServiceInstall"]
    assert steps["ServiceRemove"] < steps["RemoveFiles"]
    assert {name: row[2] for name, row in table("CustomAction").items()} == {
        "ServiceInstall": "service install",
        "ServiceRemove": "service uninstall",
    }
