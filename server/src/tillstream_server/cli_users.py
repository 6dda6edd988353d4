"""The commands of `tillstream-server` that say who may sign in to the console."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import users
from .cli_fleet import Tools

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_users(user: Commands, tools: Tools) -> None:
    """`user create | list | remove | password`."""
    one = tools.leaf(user, "create", "let somebody sign in", tools.order(users.UserCreate))
    _name(one, tools)
    one.add_argument("--role", required=True, choices=sorted(users.ROLES))
    one.add_argument("--retailer", type=tools.word, help="only this retailer (default: every one)")
    one.add_argument("--store", type=tools.word, help="only this store of it")
    _password(one, tools)
    tools.leaf(user, "list", "list them", tools.order(users.UserList, "users"))
    _name(tools.leaf(user, "remove", "let somebody in no more", tools.order(users.UserRemove)), tools)
    one = tools.leaf(user, "password", "give somebody another password", tools.order(users.UserPassword))
    _name(one, tools)
    _password(one, tools)


def _name(parser: argparse.ArgumentParser, tools: Tools) -> None:
    parser.add_argument("--name", required=True, type=tools.word, help="what they sign in with")


def _password(parser: argparse.ArgumentParser, tools: Tools) -> None:
    text = "the password; - reads it; without it one is made and printed"
    parser.add_argument("--password-file", dest="password", type=tools.secret, metavar="FILE", help=text)
