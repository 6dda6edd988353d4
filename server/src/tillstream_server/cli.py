"""`tillstream-server`: stdout is data, stderr is talk.

Exit codes: 0 ok, 1 an error that is said in one sentence, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import re
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import msgspec
from prometheus_client import CollectorRegistry

from tillstream_protocol.arguments import whole
from tillstream_protocol.codec import invalid
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.limits import MAX_SHORT, MAX_TEXT, MIB

from . import admin, app, backup, carried, cli_fleet, cli_users, config, keys, office
from .app import CannotListen, Surroundings
from .auth import PERMISSIONS
from .clock import SystemClock
from .config import Config
from .events import Events, json_logger
from .folder import Folder, check_currency
from .hooks.signatures import KINDS
from .ledger import export
from .metrics import Metrics
from .office import Office
from .office_fleet import MAX_TILLS
from .reading import reading
from .tables import visible

OK: Final = 0
ERROR: Final = 1
USAGE: Final = 2

Action = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]
if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

MAX_IMPORT: Final = 4 * MIB
"""Bytes of batches that are imported by one command."""
_EPOCH: Final = re.compile(r"[0-9a-fA-F]{32}")
_TTL: Final = re.compile(r"(\d{1,9})(s|m|h|d)")
_ADVICE: Final = {
    "host": "give an address of this machine with --host, and a port that you may use with --port",
    "tls_certificate": "give a PEM certificate and its private key with --tls-certificate and --tls-key",
}
"""What to do when we cannot listen, by what is to blame."""
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT: Final = "_ms"
_AGES: Final = frozenset({"oldest_queued_ms"})
"""What is counted in milliseconds and is no moment."""
_NOTHING: Final = {
    "alarms": "no alarms",
    "campaigns": "no campaigns",
    "dead_letters": "no dead letters",
    "gaps": "no gaps",
    "orders": "no order is known by name alone",
    "quarantine": "nothing in quarantine",
    "sources": "no sources",
    "users": "nobody may sign in yet: the console's first page makes the first user",
}
"""What to say of a list that is empty."""
_UNIT_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    given = _parser().parse_args(argv)
    try:
        return _run(given.action(given), given)
    except TillstreamError as error:
        print(f"tillstream-server: {_sentence(error)}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our data has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR


def _run(action: Coroutine[Any, Any, int], given: argparse.Namespace) -> int:
    factory = _loop_factory(getattr(given, "uvloop", None) is not False)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(action)


def _loop_factory(wanted: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops where it is installed; it makes every request cheaper and changes nothing else."""
    if not wanted:
        return None
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


def _sentence(error: TillstreamError) -> str:
    place = f" ({error.field})" if error.field else ""
    limit = f"; allowed: {error.limit}" if error.limit else ""
    advice = error.hint or (_ADVICE.get(error.field or "") if isinstance(error, CannotListen) else None)
    hint = f"; {advice}" if advice else ""
    return f"{error.message}{place}{limit}{hint}"


# Commands


async def _init(given: argparse.Namespace) -> int:
    folder = Folder(given.data)
    keys = await app.init(folder, check_currency(given.currency), secrets.token_bytes)
    _say(f"{folder.root} is ready. Take {folder.escrow_file} away now, to a safe place off this machine:")
    _say("with it, and only with it, what tills have sealed can be opened should the server's own keys be lost.")
    facts = {
        "data": str(folder.root),
        "server_key_id": keys.sign.key_id.hex(),
        "escrow_private_key": str(folder.escrow_file),
    }
    _print(facts, given.json)
    return OK


async def _serve(given: argparse.Namespace) -> int:
    folder = Folder(given.data)
    folder.settings()
    settings = _config(folder, given)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def ready(address: str) -> None:
        app.spare_the_collector()
        print(msgspec.json.encode({"listening": address}).decode(), flush=True)

    around = _surroundings()
    await admin.wait_to_serve(folder, lambda: app.serve(folder, settings, around, ready=ready, stop=stop))
    return OK


async def _export(given: argparse.Namespace) -> int:
    folder = Folder(given.data)
    folder.settings()
    async with reading(folder.ledger) as conn:
        async for row in export.rows(conn, after=given.after, retailer=given.retailer):
            sys.stdout.buffer.write(export.line(row) + b"\n")
    sys.stdout.buffer.flush()
    return OK


