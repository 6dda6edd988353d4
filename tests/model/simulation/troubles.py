"""What befalls machines, links and the server. Each trouble lasts as long as its coroutine, or until all is healed."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from support.medium import Manner
from support.simdisk import Judge, Operation, Short, Verdict
from tillstream_agent.folder import Folder
from tillstream_protocol.framing import FRAMES_START, ChunkHeader, DamagedChunk, Frame, scan

from .chance import Chance
from .fate import WINDOW_S, Copy, Name
from .ledger import read
from .network import Weather
from .server import Mood
from .till import Machine
from .world import World

MANNERS: Final[tuple[Manner, ...]] = ("dropped", "kept", "torn", "reordered")
Trouble = Callable[[World, Machine, Chance], Coroutine[Any, Any, None]]


# Machines


async def crash(world: World, machine: Machine, chance: Chance) -> None:
    """The agent is killed, and started again."""
    async with world.locks[machine.name]:
        await _soon_after_a_sale(world, machine, chance)
        world.history.say(machine.name, "crashes")
        world.went_down(machine)
        await machine.crash()
        await asyncio.sleep(chance.expovariate(0.3))
        await world.bring_up(machine)


async def stop(world: World, machine: Machine, chance: Chance) -> None:
    """The agent is ended properly, and started again."""
    async with world.locks[machine.name]:
        world.history.say(machine.name, "is stopped")
        await machine.stop()
        await asyncio.sleep(chance.expovariate(0.3))
        await world.bring_up(machine)


async def power_cut(world: World, machine: Machine, chance: Chance) -> None:
    """The machine loses power, and boots again."""
    async with world.locks[machine.name]:
        await _soon_after_a_sale(world, machine, chance)
        await _lose_power(world, machine, chance)
        await asyncio.sleep(chance.expovariate(0.2))
        await world.bring_up(machine)


async def _soon_after_a_sale(world: World, machine: Machine, chance: Chance) -> None:
    """Often just when something was captured, since that is when something can be lost."""
    if chance.happens(0.7):
        await world.pos[machine.name].next_sale()
        await asyncio.sleep(chance.uniform(0, 2 * WINDOW_S))


async def _lose_power(world: World, machine: Machine, chance: Chance) -> None:
    manner = chance.choice(MANNERS)
    world.history.say(machine.name, f"loses power, {manner}")
    now = world.time()
    world.fate.power_cut(machine.name, now, window=world.window(machine), faults=world.faults[machine.name])
    await machine.lose_power(manner)


async def crash_in_call(world: World, machine: Machine, chance: Chance) -> None:
    """The agent is killed in the middle of a call of its disk."""
    await _dies_in_call(world, machine, chance, power=False)


async def power_cut_in_call(world: World, machine: Machine, chance: Chance) -> None:
    """The machine loses power in the middle of a call of its disk."""
    await _dies_in_call(world, machine, chance, power=True)


async def _dies_in_call(world: World, machine: Machine, chance: Chance, *, power: bool) -> None:
    async with world.locks[machine.name]:
        left = chance.randrange(1, 60)
        dead = asyncio.Event()

        def judge(operation: Operation, name: str, index: int) -> Verdict:
            nonlocal left
            left -= 1
            if left == 0:
                dead.set()
                return "off"
            return None

        machine.judged(judge)
        try:
            async with asyncio.timeout(30.0):
                await dead.wait()
        except TimeoutError:
            return
        finally:
            machine.judged(None)
        if power:
            await _lose_power(world, machine, chance)
        else:
            world.history.say(machine.name, "crashes in a call")
            world.went_down(machine)
            await machine.crash()
        await asyncio.sleep(chance.expovariate(0.3))
        await world.bring_up(machine)


async def turn_clock(world: World, machine: Machine, chance: Chance) -> None:
    """The machine's clock is moved: an hour back, ten years to either side, or to 1970."""
    year = 365 * 86_400_000
    machine.clock.off_ms = chance.choice((-3_600_000, 10 * year, -10 * year, -100 * year, 0))
    world.history.say(machine.name, f"has its clock moved by {machine.clock.off_ms} ms")


# Disks


async def disk_errors(world: World, machine: Machine, chance: Chance) -> None:
    """Calls of the disk fail, some kinds of them more than others, for a while."""
    kinds: tuple[Operation, ...] = ("write", "sync", "create", "sync_folder", "cut", "rename", "unlink", "read")
    shares = {kind: chance.choice((0.0, 0.05, 0.5, 1.0)) for kind in kinds}

    def judge(operation: Operation, name: str, index: int) -> Verdict:
        if not chance.happens(shares.get(operation, 0.0)):
            return None
        if operation == "write" and chance.happens(0.5):
            return Short(chance.randrange(200), errno.EIO)
        return errno.EIO

    await _unwell(world, machine, judge, chance.choice((0.05, 1.0, 10.0)))


