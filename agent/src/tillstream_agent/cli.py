"""`tillstream-agent`: enroll, run, status, doctor, bundle, logs, simulate, queue, display, adapt, config, clone-reset.

stdout is data, stderr is talk. Exit codes: 0 ok, 1 error, 2 usage, 3 not enrolled, 4 unreachable, 5 degraded,
6 doctor found problems.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
import webbrowser
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import SystemRandom
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import msgspec

from tillstream_protocol.arguments import seconds, whole
from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.messages import HookLatency, Token

from . import __version__, product
from .app import World, run
from .boot import machine_id
from .clock import SystemClock
from .config import Config, ConfigError, load, standing
from .export import export
from .folder import AlreadyRunning, Folder, NotEnrolled, StateError, default_folder
from .inspection import NoAnswer, ask, forget_pairings, list_queue, look, pair, retry, to_export
from .logs import KeptLog, LogReader
from .notify import Supervisor
from .platforms import stop_on_signals
from .queue import Page, Wanted
from .remote import current
from .status import Status
from .sync.transport import Unreachable, server_address, tls_context

if TYPE_CHECKING:
    from .doctor.finding import Finding
    from .simulation import Simulated

OK: Final = 0
ERROR: Final = 1
USAGE: Final = 2
NOT_ENROLLED: Final = 3
UNREACHABLE: Final = 4
DEGRADED: Final = 5
PROBLEMS: Final = 6

LOCK_ATTEMPTS: Final = 10
LOCK_RETRY_S: Final = 0.05
SHORTEST_WATCH_S: Final = 0.1
LONGEST_WAIT_S: Final = 86_400.0

_OFFLINE: Final = frozenset({"unavailable", "unreachable", "closed", "confused"})
"""Troubles that only say that the server is not heard."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = given.command
        return command(given)
    except TillstreamError as error:
        _say(f"tillstream-agent: {_sentence(error)}")
        return _exit_code(error)
    except KeyboardInterrupt:
        return ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR


def parser() -> argparse.ArgumentParser:
    """The command line, as `--help`, shell completion and the manual page tell of it."""
    parser = argparse.ArgumentParser(
        prog="tillstream-agent", description="The Tillstream agent of one till: captures, queues, syncs, shows offers."
    )
    parser.add_argument("--version", action="version", version=f"tillstream-agent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    enroll = _command(commands, "enroll", _enroll, "join a server as one of its tills")
    enroll.add_argument("--server", required=True, metavar="URL", help="the server's address, e.g. https://host:8700")
    enroll.add_argument("--token", required=True, help="an enrolment token from head office")
    enroll.add_argument("--replace", action="store_true", help="become another till; what is queued is kept")
    enroll.add_argument("--json", action="store_true", help="print JSON")

    agent = _command(commands, "run", _run, "be the agent, until SIGTERM or SIGINT")
    agent.add_argument("--hook-port", metavar="PORT", help="the loopback port of the hook (8710); 0 takes any")
    agent.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="how much to log (info)")
    agent.add_argument("--no-uvloop", action="store_true", help="use Python's own event loop")

    _care_commands(commands)
    display = _command(commands, "display", _display, "pair a screen: print a link that opens the cashier's page once")
    display.add_argument("--open", action="store_true", help="open it in this machine's browser")
    display.add_argument("--forget", action="store_true", help="end every pairing, of screens and of browser POS pages")
    _queue_commands(commands)
    _adapt_command(commands)
    product.add_commands(commands, _command)
    return parser


