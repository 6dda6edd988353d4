"""Files that a POS drops: captured once they are whole, sealed, and then removed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from support.agents import NOW_MS, Counter, counter
from support.disks import BROKEN, TroubledDisk
from support.golden import blanks, sample
from tillstream_agent.config_doors import DropSetting
from tillstream_agent.hooks import drop_folder
from tillstream_agent.hooks.drop import DropDoor
from tillstream_agent.journal import Disk
from tillstream_protocol.adapters import Setting
from tillstream_protocol.adapters.registry import ADAPTERS

ORDER = sample("woocommerce/order_created_response.json")
DAY = sample("poslog/kinds-2.xml")


@dataclass
class Till:
    """A till with a watched folder."""

    folder: Path
    behind: Counter
    door: DropDoor
    disk: TroubledDisk | None

    def writes(self, data: bytes, name: str = "order.json", *, at_ms: int = NOW_MS) -> Path:
        """The POS writes a file. Writing the same again is another file, as `rename` would make it."""
        temporary = self.folder / f"{name}.tmp"
        temporary.write_bytes(data)
        os.utime(temporary, ns=(at_ms * 1_000_000, at_ms * 1_000_000))
        return temporary.rename(self.folder / name)

    async def looks(self, times: int = 2, seconds: float = 0.0625) -> float:
        """The door looks again and again; the pause after the last. Less time passes than a disk may take to answer."""
        for _ in range(times):
            pause = await self.door.round()
            self.behind.clock.turn(seconds)
        return pause

    @property
    def captured(self) -> int:
        return self.behind.journal.position.seq

    def there(self, inner: str = "") -> list[str]:
        place = self.folder / inner
        return sorted(path.name for path in place.iterdir() if path.is_file()) if place.exists() else []

    def counted(self, outcome: str) -> float:
        return self.behind.telling.counted("drop_files", outcome=outcome)

    def said(self) -> list[object]:
        return self.behind.telling.said()


@asynccontextmanager
async def watching(folder: Path, disk: Disk | None = None, **about: Any) -> AsyncIterator[Till]:
    place = folder / "pos"
    place.mkdir(mode=0o700, exist_ok=True)
    setting = replace(DropSetting(place, "woocommerce", settle_s=0.0625), **about)
    async with counter(folder, disk=disk) as behind:
        door = DropDoor(setting, behind.payloads, behind.telling.events, behind.clock, patience_s=0.2)
        yield Till(place, behind, door, disk if isinstance(disk, TroubledDisk) else None)


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with watching(tmp_path) as opened:
        yield opened


async def test_a_file_is_captured_and_removed(till: Till) -> None:
    till.writes(ORDER)
    await till.looks()
    assert (till.captured, till.there(), till.there("done"), till.there("error")) == (1, [], [], [])
    assert till.there(drop_folder.LEAVING) == []
    assert till.counted("captured") == 1
    assert till.behind.telling.counted("captures", door="drop", kind="transaction", ack="disk") == 1


async def test_a_file_is_on_the_disk_before_it_is_removed(till: Till) -> None:
    till.writes(ORDER)
    await till.looks()
    assert till.behind.journal.next_slice("live", 1 << 20) is not None


async def test_a_file_is_kept_in_clear_where_that_is_wanted(tmp_path: Path) -> None:
    async with watching(tmp_path, keep=True) as till:
        for _ in range(2):
            till.writes(ORDER)
            await till.looks()
        assert till.captured == 1
        assert (till.counted("captured"), till.counted("repeat")) == (1, 1)
        assert till.there("done") == ["order.json", "order.json.1"]
        assert (till.folder / "done").stat().st_mode & 0o777 == 0o700


async def test_a_file_that_still_grows_is_left_alone(till: Till) -> None:
    path = till.writes(ORDER[:100])
    for size in range(200, 1000, 200):
        await till.looks(1)
        path.write_bytes(ORDER[:size])
    assert (till.captured, till.there()) == (0, ["order.json"])
    path.write_bytes(ORDER)
    await till.looks()
    assert (till.captured, till.there()) == (1, [])


async def test_settling_is_measured_by_time_and_not_by_looks(tmp_path: Path) -> None:
    async with watching(tmp_path, settle_s=0.3125) as till:
        till.writes(ORDER)
        await till.looks(5)
        assert till.captured == 0
        await till.looks(1)
        assert till.captured == 1


@pytest.mark.parametrize("name", ["order.tmp", "order.json.PART", ".order.json", "order.json~", "order.xml"])
async def test_unfinished_names_and_those_outside_the_pattern_are_left_alone(tmp_path: Path, name: str) -> None:
    async with watching(tmp_path, pattern="*.json*") as till:
        (till.folder / name).write_bytes(ORDER)
        await till.looks()
        assert (till.captured, till.there()) == (0, [name])


async def test_an_empty_file_is_not_finished(till: Till) -> None:
    till.writes(b"")
    await till.looks(5)
    assert till.there() == ["order.json"]


@pytest.mark.parametrize("year_ms", [-86_400_000, 300_000_000_000_000])
async def test_a_file_of_an_impossible_time_is_captured_all_the_same(till: Till, year_ms: int) -> None:
    path = till.writes(ORDER)
    try:
        os.utime(path, ns=(year_ms * 1_000_000,) * 2)
    except OSError as error:
        pytest.skip(f"not possible on this file system: {error}")
    await till.looks()
    assert (till.captured, till.there("error")) == (1, [])


async def test_what_is_no_file_is_left_alone_and_named_once(till: Till) -> None:
    secret = till.folder.parent / "secret"
    secret.write_bytes(ORDER)
    (till.folder / "link.json").symlink_to(secret)
    (till.folder / "inner").mkdir()
    os.mkfifo(till.folder / "pipe.json")
    await till.looks(3)
    assert till.captured == 0
    told = [line["name"] for line in till.behind.telling.lines() if line["event"] == "drop_left_alone"]
    assert told == ["inner", "link.json", "pipe.json"]
    assert secret.exists()


async def test_a_file_that_becomes_a_link_while_it_settles_is_not_followed(till: Till) -> None:
    path = till.writes(ORDER)
    look = drop_folder.DropFolder(till.folder, "*").look()
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(OSError) as caught:
        drop_folder.DropFolder(till.folder, "*").read(look.files[0])
    assert caught.value.errno == errno.ELOOP


async def test_a_file_that_cannot_be_read_as_what_it_should_be_is_set_aside_with_the_reason(till: Till) -> None:
    till.writes(b'{"id": ', "bad.json")
    till.writes(ORDER, "good.json", at_ms=NOW_MS + 1)
    await till.looks()
    assert till.captured == 1
    assert till.there("error") == ["bad.json", "bad.json.error.json"]
    report = json.loads((till.folder / "error" / "bad.json.error.json").read_bytes())
    assert (report["file"], report["adapter"]) == ("bad.json", "woocommerce")
    assert (report["error"]["code"], report["error"]["field"]) == ("invalid_input", "body")
    assert (till.folder / "error" / "bad.json.error.json").stat().st_mode & 0o777 == 0o600
    assert till.counted("refused") == 1


async def test_names_that_are_taken_or_long_or_no_text_are_no_trouble(till: Till) -> None:
    names = ["bad.json", "bad.json", "x" * 240 + ".json", os.fsdecode(b"caf\xe9.json")]
    for name in names:
        path = till.folder / name
        path.write_bytes(b"{")
        await till.looks()
    reports = [name for name in till.there("error") if name.endswith(".error.json")]
    assert len(reports) == 4
    assert till.there() == []
    assert "bad.json.1.error.json" in reports


async def test_a_file_that_is_too_large_is_set_aside_unread(till: Till) -> None:
    path = till.writes(b"")
    with path.open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    await till.looks()
    report = json.loads((till.folder / "error" / "order.json.error.json").read_bytes())
    assert (report["error"]["code"], report["error"]["limit"]) == ("too_large", "16777216 bytes")


async def test_a_file_that_sells_nothing_was_not_sealed_and_so_is_kept(tmp_path: Path) -> None:
    async with watching(tmp_path, adapter="escpos") as till:
        till.writes(b"\x1b@KITCHEN\n2 x Soup\n\x1dV\x00", "slip.bin")
        await till.looks()
        assert (till.captured, till.there("done"), till.counted("nothing")) == (0, ["slip.bin"], 1)


async def test_a_file_whose_bytes_no_record_has_room_for_is_captured_and_kept(till: Till) -> None:
    till.writes(ORDER + blanks(6 * 1024 * 1024))
    await till.looks()
    assert (till.captured, till.there("done"), till.counted("captured")) == (1, ["order.json"], 1)


async def test_a_receipt_without_a_date_was_made_when_its_file_was(tmp_path: Path) -> None:
    async with watching(tmp_path, adapter="escpos") as till:
        till.writes(b"Coffee    3.50\nTOTAL     3.50\nCash      3.50\n", "receipt.bin")
        await till.looks()
        till.writes(b"Coffee    3.50\nTOTAL     3.50\nCash      3.50\n", "receipt.bin")
        await till.looks()
        assert (till.captured, till.counted("captured"), till.counted("repeat")) == (1, 1, 1)


async def test_a_days_file_is_captured_in_its_order_and_leaves_the_page_alone(tmp_path: Path) -> None:
    async with watching(tmp_path, adapter="poslog") as till:
        before = till.behind.board.version
        till.writes(DAY, "day.xml", at_ms=NOW_MS - 3_600_000)
        await till.looks()
        assert till.captured == len(ADAPTERS["poslog"].read(DAY, Setting("USD")))
        assert till.behind.board.version == before


async def test_a_journal_that_fails_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with watching(tmp_path, disk) as till:
        till.writes(ORDER)
        disk.trouble.write = errno.ENOSPC
        pauses = [await till.looks(1) for _ in range(9)]
        assert (till.captured, till.there(), till.there("error")) == (0, ["order.json"], [])
        assert pauses[0] < pauses[2] < pauses[-1] == 60.0
        disk.trouble.write = None
        assert await till.looks(1) == 1.0
        assert (till.captured, till.there()) == (1, [])


async def test_a_disk_that_does_not_confirm_leaves_the_file_and_captures_it_once(tmp_path: Path) -> None:
    disk = TroubledDisk(tmp_path / "journal")
    async with watching(tmp_path, disk) as till:
        disk.trouble.sync = BROKEN
        till.writes(ORDER)
        await till.looks()
        assert till.there() == ["order.json"]
        disk.trouble.sync = None
        await till.looks(3)
        assert (till.captured, till.there()) == (1, [])


@pytest.mark.parametrize("inner", [drop_folder.LEAVING, "done", "error"])
async def test_a_link_in_the_place_of_an_inner_folder_leads_nowhere(tmp_path: Path, inner: str) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "identity.json").write_bytes(ORDER)
    async with watching(tmp_path, keep=True) as till:
        (till.folder / inner).symlink_to(private)
        till.writes(ORDER, "good.json")
        till.writes(b"{", "bad.json")
        await till.looks(4)
        assert [path.name for path in private.iterdir()] == ["identity.json"]
        assert till.captured <= 1
        assert "drop_unusable" in till.said()


async def test_a_file_that_the_pos_replaces_in_the_last_moment_is_read_too(till: Till) -> None:
    folder = drop_folder.DropFolder(till.folder, "*")
    till.writes(ORDER)
    (seen,) = folder.look().files
    till.writes(ORDER.replace(b'"id": 727', b'"id": 728'))
    assert folder.remove(seen) is False
    assert (till.there(), len(till.there(drop_folder.LEAVING))) == ([], 1)
    await till.looks()
    assert (till.captured, till.there(drop_folder.LEAVING)) == (1, [])


async def test_what_a_killed_agent_left_on_its_way_out_is_a_repeat(tmp_path: Path) -> None:
    async with watching(tmp_path) as till:
        path = till.writes(ORDER)
        await till.looks()
        (till.folder / drop_folder.LEAVING / "12-order.json").write_bytes(ORDER)
        await till.looks()
        assert (till.captured, till.counted("repeat")) == (1, 1)
        assert not path.exists()
        assert till.there(drop_folder.LEAVING) == []


async def test_a_file_that_somebody_else_removes_is_no_trouble(till: Till) -> None:
    folder = drop_folder.DropFolder(till.folder, "*")
    path = till.writes(ORDER)
    (seen,) = folder.look().files
    path.unlink()
    assert folder.read(seen) is None
    assert folder.remove(seen) is False
    till.writes(ORDER)
    await till.door.round()
    (till.folder / "order.json").unlink()
    await till.looks()
    assert till.captured == 0


async def test_a_file_that_changes_between_look_and_read_is_not_read(till: Till) -> None:
    folder = drop_folder.DropFolder(till.folder, "*")
    till.writes(ORDER[:50])
    (seen,) = folder.look().files
    till.writes(ORDER)
    assert folder.read(seen) is None


async def test_a_folder_that_is_not_there_is_told_once_and_used_when_it_comes(till: Till) -> None:
    till.folder.rmdir()
    await till.looks(3)
    assert till.said().count("drop_unusable") == 1
    till.folder.mkdir(mode=0o700)
    till.writes(ORDER)
    await till.looks()
    assert till.captured == 1
    assert till.said().count("drop_usable") == 1


async def test_a_file_that_cannot_leave_is_captured_once_and_holds_up_nobody(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    till.writes(ORDER, "a.json")
    till.writes(b"{", "b.json", at_ms=NOW_MS + 1)
    with monkeypatch.context() as patched:
        patched.setattr(drop_folder.DropFolder, "remove", denied)
        await till.looks(4)
    assert (till.captured, till.there(), till.counted("captured")) == (1, ["a.json"], 1)
    assert till.there("error") == ["b.json", "b.json.error.json"]
    assert till.said().count("drop_unusable") == 1
    await till.looks(1)
    assert (till.there(), till.counted("repeat")) == ([], 0)


async def test_a_defect_sets_the_file_aside_and_the_next_is_read(till: Till) -> None:
    def fails(_data: bytes, _setting: Setting) -> list[Any]:
        raise ZeroDivisionError

    till.behind.payloads._formats["woocommerce"] = replace(ADAPTERS["woocommerce"], read=fails)
    till.writes(ORDER)
    await till.looks()
    assert till.there("error") == ["order.json", "order.json.error.json"]
    assert "defect" in till.said()


async def test_a_folder_that_others_may_look_into_is_warned_of_once(till: Till) -> None:
    till.folder.chmod(0o777)
    await till.looks(3)
    assert till.said().count("drop_open_to_others") == 1


async def test_what_was_captured_and_not_removed_is_a_repeat_for_the_next_door(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(DropDoor, "_leave", stands_still)
        till.writes(ORDER)
        await till.looks()
        assert (till.captured, till.there()) == (1, ["order.json"])
    setting = DropSetting(till.folder, "woocommerce", settle_s=0.0)
    await DropDoor(setting, till.behind.payloads, till.behind.telling.events, till.behind.clock).round()
    assert (till.captured, till.there(), till.counted("repeat")) == (1, [], 1)


async def stands_still(*_: object, **__: object) -> None:
    """Where the agent was killed."""
