"""The simulated disk keeps what a real one keeps, takes what a real one may take, and fails as it is told."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.medium import SECTOR, Manner
from support.simdisk import Judge, Operation, PowerOff, Short, SimDisk, SimFile, Verdict, from_image
from tillstream_agent.journal import Disk, File, FolderDisk

MANNERS: tuple[Manner, ...] = ("dropped", "kept", "torn", "reordered")


def fails(operation: Operation, verdict: Verdict) -> Judge:
    """A judge of one kind of call."""
    return lambda asked, _name, _index: verdict if asked == operation else None


async def settled(disk: SimDisk, name: str, data: bytes) -> SimFile:
    """A file whose name and content are safe."""
    file = disk.create(name)
    file.write(data)
    await file.sync()
    await disk.sync_folder()
    return file


def outcomes(disk: SimDisk, manner: Manner, name: str = "a", times: int = 300) -> set[bytes | None]:
    """What many power cuts leave of a file; None where it is gone."""
    return {disk.power_cut(manner, Random(seed)).image().get(name) for seed in range(times)}


async def test_what_is_synced_survives_every_power_cut() -> None:
    disk = SimDisk()
    await settled(disk, "a", b"safe")
    assert {outcome for manner in MANNERS for outcome in outcomes(disk, manner, times=20)} == {b"safe"}
    assert disk.survives("a", 0, b"safe")


async def test_a_swift_disk_syncs_at_once_and_another_leaves_it_to_who_waits() -> None:
    for swift in (True, False):
        disk = SimDisk(swift=swift)
        file = await settled(disk, "a", b"safe")
        file.write(b"more")
        assert file.sync_now() is swift
        assert disk.survives("a", 4, b"more") is swift


async def test_what_a_sync_at_once_comes_to_the_next_one_says() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    file.write(b"more")
    disk.judge = lambda _operation, _name, _index: errno.EIO
    assert not file.sync_now()
    disk.judge = None
    assert not file.sync_now(), "nobody was told of the first"
    with pytest.raises(OSError, match="Input/output"):
        await file.sync()
    await file.sync()
    assert b"safemore" not in outcomes(disk, "dropped"), "a sync that failed has lost what was written before it"


async def test_unsynced_writes_may_go_stay_be_torn_or_come_without_those_before_them() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    file.write(b"one")
    file.write(b"two")
    assert outcomes(disk, "dropped") == {b"safe"}
    assert outcomes(disk, "kept") == {b"safeonetwo"}
    torn = outcomes(disk, "torn")
    assert {b"safe", b"safeo", b"safeone", b"safeonetw", b"safeone\0\0\0"} <= torn
    assert all(one is not None and (b"two" not in one or b"one" in one) for one in torn)
    assert b"safe\0\0\0two" in outcomes(disk, "reordered")
    assert not disk.survives("a", 4, b"one")


async def test_a_torn_write_keeps_whole_sectors_and_zeros_between() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"s" * 100)
    file.write(b"w" * (4 * SECTOR))
    found = outcomes(disk, "torn")
    with_a_hole = [one for one in found if one and 0 in one[100:] and b"w" in one[100:]]
    assert with_a_hole
    for one in with_a_hole:
        for sector in range(1, len(one) // SECTOR):
            assert len(set(one[sector * SECTOR : (sector + 1) * SECTOR])) == 1
        assert one[:100] == b"s" * 100


async def test_a_name_survives_only_once_the_folder_was_synced() -> None:
    disk = SimDisk()
    file = disk.create("a")
    file.write(b"data")
    await file.sync()
    assert outcomes(disk, "dropped") == {None}
    assert outcomes(disk, "reordered") == {None, b"data"}
    await disk.sync_folder()
    assert outcomes(disk, "reordered") == {b"data"}


async def test_a_synced_name_says_nothing_of_what_is_in_the_file() -> None:
    disk = SimDisk()
    disk.create("a").write(b"data")
    await disk.sync_folder()
    assert outcomes(disk, "dropped") == {b""}


async def test_a_renaming_and_a_removal_can_be_taken_back_until_the_folder_is_synced() -> None:
    disk = SimDisk()
    await settled(disk, "a", b"1")
    await settled(disk, "b", b"2")
    disk.rename("a", "c")
    disk.unlink("b")
    assert disk.image() == {"c": b"1"}
    assert disk.power_cut("dropped", Random(0)).image() == {"a": b"1", "b": b"2"}
    in_order = {tuple(sorted(disk.power_cut("torn", Random(seed)).image())) for seed in range(50)}
    assert in_order == {("b", "c"), ("c",)}, "the removal came last"
    found = {tuple(sorted(disk.power_cut("reordered", Random(seed)).image())) for seed in range(50)}
    assert found == {("a", "b"), ("a",), ("b", "c"), ("c",)}
    await disk.sync_folder()
    assert disk.power_cut("dropped", Random(0)).image() == {"c": b"1"}


async def test_a_cut_can_be_taken_back_until_it_is_synced() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"longer")
    file.cut(4)
    file.write(b"!")
    assert disk.image() == {"a": b"long!"}
    assert outcomes(disk, "reordered") >= {b"longer", b"long", b"long!r", b"long!"}
    await file.sync()
    assert outcomes(disk, "reordered") == {b"long!"}


async def test_what_is_written_while_a_sync_is_under_way_is_not_promised() -> None:
    disk = SimDisk()

    async def meanwhile() -> None:
        file.write(b" late")

    file = await settled(disk, "a", b"safe")
    file.write(b" too")
    disk.pause = meanwhile
    await file.sync()
    assert disk.power_cut("dropped", Random(0)).image() == {"a": b"safe too"}


async def test_after_a_failed_sync_the_next_one_succeeds_and_promises_only_what_came_later() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    file.write(b"betrayed")
    disk.judge = fails("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        await file.sync()
    disk.judge = None
    file.write(b"later")
    await file.sync()
    assert disk.image() == {"a": b"safebetrayedlater"}
    assert disk.power_cut("dropped", Random(0)).image() == {"a": b"safe\0\0\0\0\0\0\0\0later"}
    assert b"safebetrayedlater" in outcomes(disk, "reordered")
    assert disk.betrayed("a")
    assert not disk.survives("a", 0, b"safebetrayedlater")


async def test_a_failed_sync_of_the_folder_leaves_its_names_in_doubt_for_ever() -> None:
    disk = SimDisk()
    disk.create("a")
    disk.judge = fails("sync_folder", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        await disk.sync_folder()
    disk.judge = None
    disk.create("b")
    await disk.sync_folder()
    assert sorted(disk.power_cut("dropped", Random(0)).image()) == ["b"]
    assert disk.betrayed("a")
    assert not disk.betrayed("b")


async def test_a_crash_takes_nothing_and_what_was_unsynced_stays_so() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    file.write(b"not")
    after = disk.crash()
    assert after.image() == {"a": b"safenot"}
    assert after.power_cut("dropped", Random(0)).image() == {"a": b"safe"}
    await after.append_to("a").sync()
    assert after.power_cut("dropped", Random(0)).image() == {"a": b"safenot"}


async def test_a_dead_process_can_do_nothing_more() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    disk.crash()
    calls: list[Callable[[], object]] = [
        disk.names,
        lambda: file.write(b"x"),
        file.close,
        lambda: disk.unlink("a"),
    ]
    for call in calls:
        with pytest.raises(PowerOff):
            call()
    for sync in (file.sync, disk.sync_folder):
        with pytest.raises(PowerOff):
            await sync()


@pytest.mark.parametrize("manner", MANNERS)
async def test_the_same_seed_leaves_the_same(manner: Manner) -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    for part in range(9):
        file.write(bytes([part]) * 700)
        disk.create(f"b{part}")
    assert disk.power_cut(manner, Random(4)).image() == disk.power_cut(manner, Random(4)).image()


async def test_the_power_can_go_in_the_middle_of_any_call() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    disk.judge = fails("write", "off")
    with pytest.raises(PowerOff):
        file.write(b"under way")
    with pytest.raises(PowerOff):
        disk.names()
    assert {b"safe", b"safeunder way", b"safeunder"} <= outcomes(disk, "torn") | outcomes(disk, "kept")


async def test_a_sync_during_which_the_power_goes_promised_nothing() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"safe")
    file.write(b"x")
    disk.create("b")
    disk.judge = fails("sync", "off")
    with pytest.raises(PowerOff):
        await file.sync()
    assert disk.power_cut("dropped", Random(0)).image() == {"a": b"safe"}


async def test_a_sync_that_lies_promises_nothing() -> None:
    disk = SimDisk(judge=lambda operation, _name, _index: "lie" if operation.startswith("sync") else None)
    await settled(disk, "a", b"not safe")
    assert disk.power_cut("dropped", Random(0)).image() == {}


async def test_every_call_is_counted_and_can_fail() -> None:
    asked: list[tuple[str, str, int]] = []

    def judge(operation: Operation, name: str, index: int) -> Verdict:
        asked.append((operation, name, index))
        return errno.EIO

    disk = SimDisk()
    file = await settled(disk, "a", b"x")
    disk.judge, disk.calls = judge, 0
    calls: dict[Operation, Callable[[], object]] = {
        "names": disk.names,
        "size": lambda: disk.size("a"),
        "read": lambda: disk.read("a", 0, 1),
        "create": lambda: disk.create("b"),
        "append_to": lambda: disk.append_to("a"),
        "rename": lambda: disk.rename("a", "b"),
        "unlink": lambda: disk.unlink("a"),
        "free": disk.free,
        "write": lambda: file.write(b"x"),
        "cut": lambda: file.cut(0),
    }
    for call in calls.values():
        with pytest.raises(OSError, match="Input/output"):
            call()
    for sync in (file.sync, disk.sync_folder):
        with pytest.raises(OSError, match="Input/output"):
            await sync()
    assert [operation for operation, _, _ in asked] == [*calls, "sync", "sync_folder"]
    assert [index for _, _, index in asked] == list(range(12))
    assert disk.image() == {"a": b"x"}, "what failed did nothing"


async def test_a_write_can_be_cut_short_and_so_can_a_read() -> None:
    disk = SimDisk(judge=fails("write", Short(3, errno.EIO)))
    file = disk.create("a")
    with pytest.raises(OSError, match="Input/output"):
        file.write(b"abcdef")
    assert disk.image() == {"a": b"abc"}
    disk.judge = fails("read", Short(2))
    assert disk.read("a", 0, 9) == b"ab"


async def test_a_full_disk_takes_what_fits_and_heals_when_there_is_room() -> None:
    disk = SimDisk(capacity=10)
    file = await settled(disk, "a", b"1234567")
    assert disk.free() == 3
    with pytest.raises(OSError, match="No space"):
        file.write(b"abcdef")
    assert disk.image() == {"a": b"1234567abc"}
    file.cut(7)
    file.write(b"ab")
    assert disk.free() == 1
    disk.capacity = 100
    file.write(b"cdef")
    assert disk.power_cut("kept", Random(0)).capacity == 100


async def test_a_flipped_bit_stays_flipped_whether_its_byte_was_synced_or_not() -> None:
    disk = SimDisk()
    file = await settled(disk, "a", b"\0\0")
    file.write(b"\0\0")
    disk.flip("a", 1, 7)
    disk.flip("a", 3, 0)
    assert disk.image() == {"a": b"\0\x80\0\x01"}
    assert disk.power_cut("kept", Random(0)).image() == {"a": b"\0\x80\0\x01"}
    assert disk.power_cut("dropped", Random(0)).image() == {"a": b"\0\x80"}


async def test_a_restored_image_is_synced_and_shares_nothing_with_its_origin() -> None:
    disk = SimDisk()
    file = disk.create("a")
    file.write(b"then")
    image = disk.image()
    file.write(b"now")
    clone = from_image(image, capacity=50)
    clone.append_to("a").write(b"!")
    assert disk.image() == {"a": b"thennow"}
    assert clone.power_cut("dropped", Random(0)).image() == {"a": b"then"}


async def test_a_closed_file_is_closed() -> None:
    file = await settled(SimDisk(), "a", b"x")
    file.close()
    calls: list[Callable[[], None]] = [lambda: file.write(b"x"), lambda: file.cut(0), file.close]
    for call in calls:
        with pytest.raises(OSError, match="Bad file"):
            call()
    with pytest.raises(OSError, match="Bad file"):
        await file.sync()


def do(disk: Disk, files: dict[str, File], step: tuple[str, str, str, int]) -> object:
    """One step on a disk: what it says, or the name of the error it raises."""
    what, name, to, size = step
    try:
        match what:
            case "create" if name not in files:
                files[name] = disk.create(name)
            case "append" if name not in files:
                files[name] = disk.append_to(name)
            case "write" if name in files:
                files[name].write(bytes([size % 256]) * size)
            case "cut" if name in files:
                files[name].cut(size)
            case "rename":
                disk.rename(name, to)
            case "unlink":
                disk.unlink(name)
            case "size":
                return disk.size(name)
            case "read":
                return disk.read(name, size, 64)
    except OSError as error:
        return error.errno
    return None


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "append", "write", "write", "cut", "rename", "unlink", "size", "read"]),
        NAMES,
        NAMES,
        st.integers(0, 2000),
    ),
    max_size=30,
)


@given(STEPS)
def test_it_reads_and_writes_as_a_real_folder_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, int]]
) -> None:
    folder: Path = tmp_path_factory.mktemp("folder")
    real, simulated = FolderDisk(folder), SimDisk()
    real_files: dict[str, File] = {}
    simulated_files: dict[str, File] = {}
    for step in steps:
        assert do(real, real_files, step) == do(simulated, simulated_files, step), step
    assert sorted(real.names()) == sorted(simulated.names())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == simulated.image()
    for file in real_files.values():
        file.close()
