"""What Windows' tools are told to make of the agent, and what is read from what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import pytest

from tillstream_agent.cli import main
from tillstream_agent.service import ACCOUNT, NAME, Plan, Service, ServiceError, perform, state_of

PLAN = Plan(
    PureWindowsPath(r"C:\Program Files\Tillstream\tillstream-agent.exe"),
    PureWindowsPath(r"C:\ProgramData\Tillstream\agent"),
    PureWindowsPath(r"C:\ProgramData\Tillstream\agent.toml"),
)
ENGLISH = "\r\nSERVICE_NAME: TillstreamAgent \r\n        TYPE               : 10  WIN32_OWN_PROCESS  \r\n"
ENGLISH += "        STATE              : {}  \r\n        WIN32_EXIT_CODE    : 0  (0x0)\r\n"
GERMAN = ENGLISH.replace("STATE ", "STATUS").replace("TYPE", "TYP ")


class Tools:
    """Windows' tools: they keep what they were told, and answer by the second word of a command."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.said = ""
        self.told: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        self.told.append(list(command))
        word = command[0].removesuffix(".exe") if command[0] == "icacls.exe" else command[1]
        return self.codes.get(word, 0), self.said

    def words(self) -> list[str]:
        return [command[1] if command[0] == "sc.exe" else command[0] for command in self.told]


def test_paths_with_spaces_are_one_word_of_the_command_line() -> None:
    assert PLAN.command_line() == (
        r'"C:\Program Files\Tillstream\tillstream-agent.exe" service run --state C:\ProgramData\Tillstream\agent '
        r"--config C:\ProgramData\Tillstream\agent.toml"
    )


def test_it_runs_as_its_own_account_with_one_right_and_begins_again_after_a_failure() -> None:
    tools = Tools()
    assert NAME in Service(tools).install(PLAN)
    create, _, failure, flag, rights, access = tools.told
    assert create[create.index("obj=") + 1] == ACCOUNT
    assert create[create.index("start=") + 1] == "delayed-auto"
    assert failure[-1].count("restart/") == 3
    assert flag[-1] == "1"
    assert rights[-1] == "SeChangeNotifyPrivilege"
    assert "/inheritance:r" in access
    assert access[1] == str(PLAN.state)
    assert not any("S-1-1-0" in word or "Users" in word for word in access)


def test_what_could_be_made_in_part_is_taken_back() -> None:
    tools = Tools(icacls=5)
    with pytest.raises(ServiceError) as caught:
        Service(tools).install(PLAN)
    assert caught.value.hint == "run it as administrator"
    assert tools.told[-1] == ["sc.exe", "delete", NAME]


def test_installed_twice_is_told_of_and_leaves_the_first() -> None:
    tools = Tools(create=1073)
    with pytest.raises(ServiceError, match="1073") as caught:
        Service(tools).install(PLAN)
    assert "uninstall it first" in str(caught.value.hint)
    assert tools.words() == ["create"]


def test_started_or_stopped_twice_is_no_trouble() -> None:
    assert Service(Tools(start=1056)).start() == "started"
    assert Service(Tools(stop=1062)).stop() == "stopped"
    with pytest.raises(ServiceError):
        Service(Tools(start=1060)).start()
    with pytest.raises(ServiceError):
        Service(Tools(stop=5)).stop()


def test_uninstalled_it_is_stopped_first_running_or_not() -> None:
    tools = Tools(stop=1062)
    assert "kept" in Service(tools).uninstall()
    assert tools.words() == ["stop", "delete"]


@pytest.mark.parametrize("language", [ENGLISH, GERMAN])
@pytest.mark.parametrize(("number", "state"), [("4  RUNNING", "running"), ("1  STOPPED", "stopped")])
def test_its_state_is_read_in_any_language(language: str, number: str, state: str) -> None:
    assert state_of(language.format(number)) == state


def test_its_state_where_it_is_not_there_or_cannot_be_read() -> None:
    tools = Tools(query=1060)
    assert Service(tools).status() == "not installed"
    tools.codes = {}
    tools.said = "nothing that we know"
    assert Service(tools).status() == "unknown"
    with pytest.raises(ServiceError):
        Service(Tools(query=5)).status()


def test_installing_makes_the_state_folder(tmp_path: Path) -> None:
    tools = Tools()
    perform(Service(tools), "install", tmp_path / "agent.exe", tmp_path / "state", None)
    assert (tmp_path / "state").is_dir()
    assert perform(Service(tools), "start", tmp_path / "agent.exe", tmp_path / "state", None) == "started"


@pytest.mark.parametrize("action", ["install", "status", "run"])
def test_elsewhere_the_command_names_the_systems_own(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", action, "--state", str(tmp_path)]) == 2
    assert "systemctl status tillstream-agent" in capsys.readouterr().err
