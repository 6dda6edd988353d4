"""Packs are renewed before they grow old."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.serving import serving
from tillstream_protocol.messages import PackPush


async def test_a_connected_till_gets_a_new_pack_before_its_own_is_old(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", pack_refresh_seconds=1) as server:
        till = await server.till()
        async with till.on_push() as pushes, asyncio.timeout(20):
            server.clock.turn(2)
            first, _ = await pushes.next(PackPush)
            server.clock.turn(2)
            second, _ = await pushes.next(PackPush)
            assert second.seq > first.seq


async def test_packs_that_are_young_are_left_alone(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", pack_refresh_seconds=1) as server:
        till = await server.till()
        async with till.on_push():
            await asyncio.sleep(0.6)  # two rounds of the renewal, in which the server's own clock stands still
        assert server.count("packs_issued_total") == 1