async def _backup(given: argparse.Namespace) -> int:
    folder = Folder(given.data)
    made = await asyncio.to_thread(backup.backup, folder, given.to, _copying())
    if folder.escrow_file.exists():
        _say(f"{folder.escrow_file} still lies there and is in no backup: take it away to a safe place.")
    _say("The backup holds the server's keys: whoever has it can read everything. Keep it as you keep a safe.")
    _print({"backup": str(given.to), **_told(made)}, given.json)
    return OK


async def _restore(given: argparse.Namespace) -> int:
    made = await backup.restore(given.source, Folder(given.data), _copying())
    _say("What tills sent after this backup they send again by themselves. What head office did since is to be done")
    _say("again: campaigns, tokens, keys for the API, and above all revocations.")
    _print({"data": str(given.data), **_told(made)}, given.json)
    return OK


def _copying() -> backup.Copying:
    return backup.Copying(SystemClock().now_ms, secrets.token_bytes, importlib.metadata.version("tillstream-server"))


def _told(made: backup.Manifest) -> dict[str, object]:
    return {"made_ms": made.made_ms, "files": len(made.files), "bytes": made.size, "last_id": made.last_id}


async def _recover(given: argparse.Namespace) -> int:
    folder = Folder(given.data)
    folder.settings()
    with folder.writing():
        private = keys.escrow_from(given.escrow)
        now = keys.recover(folder.keys, private, secrets.token_bytes, SystemClock().now_ms())
    _say("A new box key is made; tills seal to it from their next contact on. What they sealed to the lost one opens")
    _say("with the escrow key, which from now on lies in this data folder: whoever steals the folder can read every")
    _say("chunk. Once the tills have sent what they had, run: tillstream-server key forget-escrow")
    _say("and have a new escrow key with: tillstream-server key rotate-escrow")
    _print(now.facts(), given.json)
    return OK


async def _import(given: argparse.Namespace) -> int:
    """Whatever the file holds before a place that is damaged is taken."""
    folder = Folder(given.data)
    folder.settings()
    total: Counter[str] = Counter()
    refused: list[object] = []
    with given.file as file:
        for group in carried.grouped(carried.read(file), MAX_IMPORT):
            answer = await admin.order(folder, office.BatchImport(group), _office_opener(given))
            result: dict[str, Any] = msgspec.json.decode(answer)
            refused += result.pop("refused")
            total.update(result)
    _print({"batches": 0, "stored": 0, "repeat": 0, **total, "refused": refused}, given.json)
    return ERROR if refused else OK


async def _original(given: argparse.Namespace) -> int:
    """The bytes alone go to stdout; what they are is talk."""
    folder = Folder(given.data)
    folder.settings()
    command = office.RecordOriginal(given.retailer, given.store, given.till, given.epoch, given.seq, given.reason)
    answer = await admin.order(folder, command, _office_opener(given))
    if given.json:
        print(answer.decode())
        return OK
    found = msgspec.json.decode(answer, type=_Original)
    _say(f"{len(found.data)} bytes, {found.media_type or 'of no media type'}, SHA-256 {found.sha256}")
    sys.stdout.buffer.write(found.data)
    sys.stdout.buffer.flush()
    return OK


class _Original(msgspec.Struct, frozen=True):
    media_type: str
    sha256: str
    data: bytes


async def _ask(given: argparse.Namespace, of: type[office.Command]) -> dict[str, Any]:
    """Have a command carried out whose fields are the arguments of the same names; its result."""
    folder = Folder(given.data)
    folder.settings()
    values = {name: value for name in of.__struct_fields__ if (value := getattr(given, name, None)) is not None}
    try:
        command: office.Command = msgspec.convert(values, of)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    result: dict[str, Any] = msgspec.json.decode(await admin.order(folder, command, _office_opener(given)))
    return result


def _order(of: type[office.Command], *show: str) -> Action:
    """An action that has a command carried out and prints its result; `show` names its lists, if it has any.

    The command's fields are the arguments of the same names.
    """

    async def action(given: argparse.Namespace) -> int:
        result = await _ask(given, of)
        if given.json or not show:
            _print(result, given.json)
        else:
            rows = [row for name in show for row in cast("list[object]", result[name])]
            for row in rows:
                print(_line(row))
            if not rows:
                _say(_NOTHING[show[0]])
        return OK

    return action


def _office_opener(given: argparse.Namespace) -> Callable[[Folder], AbstractAsyncContextManager[Office]]:
    @asynccontextmanager
    async def open_office(folder: Folder) -> AsyncIterator[Office]:
        async with app.opened(folder, _config(folder, given), _surroundings()) as parts:
            yield parts.office

    return open_office


