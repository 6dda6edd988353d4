"""Backup and restore: everything is in it, nothing is overwritten, and nothing damaged is taken for whole."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from support.pipelining import Server as Parts
from support.pipelining import Till, member, prepare, server_at
from support.pipelining import sale as sale_of
from support.serving import NOW, Server, sale, serving
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.sealing import key_id
from tillstream_server import app, backup, keys, users
from tillstream_server.backup import BackupDamaged, BackupFailed, Copying, Manifest
from tillstream_server.folder import Folder, FolderError, Settings
from tillstream_server.keys import KeysUnusable
from tillstream_server.ledger.database import Database, LedgerVersion

LATER = NOW + 3_600_000


def around(now_ms: int = LATER) -> Copying:
    """The surroundings of a copy."""
    return Copying(lambda: now_ms, os.urandom, "1.2.3")


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    """A data folder as `init` makes it."""
    made = Folder(tmp_path / "data")
    await app.init(made, "EUR", os.urandom)
    return made


@pytest.fixture
def made(folder: Folder, tmp_path: Path) -> Path:
    """A backup of it."""
    backup.backup(folder, tmp_path / "backup", around())
    return tmp_path / "backup"


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def ask(database: Path, statement: str) -> list[tuple[object, ...]]:
    """What a database answers."""
    with closing(sqlite3.connect(database, isolation_level=None)) as conn:
        return conn.execute(statement).fetchall()


async def test_a_backup_of_a_serving_server_becomes_a_server_that_knows_as_much(server: Server, tmp_path: Path) -> None:
    till = await server.till()
    await till.sends(sale(1, member="4711"), sale(2))
    key = await server.key()
    before = (await server.get("/api/v1/ledger/summary", key)).json()
    made = await asyncio.to_thread(backup.backup, server.folder, tmp_path / "backup", around())
    assert made.last_id == 2
    await till.sends(sale(3))
    await backup.restore(tmp_path / "backup", Folder(tmp_path / "new"), around())
    async with serving(tmp_path / "new") as restored:
        assert (await restored.get("/api/v1/ledger/summary", key)).json() == before
        till.server = restored
        assert (await till.sends(sale(4))).acked


async def test_a_backup_beside_a_writing_server_holds_whole_batches_and_every_key_of_its_vault(tmp_path: Path) -> None:
    server_keys = await prepare(tmp_path / "data")
    Folder(tmp_path / "data").finish(Settings(1, "USD"))
    number = 0

    async def write_on(server: Parts) -> None:
        nonlocal number
        while True:
            number += 1
            name = str(number)
            await server.take(sale_of(f"{name}a", customer=member(name)), sale_of(f"{name}b", customer=member(name)))

    async with server_at(tmp_path / "data", server_keys=server_keys) as server:
        writing = asyncio.create_task(write_on(server))
        for copy in range(3):
            while number < 3 * (copy + 1):
                await asyncio.sleep(0)
            await asyncio.to_thread(backup.backup, Folder(tmp_path / "data"), tmp_path / f"b{copy}", around())
        writing.cancel()
        await asyncio.wait([writing])
    for copy in range(3):
        await backup.restore(tmp_path / f"b{copy}", Folder(tmp_path / f"n{copy}"), around())
        async with server_at(tmp_path / f"n{copy}", server_keys=keys.load(tmp_path / f"n{copy}" / "keys")) as restored:
            ((records, sales),) = await restored.rows("SELECT count(*), (SELECT count(*) FROM sale) FROM ledger")
            assert records == sales >= 2 * copy
            assert records % 2 == 0
            for (subject,) in await restored.rows("SELECT DISTINCT subject FROM vault_item"):
                async with restored.database.read() as conn:
                    assert await restored.vault.reveal(conn, subject)


async def test_what_a_killed_server_left_in_its_wal_is_in_the_backup(tmp_path: Path) -> None:
    server_keys = await prepare(tmp_path / "data")
    Folder(tmp_path / "data").finish(Settings(1, "USD"))
    async with server_at(tmp_path / "data", server_keys=server_keys) as server:
        await server.take(sale_of("1"))
        shutil.copytree(tmp_path / "data", tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    assert (tmp_path / "killed" / "ledger.db-wal").stat().st_size > 0
    made = backup.backup(Folder(tmp_path / "killed"), tmp_path / "backup", around())
    assert made.last_id == 1
    assert ask(tmp_path / "backup" / "ledger.db", "SELECT count(*) FROM sale") == [(1,)]


async def test_a_backup_is_its_owners_alone_and_says_what_it_holds(folder: Folder, made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in made.rglob("*") if path.is_file()}
    assert modes == {0o600}
    manifest = backup.read_manifest(made)
    assert (manifest.made_ms, manifest.version, manifest.last_id) == (LATER, "1.2.3", 0)
    assert {file.name for file in manifest.files} == contents(made).keys() - {"manifest.json"}
    assert manifest.size == sum(len(data) for name, data in contents(made).items() if name != "manifest.json")


async def test_every_key_and_setting_is_in_it_but_the_escrow_key_that_lies_about(
    folder: Folder, tmp_path: Path
) -> None:
    keys.rotate_box(folder.keys, os.urandom, NOW)
    folder.config_file.write_text('host = "0.0.0.0"\n')
    escrow = folder.escrow_file.read_bytes()
    backup.backup(folder, tmp_path / "backup", around())
    await backup.restore(tmp_path / "backup", Folder(tmp_path / "new"), around())
    before, after = keys.load(folder.keys), keys.load(tmp_path / "new" / "keys")
    assert secrets_of(after) == secrets_of(before)
    assert (tmp_path / "new" / "server.toml").read_bytes() == folder.config_file.read_bytes()
    assert Folder(tmp_path / "new").settings() == folder.settings()
    everything = b"".join([*contents(tmp_path / "backup").values(), *contents(tmp_path / "new").values()])
    assert escrow.strip() not in everything
    assert bytes.fromhex(escrow.decode()) not in everything


def secrets_of(server: keys.ServerKeys) -> tuple[object, ...]:
    """What of the keys a restore must not change."""
    secrets = (server.box_private, server.identifier_key, server.digest_key, server.vault_key)
    return (server.sign.public, *secrets, server.escrow_public, server.former_box, server.escrow_private)


async def test_a_backup_never_overwrites_anything(folder: Folder, made: Path, tmp_path: Path) -> None:
    before = contents(made)
    with pytest.raises(BackupFailed, match="there already"):
        backup.backup(folder, made, around())
    (tmp_path / "file").write_text("dear")
    with pytest.raises(BackupFailed, match="there already"):
        backup.backup(folder, tmp_path / "file", around())
    with pytest.raises(BackupFailed, match="there already"):
        await backup.restore(made, folder, around())
    assert contents(made) == before
    assert (tmp_path / "file").read_text() == "dear"


async def test_an_empty_folder_is_as_good_as_none(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "new").mkdir()
    backup.backup(folder, tmp_path / "backup", around())
    await backup.restore(tmp_path / "backup", Folder(tmp_path / "new"), around())
    Folder(tmp_path / "new").settings()


def test_only_a_servers_folder_is_backed_up(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="not a server's"):
        backup.backup(Folder(tmp_path), tmp_path / "backup", around())
    assert list(tmp_path.iterdir()) == []


def flip(path: Path, place: int) -> None:
    """Damage one byte."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def spoil(database: Path) -> None:
    """Damage a page of a database's tree."""
    (size,) = ask(database, "PRAGMA page_size")[0]
    (root,) = ask(database, "SELECT rootpage FROM sqlite_schema WHERE name = 'alembic_version'")[0]
    assert isinstance(size, int)
    assert isinstance(root, int)
    flip(database, (root - 1) * size)


