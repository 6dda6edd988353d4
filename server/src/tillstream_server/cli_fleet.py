"""The commands of `tillstream-server` that look after tills; people get tables, scripts `--json`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tillstream_protocol.arguments import whole

from . import fleet, office, office_fleet, office_settings
from .office_fleet import MAX_TILLS
from .states import STATES
from .tables import Column, Row, age, moment, size, table, text

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Action = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]
Ask = Callable[[argparse.Namespace, type[office.Command]], Coroutine[Any, Any, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Tools:
    """How commands are made, asked for and answered: the same for all of `tillstream-server`."""

    leaf: Callable[[Commands, str, str, Action], argparse.ArgumentParser]
    till: Callable[[argparse.ArgumentParser], None]
    order: Callable[..., Action]
    ask: Ask
    print: Callable[[dict[str, Any], bool], None]
    say: Callable[[str], None]
    word: Callable[[str], str]
    secret: Callable[[str], str]
    now_ms: Callable[[], int]


def add_tills(till: Commands, tools: Tools) -> None:
    """`till list | counts | show | revoke | allow-again | rotate | failed-enrolments`."""
    one = tools.leaf(till, "list", "list tills", _tabled(tools, office_fleet.TillList, "tills", _tills, "no tills"))
    _place(one, tools)
    one.add_argument("--state", choices=STATES, help="only those that are so")
    one.add_argument("--version", help="only those whose agent is of this version")
    one.add_argument("--after", metavar="ID", help="the `next` of the page before")
    one.add_argument("--limit", type=whole(1, MAX_TILLS), help=f"at most {MAX_TILLS}")
    one = tools.leaf(
        till, "counts", "how many are in which state, and run which version", tools.order(office_fleet.TillCounts)
    )
    _place(one, tools)
    tools.till(tools.leaf(till, "show", "everything that is known of one", _show(tools)))
    tools.till(tools.leaf(till, "revoke", "turn a till away", tools.order(office_fleet.TillRevoke)))
    one = tools.leaf(till, "allow-again", "let a revoked till in again", tools.order(office_fleet.TillAllowAgain))
    tools.till(one)
    one.add_argument("--hold", action="store_true", default=None, help="leave in quarantine what it sent meanwhile")
    text_ = "have it take another device key now, when it is connected next"
    tools.till(tools.leaf(till, "rotate", text_, tools.order(office_fleet.TillRotate)))
    what = _tabled(tools, office_fleet.FailedEnrolments, "failed_enrolments", _failures, "no failed enrolments")
    one = tools.leaf(till, "failed-enrolments", "who was not let in, and why", what)
    _place(one, tools)
    one.add_argument("--limit", type=whole(1, fleet.MAX_FAILURES), help="how many (default 100)")


def add_tokens(token: Commands, tools: Tools) -> None:
    """`token list`."""
    what = _tabled(tools, office_fleet.TokenList, "tokens", _tokens, "no token lets anybody in")
    one = tools.leaf(token, "list", "where tokens still let somebody in; the tokens themselves are not kept", what)
    one.add_argument("--retailer", type=tools.word)


def add_settings(config: Commands, tools: Tools) -> None:
    """`config set | stage | halt | show | history | roll-back`."""
    one = _settings(
        config, tools, "set", "make a version of the tills' settings", tools.order(office_settings.ConfigSet)
    )
    one.add_argument("settings", nargs="*", action=_Settings, metavar="NAME=VALUE", help="all that is set from here")
    one.add_argument("--note", help="what it is for")
    _pos_follows(one)
    one = _settings(config, tools, "stage", "roll a version out, or further", tools.order(office_settings.ConfigStage))
    one.add_argument("--version", required=True, type=whole(1, 2**53))
    one.add_argument("--percent", type=whole(1, 100), help="of the tills that are meant (default 100)")
    one.add_argument("--store", dest="stores", action="append", type=tools.word, help="only there; may be repeated")
    one.add_argument("--halt-after", type=whole(1, 100_000), help="so many tills that cannot take it (default 1)")
    one = _settings(config, tools, "halt", "let it reach nobody new", tools.order(office_settings.ConfigHalt))
    one.add_argument("--version", required=True, type=whole(1, 2**53))
    one.add_argument("--why", help="for whoever asks later")
    one = _settings(config, tools, "show", "a version, and how tills took it", _show_settings(tools))
    one.add_argument("--version", type=whole(1, 2**53), help="(default: the newest)")
    what = _tabled(tools, office_settings.ConfigHistory, "versions", _versions, "nothing is set from here")
    _settings(config, tools, "history", "every version, the newest first", what)
    text_ = "give every till the settings of an earlier version again"
    one = _settings(config, tools, "roll-back", text_, tools.order(office_settings.ConfigRollBack))
    one.add_argument("--to", required=True, type=whole(0, 2**53), metavar="VERSION", help="0 sets nothing")
    _pos_follows(one)


class _Settings(argparse.Action):
    """Collects NAME=VALUE into a mapping."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002 - argparse's own signature
    ) -> None:
        """Raises argparse's usage error where there is no `=`, or a name stands twice."""
        found: dict[str, str] = {}
        for item in values or ():
            name, equals, value = str(item).partition("=")
            if not equals or not name or name in found:
                parser.error(f"{item!r} is not allowed; give NAME=VALUE, each name once")
            found[name] = value
        setattr(namespace, self.dest, found)