def _config(folder: Folder, given: argparse.Namespace) -> Config:
    flags = {name: getattr(given, name, None) for name in Config.__struct_fields__}
    return config.load(folder.config_file, os.environ, flags)


def _surroundings() -> Surroundings:
    events = Events(Metrics(CollectorRegistry()), json_logger())
    return Surroundings(SystemClock(), secrets.token_bytes, events)


def _print(facts: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(facts).decode())
        return
    for name, value in facts.items():
        print("{}: {}".format(*_shown(name, value)))


def _line(row: object) -> str:
    if not isinstance(row, dict):
        return _text(row)
    return "  ".join("{}={}".format(*_shown(name, value)) for name, value in row.items() if value is not None)


def _shown(name: str, value: object) -> tuple[str, str]:
    """A fact as people read it: moments as ISO 8601 in UTC instead of milliseconds, where a calendar has them."""
    if isinstance(value, int) and name.endswith(_MOMENT) and name not in _AGES:
        with contextlib.suppress(OverflowError):
            moment = _BEGINNING + timedelta(milliseconds=value)
            return name.removesuffix(_MOMENT), moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    return name, _text(value)


def _text(value: object) -> str:
    """Control characters, which a till may have sent, are made visible."""
    return visible(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# Arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tillstream-server", description="The Tillstream server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = _leaf(commands, "init", "make a data folder", _init)
    one.add_argument("--currency", default="USD", help="of transactions that name none (default USD)")
    _add_serve(commands)
    _add_backup(commands)
    _add_access(commands)
    cli_users.add_users(_group(commands, "user", "let people sign in to the console"), _TOOLS)
    _add_campaigns(commands)
    _add_fleet(commands)
    _add_sources(commands)
    _add_ledger(commands)
    return parser


def _add_serve(commands: Commands) -> None:
    one = _leaf(commands, "serve", "serve tills and head office", _serve)
    one.add_argument("--host", type=_up_to(253), help="address to listen on (default 127.0.0.1)")
    one.add_argument("--port", type=whole(0, 65_535), help="port to listen on, 0 for any free one (default 8700)")
    one.add_argument("--tls-certificate", metavar="FILE", help="PEM; without it the server speaks plain HTTP")
    one.add_argument("--tls-key", metavar="FILE", help="PEM")
    one.add_argument("--no-uvloop", dest="uvloop", action="store_false", default=None, help="use asyncio's own loop")


def _add_backup(commands: Commands) -> None:
    one = _leaf(commands, "backup", "copy everything, while the server runs or not", _backup)
    one.add_argument("--to", required=True, type=_folder, metavar="DIR", help="a new folder for the backup")
    one = _leaf(commands, "restore", "make a data folder from a backup", _restore)
    one.add_argument("--from", dest="source", required=True, type=_folder, metavar="DIR", help="the backup")


def _add_access(commands: Commands) -> None:
    token = _group(commands, "token", "let tills in")
    one = _leaf(token, "create", "make an enrolment token", _order(office.TokenCreate))
    one.add_argument("--retailer", required=True, type=_word)
    one.add_argument("--store", required=True, type=_word)
    one.add_argument("--till", type=_word, help="only this till, or its replacement (default: the store's next tills)")
    one.add_argument("--uses", type=whole(1, office.MAX_USES), help="how many agents it lets in (default 1)")
    one.add_argument("--ttl", dest="ttl_ms", type=_duration, metavar="TIME", help="30m, 24h, 7d … (default 24h)")
    cli_fleet.add_tokens(token, _TOOLS)
    key = _group(commands, "key", "let head office in; look after the server's keys")
    one = _leaf(key, "create", "make a key for the API", _order(office.KeyCreate))
    one.add_argument("--role", required=True, choices=sorted(PERMISSIONS))
    _leaf(key, "rotate-box", "have tills seal to a new key; the former one is kept", _order(office.KeyRotateBox))
    _leaf(key, "rotate-escrow", "have tills seal to a new escrow key, to take away", _order(office.KeyRotateEscrow))
    one = _leaf(key, "recover", "make up for a lost or damaged box key, with the escrow key", _recover)
    one.add_argument("--escrow", required=True, type=_file, metavar="FILE", help="the escrow private key; - reads it")
    _leaf(key, "forget-escrow", "take the escrow key off the server after a recovery", _order(office.KeyForgetEscrow))


def _add_campaigns(commands: Commands) -> None:
    campaign = _group(commands, "campaign", "put campaigns in force")
    one = _leaf(campaign, "put", "put a campaign in force", _order(office.CampaignPut))
    one.add_argument("--retailer", required=True, type=_word)
    one.add_argument("document", metavar="FILE", type=_file, help="the campaign as JSON; - reads standard input")
    one = _leaf(campaign, "end", "take a campaign out of force", _order(office.CampaignEnd))
    one.add_argument("--retailer", required=True, type=_word)
    one.add_argument("campaign", metavar="ID", type=_word)
    one = _leaf(campaign, "list", "list every version", _order(office.CampaignList, "campaigns"))
    one.add_argument("--retailer", type=_word)


def _add_fleet(commands: Commands) -> None:
    till = _group(commands, "till", "look after tills")
    cli_fleet.add_tills(till, _TOOLS)
    _till(_leaf(till, "gaps", "what of a till's records is not here, or lost", _order(office.TillGaps, "gaps", "lost")))
    one = _leaf(till, "alarms", "what does not fit together in tills' histories", _order(office.TillAlarms, "alarms"))
    one.add_argument("--retailer", type=_word)
    one.add_argument("--settled", action="store_true", default=None, help="those that were put right, too")
    one.add_argument("--after", type=whole(0), metavar="ID", help="the `next` of the page before")
    one.add_argument("--limit", type=whole(1, MAX_TILLS), help=f"at most {MAX_TILLS}")
    one = _leaf(till, "settle", "put an alarm right, once its cause is known", _order(office.TillSettle))
    _till(one)
    one.add_argument("--alarm", required=True, type=whole(1), metavar="ID", help="as `till alarms` has it")
    one.add_argument("--note", required=True, type=_up_to(MAX_TEXT), help="what it was, for whoever asks later")
    cli_fleet.add_settings(_group(commands, "config", "what tills are configured with from here"), _TOOLS)
    held = _group(commands, "quarantine", "what revoked tills sent")
    _leaf(held, "list", "list it by till", _order(office.QuarantineList, "quarantine"))
    _till(_leaf(held, "release", "take a till's batches after all", _order(office.QuarantineRelease)))


def _add_sources(commands: Commands) -> None:
    source = _group(commands, "source", "let the webhooks of cloud POS systems in")
    one = _leaf(source, "create", "make a source, and print the URL to give the vendor", _order(office.SourceCreate))
    one.add_argument("--retailer", required=True, type=_word)
    one.add_argument("--store", required=True, type=_word)
    _source(one)
    one.add_argument("--till", type=_word, help="its name among the store's tills (default: the source's)")
    one.add_argument("--secret-file", **_SECRET)
    _settings_of_source(one)
    help_ = "put another in its place, revoked or not: the same shop, and so the same till"
    one = _leaf(source, "replace", help_, _order(office.SourceReplace))
    _source(one)
    one.add_argument("--to", type=_word, metavar="NAME", help="what it is called from now on")
    one.add_argument("--secret-file", **{**_SECRET, "help": "another signing secret; - reads it (default: as it was)"})
    _settings_of_source(one)
    one = _leaf(source, "list", "list them, without secrets", _order(office.SourceList, "sources"))
    one.add_argument("--retailer", type=_word)
    _source(_leaf(source, "revoke", "take nothing more of one", _order(office.SourceRevoke)))
    one = _leaf(source, "rotate", "put another secret in force", _order(office.SourceRotate))
    _source(one)
    one.add_argument("--secret-file", **_SECRET)
    one.add_argument(
        "--overlap", dest="overlap_ms", type=_overlap, metavar="TIME", help="take the former one yet (default 24h)"
    )
    one = _leaf(source, "orders", "orders that were named and never told", _order(office.SourceOrders, "orders"))
    _source(one)
    one.add_argument("--limit", type=whole(1, office.MAX_LETTERS), help=f"at most {office.MAX_LETTERS}")


def _settings_of_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", type=_up_to(MAX_TEXT), help="how the vendor reaches this server: https://hooks.example.com"
    )
    parser.add_argument("--adapter", type=_word, help="for generic: what reads it (default: canonical transactions)")
    parser.add_argument("--options", type=_file, metavar="FILE", help="the adapter's own settings, as a JSON object")
    parser.add_argument("--currency", type=_word, help="where the payload names none")
    parser.add_argument("--zone", type=_word, help="of times without an offset, such as Europe/Berlin (default UTC)")


