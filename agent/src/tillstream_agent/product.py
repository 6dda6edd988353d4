"""The commands of whoever installs agents: `config show | check`, `clone-reset`, `service`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from typing import Protocol

import msgspec

from tillstream_protocol.arguments import whole

from . import config_show
from .clone import Forgotten, reset
from .config import lowered_in_words, read, standing
from .folder import Folder, default_folder
from .remote import peek
from .service import ACTIONS, act, run_service

Commands = argparse._SubParsersAction  # the type of what add_subparsers returns has no public name


class AddCommand(Protocol):
    """Adds a command that has `--state` and `--config`."""

    def __call__(
        self,
        commands: Commands[argparse.ArgumentParser],
        name: str,
        command: Callable[[argparse.Namespace], int],
        text: str,
        /,
    ) -> argparse.ArgumentParser: ...


def add_commands(commands: Commands[argparse.ArgumentParser], add: AddCommand) -> None:
    """Add them to a command line."""
    text = "the settings: what holds and where it comes from, and whether it can be meant"
    parts = commands.add_parser("config", help=text, description=text).add_subparsers(required=True, metavar="COMMAND")
    showing = add(parts, "show", _show, "every setting with its value, and where that comes from")
    showing.add_argument("--redact", action="store_true", help="without hosts and folders, so that it can be passed on")
    checking = add(parts, "check", _check, "name every setting that cannot be meant; exit code 2 if there is one")
    text = "forget which till this is, before an image is made of this machine; refused while anything is queued"
    resetting = add(commands, "clone-reset", _clone_reset, text)
    resetting.add_argument(
        "--discard", type=whole(0), metavar="N", help="throw away the N records and damaged files that no server has"
    )
    text = "the agent as a service of Windows; elsewhere the system's own tools do this"
    serving = add(commands, "service", _service, text)
    serving.add_argument("action", choices=(*ACTIONS, "run"), metavar="ACTION", help=", ".join(ACTIONS))
    for command in (showing, checking, resetting):
        command.add_argument("--json", action="store_true", help="print JSON")


def _folder(given: argparse.Namespace) -> Folder:
    return Folder(given.state if given.state is not None else default_folder())


def _show(given: argparse.Namespace) -> int:
    reading = read(given.config, remote=peek(_folder(given)))
    if reading.wrong:
        raise reading.wrong[0]
    shown = config_show.lines(reading, redact=given.redact)
    _print_json({"settings": shown}) if given.json else print(config_show.in_words(shown))
    return 0


def _check(given: argparse.Namespace) -> int:
    reading = read(given.config, remote=peek(_folder(given)))
    wrong = config_show.wrongs(reading)
    where = reading.file if reading.file is not None else "no file"
    if given.json:
        _print_json({"wrong": wrong, "lowered": reading.config.lowered})
    elif wrong:
        print(config_show.wrongs_in_words(wrong))
    else:
        print(f"the settings can be meant: {len(reading.origins)} are not at their default ({where})")
        for sentence in lowered_in_words(reading.config):
            print(sentence)
    if wrong:
        raise config_show.error_of(wrong)
    return 0


def _clone_reset(given: argparse.Namespace) -> int:
    folder = _folder(given)
    done = asyncio.run(reset(folder, discard=given.discard))
    _print_json(done) if given.json else print(_reset_in_words(folder, done))
    if done.discarded:
        print(f"tillstream-agent: {done.discarded} records or damaged files were thrown away", file=sys.stderr)
    return 0


def _service(given: argparse.Namespace) -> int:
    folder = _folder(given)
    if given.action == "run":
        run_service(folder, standing(given.config))
    else:
        print(act(given.action, folder.path, given.config))
    return 0


def _reset_in_words(folder: Folder, done: Forgotten) -> str:
    if not done.removed:
        return f"{folder.path} holds no till; an image can be made"
    return f"removed {', '.join(done.removed)} from {folder.path}; an image can be made, and each copy is to enrol anew"


def _print_json(value: object) -> None:
    print(msgspec.json.encode(value).decode())
