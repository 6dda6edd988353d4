"""A real Tryton, as a process with a database of its own, and a cashier who works with it as Tryton's clients do."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from support.tryton_build import DATABASE, PASSWORD

BIN = Path(sys.executable).parent
EMPTY_SHOP = Path(sys.prefix) / "tryton-shop" / f"{DATABASE}.sqlite"
MODULE = "sale_point_tillstream"
START_S = 120.0
ABSENT = None if EMPTY_SHOP.exists() and importlib.util.find_spec("trytond") else "`make .venv/tryton` sets Tryton up"
"""Why there is no Tryton here."""

_AROUND = """
from trytond import config
config.update_etc({configuration!r})
from trytond.pool import Pool
from trytond.transaction import Transaction, TransactionError
Pool.start()
pool = Pool({database!r})
pool.init()
locks, again = {{}}, True
while again:
    with Transaction().start({database!r}, 1, **locks) as transaction:
        Sale, again = pool.get("sale.point.sale"), False
        try:
            with transaction.set_context(pool.get("res.user").get_preferences(context_only=True)):
                {code}
        except TransactionError as error:  # it needs a lock from the beginning on
            transaction.rollback()
            error.fix(locks)
            again = True
"""


@dataclass
class Shop:
    """One shop: its folder, what its trytond.conf says of Tillstream, and the server's process."""

    folder: Path
    tillstream: str
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def configuration(self) -> Path:
        """trytond.conf."""
        return self.folder / "trytond.conf"

    @property
    def log(self) -> Path:
        """What trytond says."""
        return self.folder / "trytond.log"

    @property
    def _unused(self) -> Path:
        """The database as it was when the module was new."""
        return self.folder / "unused.copy"

    def set_up(self) -> None:
        """Copy the empty shop and activate the module in it, as its manual says."""
        self.folder.mkdir()
        shutil.copy(EMPTY_SHOP, self.folder)
        self.configure(self.tillstream)
        self.administers("-u", MODULE, "--activate-dependencies")
        shutil.copy(self.folder / f"{DATABASE}.sqlite", self._unused)

    def configure(self, tillstream: str) -> None:
        """Write trytond.conf; it is read when Tryton starts."""
        web, database = f"[web]\nlisten = 127.0.0.1:{self.port}\n", f"[database]\npath = {self.folder}\n"
        self.configuration.write_text(f"{web}{database}uri = sqlite://\n{tillstream}", encoding="utf-8")

    def administers(self, *arguments: str) -> None:
        """Run trytond-admin."""
        command = [str(BIN / "trytond-admin"), "-c", str(self.configuration), "-d", DATABASE, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=START_S, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start trytond, and wait until it answers."""
        command = [str(BIN / "trytond"), "-c", str(self.configuration), "-d", DATABASE]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment())
        until = time.monotonic() + START_S
        while not _answers(self.port):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def runs(self, code: str) -> str:
        """Code inside Tryton, in a process of its own and one transaction; what it prints."""
        around = _AROUND.format(configuration=str(self.configuration), database=DATABASE, code=code)
        command = [sys.executable, "-c", around]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=START_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def own_tests(self) -> str:
        """Tryton's own tests of a module, on a copy of this shop instead of one that would take a minute to make."""
        cache = self.folder / "cache"
        cache.mkdir()
        name = hashlib.shake_128(MODULE.encode()).hexdigest(20)
        shutil.copy(self._unused, cache / f"{name}-sqlite.dump")
        settings = {"DB_CACHE": str(cache), "TRYTOND_DATABASE__URI": "sqlite://", "DB_NAME": ":memory:"}
        command = [sys.executable, "-m", "unittest", "support.tryton_own_tests"]
        environment = {**_environment(), **settings, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=START_S, check=False)
        return done.stderr

    def runs_scheduled_tasks(self) -> None:
        """What trytond-cron does each minute, once."""
        command = [str(BIN / "trytond-cron"), "-c", str(self.configuration), "-d", DATABASE, "--once"]
        subprocess.run(command, capture_output=True, env=_environment(), timeout=START_S, check=True)

    @contextmanager
    def cashier(self) -> Iterator[Cashier]:
        """Somebody logs in, and out in the end."""
        from proteus.config import set_xmlrpc_session

        with set_xmlrpc_session(f"http://127.0.0.1:{self.port}/{DATABASE}/rpc/", "admin", PASSWORD) as session:
            yield Cashier(session)


class Cashier:
    """Sells by the same calls that Tryton's own clients make. One thread at a time."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def model(self, name: str) -> Any:
        """A kind of record."""
        from proteus import Model

        return Model.get(name, config=self._config)

    def one(self, name: str, *domain: tuple[str, str, Any]) -> Any:
        """The first such record."""
        return self.model(name).find(list(domain), limit=1)[0]

    def rings_up(self, *items: tuple[str, float], customer: str | None = None) -> Any:
        """A sale with these products and quantities, not yet paid."""
        sale = self.model("sale.point.sale")(point=self.one("sale.point"))
        for name, quantity in items:
            line = sale.lines.new()
            line.product = self.one("product.product", ("template.name", "=", name))
            line.quantity = quantity
        if customer is not None:
            sale.tillstream_party = self.one("party.party", ("name", "=", customer))
        sale.save()
        return sale

    def takes(self, sale: Any, method: str, amount: Decimal | None = None) -> Any:
        """The customer pays, by default what is due; with the whole sum paid the sale is done."""
        paying = sale.click("pay")
        paying.form.method = self.one("sale.point.payment.method", ("name", "=", method))
        if amount is not None:
            paying.form.amount = amount
        paying.execute("pay")
        if paying.state != paying.end_state:
            paying.execute("pay")  # the change, which Tryton proposes
        sale.reload()
        return sale

    def sells(self, *items: tuple[str, float], customer: str | None = None) -> Any:
        """Ring up and take cash."""
        return self.takes(self.rings_up(*items, customer=customer), "Cash")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("TRYTOND_", "TILLSTREAM_"))}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
