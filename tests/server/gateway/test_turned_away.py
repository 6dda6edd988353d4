"""A till that head office turns away at the very moment at which it asks for something."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from support.serving import Till, serving
from tillstream_protocol import messages
from tillstream_protocol.signing import SignKey
from tillstream_server import app, web
from tillstream_server.app import Parts
from tillstream_server.config import Config
from tillstream_server.events import Events, json_logger
from tillstream_server.folder import Folder
from tillstream_server.gateway.requests import Revoked
from tillstream_server.metrics import Metrics
from tillstream_server.office_fleet import TillRevoke

PLACE = ("acme", "north", "till-1")


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[tuple[Till, Parts]]:
    """A till that is enrolled, and the parts of a server whose doors it knocks at."""
    async with serving(root) as server:
        till = await server.till("till-1")
    metrics = Metrics(CollectorRegistry())
    events = Events(metrics, json_logger(io.StringIO()))
    async with app.opened(Folder(root), Config(), app.Surroundings(server.clock, os.urandom, events)) as parts:
        door = TestServer(web.application(parts.routes(events), events))
        async with door, aiohttp.ClientSession() as http:
            till.server = replace(server, address=str(door.make_url("")).rstrip("/"), metrics=metrics, http=http)
            yield till, parts


def request_for(till: Till, new: SignKey) -> messages.RotateRequest:
    proof = new.sign(messages.rotate_bytes(till.reply.till_id, till.device.public, new.public))
    return messages.RotateRequest(new.public, proof)


async def test_a_till_revoked_while_it_is_let_in_is_off_the_channel(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (till, parts):
        sender = await parts.devices.find(till.device.key_id)
        assert sender is not None
        new = SignKey(os.urandom(32))
        await parts.rotations.follow(sender, request_for(till, new))
        till.device = new
        async with parts.database.write():
            revoking = asyncio.create_task(parts.office.run(TillRevoke(*PLACE)))
            await asyncio.sleep(0.05)
            coming = asyncio.create_task(closed(till))
            await asyncio.sleep(0.3)  # it is known, not revoked yet, and waits to be written down as heard
        await revoking
        assert await asyncio.wait_for(coming, 5) == (4403, "revoked")
        assert not parts.hub.has(till.reply.till_id)


async def closed(till: Till) -> tuple[int | None, str]:
    """How the server ends the channel."""
    async with till.on_push() as pushes:
        return await pushes.is_closed()


async def test_a_till_revoked_while_it_asks_for_another_key_gets_none(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (till, parts):
        sender = await parts.devices.find(till.device.key_id)
        assert sender is not None
        await parts.office.run(TillRevoke(*PLACE))
        with pytest.raises(Revoked):
            await parts.rotations.follow(sender, request_for(till, SignKey(os.urandom(32))))
