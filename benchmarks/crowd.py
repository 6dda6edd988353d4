"""A program of many tills that are only connected: `python -m benchmarks.crowd URL TOKEN`.

For each number that it reads it enrols and connects tills until it has so many, and answers with that number. They
speak the push channel as agents do, with the agent's own session, and keep nothing. It ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp

from tillstream_agent.sync.push import PATH, PushSession, Requeue, Say
from tillstream_protocol import messages, versions
from tillstream_protocol.codec import encode
from tillstream_protocol.messages import Token
from tillstream_protocol.pack import MAX_PACK
from tillstream_protocol.signing import SignKey

_AT_ONCE = 20
_VERSION = "0.1.0"


class NotConnected(Exception):
    """A till of the crowd was turned away."""


async def _enrol(session: aiohttp.ClientSession, url: str, secret: bytes) -> tuple[bytes, SignKey]:
    key = SignKey(os.urandom(32))
    proof = key.sign(messages.proof_bytes(secret, key.public))
    request = messages.EnrolRequest(secret, key.public, proof, versions.PROTOCOL, _VERSION, "benchmark")
    headers = {"Content-Type": messages.CONTENT_TYPE}
    async with session.post(f"{url}/till/v1/enrol", data=encode(request), headers=headers) as response:
        said = await response.read()
        if response.status != 200:
            raise NotConnected(f"enrolment answered {response.status}")
    return messages.decode_enrol_reply(said).till_id, key


async def _stay(session: aiohttp.ClientSession, url: str, secret: bytes, connected: asyncio.Event) -> None:
    """Join, connect, and be there until cancelled. Raises `NotConnected` when the server ends it."""
    till_id, key = await _enrol(session, url, secret)
    talk = PushSession(
        till_id=till_id, device=key, agent_version=_VERSION, last_push=0, pack_version=2**40, claim=lambda: ()
    )
    async with session.ws_connect(url.replace("http", "ws", 1) + PATH, max_msg_size=MAX_PACK) as socket:
        while (message := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
            step = talk.receive(message.data, time.time_ns() // 1_000_000)
            if isinstance(step, Say):
                await socket.send_bytes(step.data)
                connected.set()
            elif not isinstance(step, Requeue):
                await socket.send_bytes(talk.kept(step.push))
        raise NotConnected(f"the server closed the channel with {socket.close_code}")


async def _serve(url: str, token: str) -> None:
    secret = Token.parse(token).secret
    tasks: list[asyncio.Task[None]] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def connect() -> None:
            async with gate:
                there = asyncio.Event()
                task = asyncio.create_task(_stay(session, url, secret, there))
                tasks.append(task)
                waiting = asyncio.create_task(there.wait())
                await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    waiting.cancel()
                    await task

        try:
            while line := await asyncio.to_thread(sys.stdin.readline):
                await asyncio.gather(*(connect() for _ in range(int(line) - len(tasks))))
                if any(task.done() for task in tasks):
                    raise NotConnected("a till is no longer connected")
                print(len(tasks), flush=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Crowd:
    """The program, from outside."""

    process: asyncio.subprocess.Process

    async def grow(self, count: int) -> None:
        """Be so many. Raises `NotConnected`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n".encode())
        answer = (await self.process.stdout.readline()).strip()
        if answer != str(count).encode():
            raise NotConnected(f"of {count} tills not all are connected")


@asynccontextmanager
async def crowd(url: str, token: str) -> AsyncIterator[Crowd]:
    """A crowd of nobody yet."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.crowd", url, token),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Crowd(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 20)
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))