def _source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", required=True, choices=KINDS)
    parser.add_argument("--name", type=_word, help="the last part of its URL (default: its kind)")


def _add_ledger(commands: Commands) -> None:
    _leaf(commands, "rebuild", "fold the ledger into every projection again", _order(office.Rebuild))
    letters = _group(commands, "dead-letters", "records that could not be taken", "dead-letter")
    one = _leaf(letters, "list", "list the newest", _order(office.DeadLettersList, "dead_letters"))
    one.add_argument("--limit", type=whole(1, office.MAX_LETTERS), help=f"at most {office.MAX_LETTERS}")
    one = _leaf(letters, "retry", "try them again: after an upgrade, or a repair", _order(office.DeadLettersRetry))
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every one")
    which.add_argument("--id", dest="ids", type=whole(1), action="append", help="this one; may be repeated")
    batch = _group(commands, "batch", "what tills have captured")
    one = _leaf(batch, "import", "take what `tillstream-agent queue export` wrote", _import)
    one.add_argument("file", metavar="FILE", type=_opened, help="the export; - reads standard input")
    record = _group(commands, "record", "one record of the ledger")
    one = _leaf(record, "original", "write the bytes that the POS sent with it to standard output", _original)
    _till(one)
    one.add_argument("--epoch", required=True, type=_epoch, metavar="HEX", help="as `ledger export` has it")
    one.add_argument("--seq", required=True, type=whole(0), help="likewise")
    one.add_argument("--reason", required=True, type=_up_to(MAX_TEXT), help="why; it is logged, so name nobody in it")
    ledger = _group(commands, "ledger", "the ledger itself")
    one = _leaf(ledger, "export", "write it as JSON lines", _export)
    one.add_argument("--retailer", type=_word)
    one.add_argument("--after", type=whole(0), default=0, metavar="ID", help="only records with a higher id")