def _care_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = _command(commands, "status", _status, "how the agent is, running or not")
    watching = "again and again, until Ctrl-C; every 2 seconds, or as many as are said"
    often = seconds(SHORTEST_WATCH_S, LONGEST_WAIT_S)
    status.add_argument("--watch", nargs="?", type=often, const=2.0, metavar="SECONDS", help=watching)
    doctor = _command(commands, "doctor", _doctor, "look for trouble, with cause and fix")
    bundle = _command(commands, "bundle", _bundle, "write a file for support, without personal data")
    bundle.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a file that does not exist yet (.tar.gz)")
    logs = _command(commands, "logs", _logs, "what the agent said last, as far as it is kept in the state folder")
    logs.add_argument(
        "-n", "--lines", type=whole(0), default=50, metavar="N", help="how many lines (50); 0 is all of them"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what it says from now on, until Ctrl-C")
    trying = _command(commands, "simulate", _simulate, "sell something made up, marked as training: it counts nowhere")
    trying.add_argument("--ack", choices=("os", "disk"), default="os", help="what the hook is to wait for (os)")
    trying.add_argument(
        "--wait",
        type=seconds(0, LONGEST_WAIT_S),
        default=10.0,
        metavar="SECONDS",
        help="for the server to take it (10)",
    )
    for command in (status, doctor, bundle, logs, trying):
        command.add_argument("--json", action="store_true", help="print JSON")


def _adapt_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show what an adapter makes of a POS's file; nothing is captured"
    trying = commands.add_parser("adapt", help=text, description=text)
    trying.set_defaults(command=_adapt)
    trying.add_argument("name", nargs="?", metavar="NAME", help="the adapter")
    trying.add_argument("file", nargs="?", type=Path, metavar="FILE", help="what the POS wrote")
    trying.add_argument("--list", action="store_true", help="list the adapters, and what each was tried on")
    trying.add_argument("--currency", metavar="CODE", help="where the file says none, such as EUR")
    trying.add_argument("--zone", default="UTC", metavar="ZONE", help="of times without an offset (UTC)")
    trying.add_argument("--options", type=Path, metavar="FILE", help="the adapter's own settings, as a JSON object")
    trying.add_argument("--json", action="store_true", help="print JSON")


def _queue_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "records that the server would not take: list, try again, take along"
    parts = commands.add_parser("queue", help=text, description=text).add_subparsers(required=True, metavar="COMMAND")
    listing = _command(
        parts,
        "list",
        _queue_list,
        "what the server would not take; exit code 5 if any of it waits here, 0 if the server keeps it all",
    )
    again = _command(parts, "retry", _queue_retry, "try such records again, as if they had never been refused")
    again.add_argument("--all", action="store_true", help="every one of them")
    again.add_argument("--epoch", metavar="HEX", help="those of one epoch")
    again.add_argument("--seq", type=whole(0), metavar="N", help="one record of that epoch")
    taking = _command(
        parts,
        "export",
        _queue_export,
        "write records, sealed as they are, to a file for tillstream-server batch import",
    )
    taking.add_argument("file", type=Path, metavar="FILE", help="a file that does not exist yet")
    taking.add_argument("--all", action="store_true", help="all that the server has not acknowledged, refused or not")
    for command in (listing, again, taking):
        command.add_argument("--json", action="store_true", help="print JSON")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    parser.add_argument("--state", type=Path, metavar="DIR", help="the state folder ($TILLSTREAM_STATE)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    return parser


def _enroll(given: argparse.Namespace) -> int:
    from .sync.asking import Asker  # httpx, which no running agent loads
    from .sync.enrol import Enrolment

    token = Token.parse(given.token)
    address = server_address(given.server)
    config = load(given.config)
    folder = _folder(given)

    async def join() -> None:
        client = Asker(address, tls=tls_context(address, config.sync_ca_file), timeout=config.sync_timeout_s)
        try:
            enrolment = Enrolment(folder, client, SystemClock(), os.urandom, __version__)
            identity = await enrolment.join(address, token, replace=given.replace)
            folder.bind(machine_id())
        finally:
            await client.close()
        if given.json:
            _print_json(
                {
                    "till_id": identity.till_id.hex(),
                    "retailer": identity.retailer,
                    "store": identity.store,
                    "till": identity.till,
                    "state": str(folder.path),
                }
            )
        else:
            print(f"enrolled as till {identity.till} of store {identity.store}, {identity.retailer}, in {folder.path}")

    return _drive(join())


def _run(given: argparse.Namespace) -> int:
    flags = {"hook.port": given.hook_port, "log.level": given.log_level}
    if given.no_uvloop:
        flags["run.uvloop"] = False
    folder = _folder(given)
    settings = standing(given.config, flags=flags)
    config = current(folder, settings)
    folder.identity()
    log = KeptLog(sys.stderr, folder.path, config.log_kept_bytes)
    supervisor = Supervisor.of(os.environ, os.getpid())
    world = World(SystemClock(), os.urandom, SystemRandom().random, cast("TextIO", log), supervisor=supervisor)

    async def be_agent() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await _when_free(lambda: run(folder, config, world, stop=stop, started=_settle_down, settings=settings))

    return _drive(be_agent(), config)


def _settle_down(_port: int) -> None:
    """What was built stays: no collection, which stops captures, needs to look at it again until it is built anew."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def _when_free(be_agent: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Be the agent, even if somebody holds the folder's lock for a moment to see whether one runs."""
    for _ in range(LOCK_ATTEMPTS - 1):
        with suppress(AlreadyRunning):
            return await be_agent()
        await asyncio.sleep(LOCK_RETRY_S)
    return await be_agent()


def _status(given: argparse.Namespace) -> int:
    folder = _folder(given)

    async def tell() -> int:
        status = await look(folder, SystemClock())
        _print_json(status) if given.json else print(_in_words(status), flush=True)
        return status_code(status)

    async def watch() -> None:
        clears = sys.stdout.isatty() and not given.json
        while True:
            if clears:
                print("\x1b[H\x1b[2J", end="")
            try:
                await tell()
            except NoAnswer as error:  # it may be starting, or about to be started again
                _say(f"tillstream-agent: {_sentence(error)}")
            await asyncio.sleep(given.watch)

    return _drive(tell() if given.watch is None else watch())


def _bundle(given: argparse.Namespace) -> int:
    from . import bundle  # the formats of which it tells are many
    from .doctor import Doctor
    from .doctor.patient import as_owner, settings_or_complaint

    folder = _folder(given)
    with as_owner(folder.path):
        config, complaint = settings_or_complaint(folder, given.config)
    clock = SystemClock()

    async def pack() -> int:
        with as_owner(folder.path):
            findings = await Doctor(folder, config, clock, os.urandom, complaint=complaint).examine()
            status = None
            with suppress(TillstreamError):
                status = await look(folder, clock)
            parts = await asyncio.to_thread(bundle.gather, folder, config, findings, status, clock)
        file = given.file or Path(f"tillstream-support-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz")
        size = bundle.write(file, parts)
        _print_json({"file": str(file), "bytes": size}) if given.json else print(f"{size} bytes written to {file}")
        return OK

    return _drive(pack())


def _logs(given: argparse.Namespace) -> int:
    folder = _folder(given)

    try:
        reader = LogReader(folder.path)
    except OSError as error:
        if isinstance(error, PermissionError):
            message = f"the log in {folder.path} may not be read by you"
            raise StateError(message, hint="ask as root, or as the agent's user") from error
        hint = "it is kept from the agent's first start on, unless log.kept_bytes is 0; standard error has it all"
        raise StateError(f"no log is kept in {folder.path}: {error.strerror}", hint=hint) from error

    async def tell() -> None:
        for line in reader.lines[-given.lines if given.lines > 0 else None :]:
            _print_line(line, raw=given.json)
        if given.follow:
            async for line in reader.follow():
                _print_line(line, raw=given.json)

    try:
        return _drive(tell())
    finally:
        reader.close()


def _simulate(given: argparse.Namespace) -> int:
    from .simulation import simulate

    folder = _folder(given)

    async def sell() -> int:
        done = await simulate(
            folder, SystemClock(), os.urandom, ack=given.ack, wait_s=given.wait, timer=time.perf_counter
        )
        if given.json:
            _print_json(done)
        else:
            print(f"captured as {done.epoch} {done.seq} ({done.ack}) in {done.took_ms:.1f} ms, marked as training")
            print(_fate(done))
        if done.refused:
            return DEGRADED
        return OK if done.sent else UNREACHABLE

    return _drive(sell())


def _doctor(given: argparse.Namespace) -> int:
    from .doctor import Doctor  # it asks by httpx, which no running agent loads
    from .doctor.patient import as_owner, settings_or_complaint

    folder = _folder(given)
    with as_owner(folder.path):
        config, complaint = settings_or_complaint(folder, given.config)

    async def examine() -> int:
        with as_owner(folder.path):
            findings = await Doctor(folder, config, SystemClock(), os.urandom, complaint=complaint).examine()
        if given.json:
            _print_json({"findings": findings})
        else:
            for finding in findings:
                print(_finding(finding))
        if findings[0].check == "identity" and not _is_enrolled(folder):
            return NOT_ENROLLED
        return PROBLEMS if any(finding.verdict == "problem" for finding in findings) else OK

    return _drive(examine())


def _fate(done: Simulated) -> str:
    if done.refused:
        return f"the server would not take it: {done.refused} (see tillstream-agent queue list)"
    return "the server has it" if done.sent else "it waits in the queue for the server"


def _is_enrolled(folder: Folder) -> bool:
    """Whether there is an identity, readable or not."""
    try:
        folder.identity()
    except NotEnrolled:
        return False
    except StateError:
        return True
    return True


def _display(given: argparse.Namespace) -> int:
    folder = _folder(given)
    folder.identity()

    async def end() -> None:
        done = await forget_pairings(folder)
        print(f"ended {done.passes} pairings")

    async def tell() -> None:
        try:
            status = await ask(folder)
        except NoAnswer as error:
            if folder.is_running():
                raise
            raise StateError(f"no agent runs on {folder.path}", hint="start it: tillstream-agent run") from error
        code = await pair(folder)
        link = f"http://127.0.0.1:{status.http_port}/display?code={code.code}"
        if code.after_wrong_tries:
            _say("the code before this one was ended by wrong tries: mistyped, or by a program on this machine")
        print(link)
        _say(f"good once, for {code.seconds / 60:.0f} minutes; the page also takes the code {code.code} typed in")
        if given.open and not await asyncio.to_thread(webbrowser.open, link):
            _say("tillstream-agent: no browser could be opened; open the link yourself")

    return _drive(end() if given.forget else tell())


def _queue_list(given: argparse.Namespace) -> int:
    folder = _folder(given)

    async def tell() -> int:
        page = await list_queue(folder, SystemClock())
        if given.json:
            _print_json({"records": page.lines, "here": page.here, "server": page.server, "queue": page.queue})
        else:
            print(_list_in_words(page, SystemClock().now_ms()))
        return DEGRADED if page.here else OK

    return _drive(tell())


def _queue_retry(given: argparse.Namespace) -> int:
    folder = _folder(given)
    if given.all == (given.epoch is not None) or (given.seq is not None and given.epoch is None):
        raise InvalidInput("say which records: --all, or --epoch HEX with or without --seq N", field="queue retry")
    try:
        wanted = msgspec.convert({"epoch": given.epoch, "seq": given.seq}, Wanted)
    except msgspec.ValidationError as error:
        raise InvalidInput("an epoch is 32 hex digits, a seq a whole number from 0 on", field="queue retry") from error

    async def tell() -> int:
        done = await retry(folder, wanted)
        if given.json:
            _print_json(done)
        else:
            print(f"queued again: {done.here} kept here, {done.server} of the server's; {done.gone} are no longer here")
        if not (done.here or done.server or done.gone):
            _say("tillstream-agent: there is no such record (see tillstream-agent queue list)")
        return OK if done.here or done.server or given.all else ERROR

    return _drive(tell())


def _queue_export(given: argparse.Namespace) -> int:
    folder = _folder(given)

    async def write() -> None:
        wanted = await to_export(folder, SystemClock(), everything=given.all)
        done = await asyncio.to_thread(export, folder.journal, wanted, given.file)
        if given.json:
            _print_json(done)
        else:
            print(f"{done.records} records in {done.bytes} bytes written to {given.file}; they stay queued here")
        if done.unreadable:
            _say(
                f"tillstream-agent: {done.unreadable} files of the journal cannot be read (see tillstream-agent doctor)"
            )

    return _drive(write())


def _adapt(given: argparse.Namespace) -> int:
    from . import adapting  # a dozen formats that no other command needs

    if given.list:
        _print_json({"adapters": adapting.listed()}) if given.json else print(adapting.list_in_words())
        return OK
    if given.name is None or given.file is None:
        raise InvalidInput("say which adapter and which file, or --list", field="adapt")
    setting = adapting.setting_of(given.currency, given.zone, given.options)
    readings = adapting.adapt(given.name, given.file, setting)
    _print_json({"transactions": adapting.facts(readings)}) if given.json else print(adapting.in_words(readings))
    return OK


def _list_in_words(page: Page, now_ms: int) -> str:
    rows = [f"{page.queue.records} records queued; refused: {page.here} kept here, {page.server} kept by the server"]
    for line in page.lines:
        state = "waits" if not line.dead else "dead letter"
        where = f"{state}, kept {'here' if line.kept == 'here' else 'at the server'}"
        age = max(0, now_ms - line.since_ms) // 1000
        what = f"{line.kind or 'record'}, {where}, {line.tries} tries, since {age} s"
        rows.append(f"{line.epoch} {line.seq}  {what}\n    {line.code}: {line.reason}")
    return "\n".join(rows)


def _drive(main_coroutine: Coroutine[Any, Any, int | None], config: Config | None = None) -> int:
    """Run a coroutine on uvloop where that is there and wanted, else on Python's own loop."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if config is not None and config.uvloop:
        try:
            import uvloop

            factory = uvloop.new_event_loop
        except ImportError:
            factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main_coroutine) or OK


def _folder(given: argparse.Namespace) -> Folder:
    return Folder(given.state if given.state is not None else default_folder())


def status_code(status: Status) -> int:
    """0 when all is well, 4 when only the server is not heard, 5 when anything else is wrong."""
    if not status.running or set(status.trouble) - _OFFLINE:
        return DEGRADED
    if not status.online:
        return UNREACHABLE
    return DEGRADED if status.trouble else OK


def _in_words(status: Status) -> str:
    rows = [
        ("agent", f"{'running' if status.running else 'not running'}, version {status.agent_version}"),
        ("till", f"{status.till} of store {status.store}, {status.retailer}"),
        ("server", f"{status.server}{_link_words(status)}"),
        ("queue", f"{status.queue.records} records, the oldest {status.queue.oldest_ms // 1000} s old"),
    ]
    if status.queue.aside or status.dead_letters:
        words = f"{status.queue.aside} kept here, {status.dead_letters} at the server: tillstream-agent queue list"
        rows.append(("refused", words))
    if status.damaged_files:
        rows.append(("damaged", f"{status.damaged_files} files of the journal: tillstream-agent doctor"))
    if status.running and status.hook is not None:
        rows.append(("hook", f"port {status.http_port}, {_hook_words(status.hook)}"))
        rows.append(("pack", f"version {status.pack_version}"))
    if status.trouble:
        rows.append(("trouble", ", ".join(status.trouble)))
    return "\n".join(f"{name:8} {text}" for name, text in rows)


def _hook_words(hook: HookLatency) -> str:
    """How fast the calls of the current heartbeat's interval were answered."""
    return f"p50 {hook.p50} µs, p99 {hook.p99} µs" if hook.count else "no calls since the last heartbeat"


def _link_words(status: Status) -> str:
    if not status.running:
        return ""
    return ", online" if status.online else ", offline"


def _finding(finding: Finding) -> str:
    mark = {"ok": "ok     ", "problem": "PROBLEM"}[finding.verdict]
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        mark = f"\x1b[{32 if finding.verdict == 'ok' else 31}m{mark}\x1b[0m"
    text = f"{mark} {finding.check}: {finding.detail}"
    if finding.verdict == "problem":
        text += f"\n        cause: {finding.cause}\n        fix: {finding.fix}"
    return text


def _print_line(line: str, *, raw: bool) -> None:
    """A line of the log, as it is or for people."""
    try:
        said: dict[str, object] = {} if raw else msgspec.json.decode(line, type=dict[str, object])
    except msgspec.MsgspecError:
        said = {}
    if said:
        when, level, event = (str(said.pop(name, "")) for name in ("timestamp", "level", "event"))
        line = " ".join([when, f"{level:7}", event, *(f"{name}={value}" for name, value in said.items())])
    print(line, flush=True)


def _print_json(value: object) -> None:
    print(msgspec.json.encode(value).decode(), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _sentence(error: TillstreamError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _exit_code(error: TillstreamError) -> int:
    codes: tuple[tuple[type[TillstreamError], int], ...] = (
        (NotEnrolled, NOT_ENROLLED),
        (Unreachable, UNREACHABLE),
        (ConfigError, USAGE),
        (InvalidInput, USAGE),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), ERROR)


if __name__ == "__main__":
    sys.exit(main())
