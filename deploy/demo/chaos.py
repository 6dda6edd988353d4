"""Kills the server and the agents with SIGKILL during the replay, and starts them again."""

from __future__ import annotations

import asyncio
import random

from .processes import Server, Till
from .replay import Progress

ROUNDS = 3
DOWN_S = (0.1, 1.5)


async def unleash(server: Server, tills: list[Till], progress: Progress, seed: int) -> None:
    """Kill each of them `ROUNDS` times, at random points of the replay and in a random order."""
    chance = random.Random(seed)
    victims: list[Server | Till] = [server, *tills] * ROUNDS
    chance.shuffle(victims)
    points = sorted(chance.uniform(0.02, 0.9) * progress.baskets for _ in victims)
    for victim, point in zip(victims, points, strict=True):
        while progress.captured < point:
            await asyncio.sleep(0.005)
        await victim.program.kill()
        await asyncio.sleep(chance.uniform(*DOWN_S))
        await victim.start()