async def test_a_failed_backup_says_what_is_wrong_and_leaves_nothing(folder: Folder, tmp_path: Path) -> None:
    ask(folder.ledger, "PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(folder.ledger)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(BackupFailed, match="malformed"):
        backup.backup(folder, tmp_path / "backup", around())
    (folder.keys / "box.key").unlink()
    with pytest.raises(TillstreamError):
        backup.backup(folder, tmp_path / "backup", around())
    assert {path.name for path in tmp_path.iterdir()} == before


async def test_a_folder_without_all_its_keys_is_no_backup(folder: Folder, tmp_path: Path) -> None:
    (folder.keys / "vault.key").unlink()
    with pytest.raises(KeysUnusable, match=r"vault\.key"):
        backup.backup(folder, tmp_path / "backup", around())
    assert not (tmp_path / "backup").exists()


async def test_a_place_that_cannot_be_written_is_one_sentence(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupFailed, match="cannot make") as caught:
        backup.backup(folder, tmp_path / "file" / "backup", around())
    assert caught.value.hint


def remade(made: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Write a manifest that says something else."""
    manifest = change(backup.read_manifest(made))
    (made / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def renamed(new: str) -> Callable[[Manifest], Manifest]:
    """A manifest whose first file has another name."""
    return lambda one: structs.replace(one, files=(structs.replace(one.files[0], name=new), *one.files[1:]))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda made: (made / "manifest.json").unlink(), "is no backup"),
        (lambda made: (made / "manifest.json").write_text("{}"), r"manifest\.json is damaged"),
        (lambda made: (made / "manifest.json").write_text("nonsense"), r"manifest\.json is damaged"),
        (lambda made: remade(made, lambda one: structs.replace(one, format=2)), "format 2"),
        (lambda made: remade(made, lambda one: structs.replace(one, files=one.files[:-1])), "does not list"),
        (lambda made: remade(made, lambda one: structs.replace(one, files=one.files * 2)), "does not list"),
        (lambda made: remade(made, renamed("../../escaped")), "does not list"),
        (lambda made: remade(made, renamed("keys/../../escaped")), "does not list"),
        (lambda made: remade(made, renamed("/escaped")), "does not list"),
        (lambda made: (made / "ledger.db").unlink(), r"ledger\.db is missing"),
        (lambda made: flip(made / "ledger.db", 5000), r"ledger\.db is not as it was made"),
        (lambda made: flip(made / "vault-keys.db", 100), r"vault-keys\.db is not as it was made"),
        (lambda made: flip(made / "keys" / "box.key", 0), r"box\.key is not as it was made"),
        (lambda made: flip(made / "settings.json", 3), r"settings\.json is not as it was made"),
        (lambda made: os.truncate(made / "ledger.db", 4096), r"ledger\.db is not as it was made"),
    ],
)
async def test_what_is_not_as_it_was_made_is_named_and_nothing_is_restored(
    made: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(made)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(BackupDamaged, match=said) as caught:
        await backup.restore(made, Folder(tmp_path / "new"), around())
    assert caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["ledger.db", "settings.json", "keys/sign.key"])
async def test_every_byte_of_the_manifests_hashes_counts(made: Path, tmp_path: Path, name: str) -> None:
    def lie(one: Manifest) -> Manifest:
        files = [structs.replace(file, sha256="0" * 64) if file.name == name else file for file in one.files]
        return structs.replace(one, files=tuple(files))

    remade(made, lie)
    with pytest.raises(BackupDamaged, match="not as it was made"):
        await backup.restore(made, Folder(tmp_path / "new"), around())


def honest(made: Path, name: str) -> None:
    """Have the manifest vouch for a file as it is now."""

    def describe(one: Manifest) -> Manifest:
        now = backup.described(made / name, name)
        return structs.replace(one, files=tuple(now if file.name == name else file for file in one.files))

    remade(made, describe)


async def test_a_database_that_was_damaged_before_the_backup_is_found_out(made: Path, tmp_path: Path) -> None:
    spoil(made / "ledger.db")
    honest(made, "ledger.db")
    with pytest.raises(BackupDamaged, match=r"ledger\.db is damaged"):
        await backup.restore(made, Folder(tmp_path / "new"), around())
    assert not (tmp_path / "new").exists()


async def test_a_newer_servers_backup_is_refused(made: Path, tmp_path: Path) -> None:
    ask(made / "ledger.db", "UPDATE alembic_version SET version_num = '9999'")
    honest(made, "ledger.db")
    with pytest.raises(LedgerVersion, match="newer server") as caught:
        await backup.restore(made, Folder(tmp_path / "new"), around())
    assert caught.value.hint
    assert not (tmp_path / "new").exists()


async def test_a_restore_leaves_the_backup_as_it_was(made: Path, tmp_path: Path) -> None:
    before = contents(made)
    await backup.restore(made, Folder(tmp_path / "new"), around())
    assert contents(made) == before
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert {path.name for path in tmp_path.iterdir()} == {"backup", "data", "new"}


async def test_after_a_restore_tills_take_what_is_new_for_new(server: Server, tmp_path: Path) -> None:
    await server.till()
    await asyncio.to_thread(backup.backup, server.folder, tmp_path / "backup", around())
    for again in range(2):
        new = Folder(tmp_path / f"new-{again}")
        await backup.restore(tmp_path / "backup", new, around(LATER + 1000 * again))
        assert keys.load(new.keys).generation == LATER // 1000 + again
        (pushed,) = ask(new.ledger, "SELECT push_seq FROM till")[0]
        assert pushed == LATER + 1000 * again


async def test_after_a_restore_nobody_is_signed_in_who_signed_out_since_the_backup(
    folder: Folder, tmp_path: Path
) -> None:
    anna, password = users.UserCreate("anna", "admin"), "four words in a row"
    database = await Database.open(folder.ledger, readers=1)
    try:
        await users.create(database, anna, password, NOW, os.urandom)
        session = await users.begin_session(database, "anna", NOW, os.urandom)
        await asyncio.to_thread(backup.backup, folder, tmp_path / "backup", around())
        await users.end_session(database, session.id)
    finally:
        await database.close()
    await backup.restore(tmp_path / "backup", Folder(tmp_path / "new"), around())
    restored = await Database.open(tmp_path / "new" / "ledger.db", readers=1)
    try:
        assert await users.find_session(restored, session.id, NOW) is None
        assert await users.check_password(restored, "anna", password)
    finally:
        await restored.close()


async def test_a_restore_of_a_restored_server_never_falls_behind(made: Path, tmp_path: Path) -> None:
    new, newer = Folder(tmp_path / "new"), Folder(tmp_path / "newer")
    await backup.restore(made, new, around())
    backup.backup(new, tmp_path / "second", around(0))
    await backup.restore(tmp_path / "second", newer, around(0))
    assert keys.load(newer.keys).generation == LATER // 1000 + 1


async def test_tills_of_before_a_rotation_are_understood_after_a_restore(tmp_path: Path) -> None:
    old = await prepare(tmp_path / "data")
    data = Folder(tmp_path / "data")
    data.finish(Settings(1, "USD"))
    till = Till(old)
    keys.rotate_box(data.keys, os.urandom, NOW)
    backup.backup(data, tmp_path / "backup", around())
    await backup.restore(tmp_path / "backup", Folder(tmp_path / "new"), around())
    restored = keys.load(tmp_path / "new" / "keys")
    assert key_id(restored.box_public) != till.header.server_key_id
    async with server_at(tmp_path / "new", server_keys=restored) as server:
        outcome = await server.pipeline.process(till.device, till.batch(sale_of("1")))
    assert outcome.counts["stored"] == 1