async def disk_full(world: World, machine: Machine, chance: Chance) -> None:
    """Something else fills the disk, for a while."""
    async with world.locks[machine.name]:
        used = sum(map(len, machine.disk.image().values()))
        machine.disk.capacity = used + chance.choice((0, 100, 700, 3_000))
        with world.unwell(machine):
            await asyncio.sleep(chance.choice((0.5, 5.0, 20.0)))
        machine.disk.capacity = None


async def _unwell(world: World, machine: Machine, judge: Judge, seconds: float) -> None:
    async with world.locks[machine.name]:
        machine.judged(judge)
        with world.unwell(machine):
            await asyncio.sleep(seconds)
        machine.judged(None)


async def slow_disk(world: World, machine: Machine, chance: Chance) -> None:
    """Syncs take long, for a while."""
    async with world.locks[machine.name]:
        usual = machine.slow_s
        machine.slow_s = chance.choice((0.2, 1.5))
        with world.unwell(machine):
            await asyncio.sleep(chance.uniform(1.0, 10.0))
        machine.slow_s = usual


async def flip(world: World, machine: Machine, chance: Chance) -> None:
    """A bit of a chunk turns round."""
    chunks = sorted(name for name, content in machine.disk.image().items() if len(content) > FRAMES_START)
    if not chunks:
        return
    name = chance.choice(chunks)
    content = machine.disk.image()[name]
    byte = chance.randrange(FRAMES_START // 2, len(content))
    hit = _names_at(content, byte)
    world.history.say(machine.name, f"has a bit of {name} flipped at {byte} of {len(content)}, in {len(hit)} records")
    world.fate.hit(machine.name, hit, world.time())
    machine.disk.flip(name, byte, chance.randrange(8))


async def flip_headers(world: World, machine: Machine, chance: Chance) -> None:
    """The agent is killed, and a bit turns round in either copy of a chunk's header."""
    async with world.locks[machine.name]:
        world.went_down(machine)
        await machine.crash()
        chunks = sorted(name for name, content in machine.disk.image().items() if len(content) > FRAMES_START)
        for name in chunks and [chance.choice(chunks)]:
            hit = _names_at(machine.disk.image()[name], None)
            world.history.say(machine.name, f"has both headers of {name} damaged, over {len(hit)} records")
            world.fate.hit(machine.name, hit, world.time())
            world.fate.beheaded |= {epoch for epoch, _ in hit}
            half = FRAMES_START // 2
            for start in (0, half):
                machine.disk.flip(name, start + chance.randrange(half), chance.randrange(8))
        await world.bring_up(machine)


async def lose_state(world: World, machine: Machine, chance: Chance) -> None:
    """The agent is killed, and its small durable state is damaged before it is started again."""
    async with world.locks[machine.name]:
        world.history.say(machine.name, "crashes, and its state is damaged")
        world.went_down(machine)
        await machine.crash()
        for file in sorted(machine.root.glob("state.db*")):
            file.unlink()
        (machine.root / "state.db").write_bytes(chance.choice((b"", b"not a database" * 400)))
        await world.bring_up(machine)


def _names_at(content: bytes, byte: int | None) -> list[Name]:
    """The record that lies at a place of a chunk, if one does; all of them for no place."""
    try:
        epoch = ChunkHeader.read(content[:FRAMES_START])[0].epoch
    except DamagedChunk:
        return []
    frames = [part for part in scan(content, FRAMES_START) if isinstance(part, Frame)]
    return [(epoch, f.header.seq) for f in frames if byte is None or f.start <= byte < f.end]


async def take_image(world: World, machine: Machine, chance: Chance) -> None:
    """Somebody copies the machine's disk."""
    async with world.locks[machine.name]:
        names = [record.name for record in world.fate.at_home(machine.name)]
        world.images[machine.name].append((machine.image(), names))


async def put_back(world: World, machine: Machine, chance: Chance) -> None:
    """Somebody puts an old image back."""
    async with world.locks[machine.name]:
        if not world.images[machine.name]:
            return
        image, names = chance.choice(world.images[machine.name])
        await machine.crash()
        world.history.say(machine.name, f"gets its image of {image.taken_at:.3f} back")
        gone = world.fate.put_back(machine.name, names, world.time())
        known = any(name in gone for name in read(world.server.root / "ledger.db").received)
        machine.put_back(image)
        till_id = Folder(machine.root).identity().till_id
        now = world.time()
        world.copies.append(Copy(till_id, machine.name, machine.name, image.taken_at, now, known))
        await asyncio.sleep(chance.expovariate(0.3))
        await world.bring_up(machine)


async def clone(world: World, machine: Machine, chance: Chance) -> None:
    """Somebody copies the machine's disk to another machine, and starts both."""
    async with world.locks[machine.name]:
        if len(world.machines) > world.plan.tills:
            return
        image = machine.image()
        names = [record.name for record in world.fate.at_home(machine.name)]
        name = f"{machine.name}b"
        world.history.say(machine.name, f"is cloned as {name}")
        root = world.root / name
        shutil.copytree(image.folder, root)
        other = world.add_machine(name, root)
        world.fate.put_back(name, names, world.time())
        other.put_back(image)
        till_id = Folder(machine.root).identity().till_id
        world.copies.append(Copy(till_id, machine.name, name, image.taken_at, world.time(), known=False))
        await world.bring_up(other)


async def sweep(world: World, machine: Machine, chance: Chance) -> None:
    """Housekeeping comes by."""
    if machine.up:
        await machine.process.spawn(machine.sync.housekeeping.sweep())


# Links


async def bad_link(world: World, machine: Machine, chance: Chance) -> None:
    """The link is slow and loses, repeats and breaks."""
    shares = (0.0, 0.1, 0.4)
    machine.link.weather = Weather(
        delay=chance.choice((0.02, 0.5, 5.0)),
        lost_requests=chance.choice(shares),
        lost_replies=chance.choice(shares),
        repeated=chance.choice(shares),
        breaks=chance.choice(shares) / 4,
    )


async def cut_link(world: World, machine: Machine, chance: Chance) -> None:
    """Nothing gets through, for a while."""
    machine.link.cut()
    await asyncio.sleep(chance.expovariate(0.05))
    machine.link.weather.cut = False


async def break_sockets(world: World, machine: Machine, chance: Chance) -> None:
    """The push channel breaks."""
    machine.link.tear()


# The server


async def kill_server(world: World, machine: Machine, chance: Chance) -> None:
    """The server is killed, and started again."""
    if chance.happens(0.7):
        await world.server.next_batch()
        await asyncio.sleep(chance.uniform(0, 0.3))
    world.history.say("server", "is killed")
    await world.server.kill()
    await asyncio.sleep(chance.expovariate(0.2))
    await world.server_up()


async def deadly_replies(world: World, machine: Machine, chance: Chance) -> None:
    """The server dies between commit and reply, now and then."""
    world.server.mood = Mood(dies_before_reply=chance.choice((0.2, 1.0)))
    await asyncio.sleep(chance.uniform(1, 20))
    world.server.mood = Mood()
    await asyncio.sleep(1.0)
    await world.server_up()


async def sick_server(world: World, machine: Machine, chance: Chance) -> None:
    """The server fails, before or after it has done its work."""
    world.server.mood = Mood(fails_before=chance.choice((0.0, 0.5)), fails_after=chance.choice((0.0, 0.5, 1.0)))
    await asyncio.sleep(chance.uniform(1, 20))
    world.server.mood = Mood()


async def slow_server(world: World, machine: Machine, chance: Chance) -> None:
    """The server takes its time, so that batches overtake each other."""
    world.server.mood = Mood(slow_s=chance.choice((0.5, 40.0)))
    await asyncio.sleep(chance.uniform(1, 20))
    world.server.mood = Mood()


async def back_up(world: World, machine: Machine, chance: Chance) -> None:
    """Somebody backs the server up."""
    world.history.say("server", "is backed up")
    world.backups.append(world.server.back_up())


async def restore(world: World, machine: Machine, chance: Chance) -> None:
    """Somebody restores the server from a backup."""
    if world.backups:
        world.history.say("server", "is restored")
        before = read(world.server.root / "ledger.db").received
        await world.server.restore(chance.choice(world.backups))
        lacks = before - read(world.server.root / "ledger.db").received
        for one in world.machines:
            world.fate.forgotten(one.name, sorted(lacks - one.held()), world.time())


async def poison(world: World, machine: Machine, chance: Chance) -> None:
    """The server will not have one of the newest records, until all is healed."""
    records = world.fate.at_home(machine.name)
    if records:
        name = chance.choice(records[-5:]).name
        world.history.say("server", f"will not have {name[0].hex()[:6]}/{name[1]}")
        world.server.poison.add(name)


TROUBLES: Final[Mapping[str, Trouble]] = {
    trouble.__name__: trouble
    for trouble in (
        crash, crash_in_call, power_cut, power_cut_in_call, stop, turn_clock, disk_errors, disk_full, slow_disk, flip,
        flip_headers, lose_state,
        take_image, put_back, clone, sweep, bad_link, cut_link, break_sockets, kill_server, deadly_replies, sick_server,
        slow_server, back_up, restore, poison,
    )
}  # fmt: skip
