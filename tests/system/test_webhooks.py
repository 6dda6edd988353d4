"""A cloud POS calls the real server: killed meanwhile, started again, and every sale counted once."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.golden import sample

pytestmark = pytest.mark.system

COMMAND = [str(Path(sys.executable).with_name("tillstream-server"))]
SECRET = "wc secret of the shop"
ORDER = sample("woocommerce/order_created_response.json")


def run(data: Path, *arguments: str | Path) -> Any:
    """A command that succeeds, and the JSON that it prints."""
    command = [*COMMAND, *map(str, arguments), "--data", str(data), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def serving(data: Path) -> Iterator[str]:
    """A serving process that is killed at the end; its address."""
    command = [*COMMAND, "serve", "--data", str(data), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["listening"])
        finally:
            process.kill()


def deliver(address: str, body: bytes, *, secret: str = SECRET, event: str = "1") -> tuple[int, Any]:
    """What WooCommerce sends, and the answer."""
    signature = base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()
    headers = {
        "Content-Type": "application/json",
        "X-WC-Webhook-Topic": "order.updated",
        "X-WC-Webhook-Delivery-ID": event,
        "X-WC-Webhook-Signature": signature,
    }
    request = urllib.request.Request(address + "/hooks/woocommerce", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def changed(**fields: Any) -> bytes:
    """The order, after something happened to it."""
    return json.dumps({**json.loads(ORDER), **fields}).encode()


def test_what_was_acknowledged_outlives_the_process_and_is_counted_once(tmp_path: Path) -> None:
    data, secret = tmp_path / "data", tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    run(data, "init")
    create = ("source", "create", "--kind", "woocommerce", "--retailer", "acme", "--store", "web")
    made = run(data, *create, "--secret-file", secret, "--url", "https://hooks.example.com", "--currency", "USD")
    assert (made["url"], "secret" in made) == ("https://hooks.example.com/hooks/woocommerce", False)
    with serving(data) as address:
        assert deliver(address, ORDER) == (200, {"outcome": "stored", "transactions": 1})
    with serving(data) as address:
        assert deliver(address, ORDER)[1]["outcome"] == "repeat"
        later = changed(total="50.00", date_modified="2017-03-22T17:00:00", date_modified_gmt="2017-03-22T20:00:00")
        assert deliver(address, later, event="2") == (200, {"outcome": "stored", "transactions": 1})
        assert deliver(address, ORDER, secret="a guess", event="3")[0] == 401
        assert deliver(address, b'{"id": 1}', event="4") == (200, {"outcome": "dead_letter", "transactions": 0})
        key = run(data, "key", "create", "--role", "viewer")["key"]
    with serving(data) as address:
        request = urllib.request.Request(address + "/api/v1/ledger/summary", headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            told = json.load(reply)
        assert (told["transactions"], told["amount_minor"], told["dead_letters"]) == (1, {"USD": 5000}, 1)
        (letter,) = run(data, "dead-letters", "list")["dead_letters"]
        assert (letter["store"], letter["till"], letter["code"]) == ("web", "woocommerce", "invalid_input")
        (listed,) = run(data, "source", "list")["sources"]
        assert (listed["kind"], listed["events"]) == ("woocommerce", 3)
        assert run(data, "till", "alarms")["alarms"] == []
        assert run(data, "source", "rotate", "--kind", "woocommerce", "--overlap", "0")["secret"]
        assert deliver(address, ORDER, event="5")[0] == 401
        assert run(data, "source", "revoke", "--kind", "woocommerce")["revoked"]
        assert deliver(address, ORDER, event="6")[0] == 404
        replaced = run(data, "source", "replace", "--kind", "woocommerce", "--secret-file", secret)
        assert replaced == made
        assert deliver(address, ORDER, event="7")[0] == 200
    for file in data.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


def test_people_are_told_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(data, "init")
    said = [*COMMAND, "source", "list", "--data", str(data)]
    done = subprocess.run(said, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (0, "", "no sources")
    wrong = [*COMMAND, "source", "create", "--data", str(data), "--kind", "square"]
    wrong += ["--retailer", "acme", "--store", "web"]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "(secret)" in done.stderr
    assert "--secret-file" in done.stderr