def _settings(config: Commands, tools: Tools, name: str, what: str, action: Action) -> argparse.ArgumentParser:
    leaf = tools.leaf(config, name, what, action)
    leaf.add_argument("--retailer", required=True, type=tools.word)
    return leaf


def _pos_follows(parser: argparse.ArgumentParser) -> None:
    text_ = "where hook.port or hook.origins change: every POS is set otherwise too"
    parser.add_argument(
        "--even-if-the-pos-must-follow", dest="pos_follows", action="store_true", default=None, help=text_
    )


def _show_settings(tools: Tools) -> Action:
    async def action(given: argparse.Namespace) -> int:
        found = await tools.ask(given, office_settings.ConfigShow)
        if given.json:
            tools.print(found, True)
            return 0
        failed = found.pop("failed")
        rollout = found.pop("rollout") or {"rollout": "not staged"}
        settings = found.pop("settings")
        tools.print({**found, **rollout, **settings}, False)
        if failed:
            print("\n" + table(failed, _failed(tools.now_ms())))
        return 0

    return action


def _versions(now_ms: int) -> tuple[Column, ...]:
    return (
        Column("version", text("version"), right=True),
        Column("made", lambda row: age(row["made_ms"], now_ms)),
        Column("rollout", _rollout),
        Column("settings", lambda row: " ".join(f"{name}={value}" for name, value in row["settings"].items())),
        Column("note", text("note")),
    )


def _rollout(row: Row) -> str:
    rollout = row["rollout"]
    if rollout is None:
        return "not staged"
    where = ", ".join(rollout["stores"]) or "everywhere"
    halted = f", halted: {rollout['halted_why']}" if "halted_ms" in rollout else ""
    return f"{rollout['percent']} % {where}{halted}"


def _failed(now_ms: int) -> tuple[Column, ...]:
    return (
        Column("store", text("store")),
        Column("till", text("till")),
        Column("what", text("state")),
        Column("said", lambda row: age(row["told_ms"], now_ms)),
        Column("why", text("reason")),
        Column("runs with", text("running"), right=True),
    )


def _place(parser: argparse.ArgumentParser, tools: Tools) -> None:
    parser.add_argument("--retailer", type=tools.word)
    parser.add_argument("--store", type=tools.word)


def _tabled(
    tools: Tools, of: type[office.Command], name: str, columns: Callable[[int], Sequence[Column]], nothing: str
) -> Action:
    """An action that asks for a list and shows it as a table, or says that there is nothing."""

    async def action(given: argparse.Namespace) -> int:
        result = await tools.ask(given, of)
        if given.json:
            tools.print(result, True)
        elif rows := result[name]:
            print(table(rows, columns(tools.now_ms())))
        else:
            tools.say(nothing)
        if not given.json and result.get("next"):
            tools.say(f"there are more: add --after {result['next']}")
        return 0

    return action


def _show(tools: Tools) -> Action:
    async def action(given: argparse.Namespace) -> int:
        found = await tools.ask(given, office_fleet.TillShow)
        if given.json:
            tools.print(found, True)
            return 0
        devices = found.pop("devices")
        tools.print({name: value for name, value in found.items() if value is not None}, False)
        print("\n" + table(devices, _devices()))
        return 0

    return action


def _tills(now_ms: int) -> tuple[Column, ...]:
    return (
        Column("store", text("store")),
        Column("till", text("till")),
        Column("state", text("state")),
        Column("seen", lambda row: age(row["seen_ms"], now_ms)),
        Column("queued", text("queued"), right=True),
        Column("oldest", lambda row: age(now_ms - row["oldest_queued_ms"], now_ms) if row["queued"] else ""),
        Column("version", text("agent_version")),
        Column("disk free", lambda row: size(row["disk_free"]), right=True),
        Column("last error", text("last_error")),
        Column("retailer", text("retailer")),
    )


def _failures(now_ms: int) -> tuple[Column, ...]:
    return (
        Column("last", lambda row: age(row["last_ms"], now_ms)),
        Column("tries", text("tries"), right=True),
        Column("why", text("code")),
        Column("from", text("address")),
        Column("store", text("store")),
        Column("till", text("till")),
        Column("agent", text("agent_version")),
        Column("platform", text("platform")),
        Column("retailer", text("retailer")),
    )


def _tokens(_: int) -> tuple[Column, ...]:
    return (
        Column("retailer", text("retailer")),
        Column("store", text("store")),
        Column("till", lambda row: row["till"] or "any"),
        Column("uses left", text("uses_left"), right=True),
        Column("until", lambda row: moment(row["expires_ms"])),
    )


def _devices() -> tuple[Column, ...]:
    return (
        Column("device key", text("key_id")),
        Column("since", lambda row: moment(row["created_ms"])),
        Column("until", lambda row: moment(row["until_ms"])),
        Column("speaks", lambda row: "yes" if row["speaks"] else "no"),
        Column("agent", text("agent_version")),
        Column("platform", text("platform")),
    )