def _group(commands: Commands, name: str, text: str, *aliases: str) -> Commands:
    group = commands.add_parser(name, aliases=aliases, help=text, description=text)
    return group.add_subparsers(required=True, metavar="COMMAND")


def _leaf(commands: Commands, name: str, text: str, action: Action) -> argparse.ArgumentParser:
    leaf = commands.add_parser(name, help=text, description=text)
    leaf.set_defaults(action=action)
    leaf.add_argument("--data", required=True, type=_folder, metavar="DIR", help="the server's data folder")
    leaf.add_argument("--json", action="store_true", help="print the result as JSON")
    return leaf


def _till(parser: argparse.ArgumentParser) -> None:
    for name in ("retailer", "store", "till"):
        parser.add_argument(f"--{name}", required=True, type=_word)


def _duration(text: str) -> int:
    found = _TTL.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 30m, 24h or 7d")
    duration = int(found[1]) * _UNIT_MS[found[2]]
    if not office.MIN_TTL_MS <= duration <= office.MAX_TTL_MS:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a time from 1s to 366d")
    return duration


def _overlap(text: str) -> int:
    return 0 if text == "0" else _duration(text)


def _up_to(most: int) -> Callable[[str], str]:
    """An argument that is a text, and not an empty one."""

    def parse(text: str) -> str:
        if not 1 <= len(text) <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not allowed; give 1 to {most} characters")
        return text

    return parse


def _word(text: str) -> str:
    """An argument that names a retailer, a store, a till or a campaign."""
    return _up_to(MAX_SHORT)(text)


def _epoch(text: str) -> str:
    """An argument that is an epoch's id."""
    if _EPOCH.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not allowed; give 32 hexadecimal digits")
    return text.lower()


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("'' is not allowed; give the path of a folder")
    return Path(text)


def _file(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {name}: {error}") from error


def _secret(name: str) -> str:
    """A secret from a file, where no list of processes shows it, without the line's end."""
    return _file(name).strip()


_SECRET: Final[dict[str, Any]] = {
    "dest": "secret",
    "type": _secret,
    "metavar": "FILE",
    "help": "the vendor's signing secret; - reads it; without it one is made, where the vendor takes ours",
}


def _opened(name: str) -> BinaryIO:
    try:
        return sys.stdin.buffer if name == "-" else Path(name).open("rb")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {name}: {error}") from error


_TOOLS: Final = cli_fleet.Tools(
    leaf=_leaf,
    till=_till,
    order=_order,
    ask=_ask,
    print=_print,
    say=_say,
    word=_word,
    secret=_secret,
    now_ms=SystemClock().now_ms,
)
