"""The support file helps, and names nobody: not even what was planted in every place that it looks at."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgspec
import pytest

from support.agents import enrolled, running_agent, sale
from support.gateways import Gateway, gateway
from support.mounts import mounting_refuses, small_disk
from support.thief import hits
from tillstream_agent import bundle
from tillstream_agent.bundle import BundleError, gather, log_facts, write
from tillstream_agent.cli import main
from tillstream_agent.clock import SystemClock
from tillstream_agent.config import Button, Config
from tillstream_agent.config_doors import Doors, DropSetting
from tillstream_agent.doctor.finding import problem
from tillstream_agent.folder import Folder, write_private
from tillstream_agent.inspection import look
from tillstream_protocol.signing import to_text
from tillstream_protocol.transaction import Customer, Identifier, Tender

NAME, SURNAME = "Canary", "Featherstonehaugh"
PHONE, SPACED = "5558675309", "+1 555 867 5309"
EMAIL = "canary.bird@example.org"
CARD = "4012888888881881"
LOYALTY = "7734902184"
PEOPLE = (NAME, SURNAME, PHONE, SPACED, EMAIL, CARD, LOYALTY)
PLACES = ("kiosk-of-canary", "head.canary.example")


@pytest.fixture
async def server() -> AsyncIterator[Gateway]:
    async with gateway() as opened:
        yield opened


@pytest.fixture
async def folder(server: Gateway, tmp_path: Path) -> Folder:
    return await enrolled(tmp_path / SURNAME / "s", server)


async def parts_of(folder: Folder, config: Config) -> dict[str, bytes]:
    finding = problem("drop folder", f"{NAME}: 1 in error/: {PHONE}.json", "not as the adapter reads", f"ask {NAME}")
    status = await look(folder, SystemClock())
    return await asyncio.to_thread(gather, folder, config, [finding], status, SystemClock())


def said(**about: object) -> str:
    line = {"timestamp": "2026-01-01T00:00:00.000000Z", "level": "error", "event": "drop_unusable", **about}
    return msgspec.json.encode(line).decode() + "\n"


async def everybody_everywhere(folder: Folder) -> Config:
    """Plant people in records, log, settings, file names and identity; the settings that name them."""
    async with running_agent(folder) as (port, _):
        sold = msgspec.structs.replace(
            sale("1"),
            note=f"{NAME} {SURNAME} called from {SPACED}",
            customer=Customer(name=f"{NAME} {SURNAME}", identifiers=(Identifier("phone", PHONE),)),
            tenders=(Tender(type="card", amount=500, card=CARD, reference=EMAIL),),
        )
        headers = {"Authorization": f"Bearer {folder.hook_token()}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            body = msgspec.to_builtins(sold)
            async with client.post(f"http://127.0.0.1:{port}/v1/transactions", json=body) as answer:
                assert answer.status == 201, await answer.text()
    people = " ".join(PEOPLE)
    lines = [
        said(code="drop", reason=people, folder=f"/srv/{SURNAME}", name=EMAIL, field=PHONE, file=f"{NAME}.json"),
        said(code=people, door=EMAIL, outcome=SPACED, queued=int(PHONE), at=[f"/home/{SURNAME}/x.py:1", people]),
        said(**{PHONE: PHONE, "what": [NAME], "error": PHONE, "version": PHONE, "records": {"of": NAME}}),
        f"{people}, which is no JSON\n",
        f'"{people}"\n',
    ]
    (folder.path / "agent.log").write_text("".join(lines))
    for place in (folder.path, folder.journal):
        for name in (f"{NAME} {SURNAME}.txt", f"{PHONE}.chunk", f"state.db.{SURNAME}"):
            (place / name).write_text(people)
    who = replace(folder.identity(), retailer=PLACES[0], store=SURNAME, till=NAME, server=f"https://{PLACES[1]}:8700")
    write_private(folder.identity_file, who.encode())
    drop = DropSetting(Path("/srv") / SURNAME, NAME, f"{PHONE}*")
    return Config(
        hook_origins=(f"https://{PLACES[1]}",),
        sync_ca_file=f"/home/{SURNAME}/ca.pem",
        display_buttons=(Button(f"b_{NAME.lower()}", (("en", f"{NAME} asked"),)),),
        doors=Doors(drops=(drop,)),
    )


def secrets_of(folder: Folder) -> list[bytes]:
    return [folder.device_key_file.read_bytes(), folder.tag_key_file.read_bytes(), folder.hook_token().encode()]


async def test_nobody_is_named_whatever_was_planted_where(folder: Folder, tmp_path: Path) -> None:
    config = await everybody_everywhere(folder)
    parts = await parts_of(folder, config)
    write(tmp_path / "bundle.tar.gz", parts)
    packed = (tmp_path / "bundle.tar.gz").read_bytes()
    plain = gzip.decompress(packed)
    for texts in (PEOPLE, PLACES):
        assert hits(plain, texts) == []
        assert hits(plain.lower(), [text.lower() for text in texts if text != NAME]) == []
        assert hits(packed, texts) == []
    for secret in secrets_of(folder):
        written = (secret, secret.hex().encode(), to_text(secret).encode(), base64.b64encode(secret).rstrip(b"="))
        assert not any(form in view for form in written for view in (plain, packed))


async def test_what_was_planted_would_be_found(folder: Folder, tmp_path: Path) -> None:
    """The search above finds each of them in a file that has them, packed in the same way."""
    write(tmp_path / "bundle.tar.gz", {"a": " ".join((*PEOPLE, *PLACES)).encode()})
    found = hits(gzip.decompress((tmp_path / "bundle.tar.gz").read_bytes()), (*PEOPLE, *PLACES))
    assert {hit.rpartition(" (")[0] for hit in found} == {*PEOPLE, *PLACES}


async def test_it_tells_what_helps(folder: Folder, tmp_path: Path) -> None:
    parts = await parts_of(folder, await everybody_everywhere(folder))
    read = {name: msgspec.json.decode(content) for name, content in parts.items() if name.endswith(".json")}
    assert read["about.json"]["packages"]["msgspec"]
    assert {"STATE", "device.key", "journal"} <= {file["name"] for file in read["about.json"]["files"]}
    assert read["doctor.json"][0]["cause"] == "not as the adapter reads"
    assert read["status.json"]["till_id"] == folder.identity().till_id.hex()
    assert read["settings.json"]["hook_origins"] == 1
    assert read["settings.json"]["drops"][0]["adapter"] == "one of the till's own"
    chunks = read["journal.json"]
    assert sum(chunk["frames"] for chunk in chunks if "frames" in chunk) >= 1
    log = [msgspec.json.decode(line) for line in parts["log.jsonl"].splitlines()]
    assert log[0] == {
        "timestamp": "2026-01-01T00:00:00.000000Z", "level": "error", "event": "drop_unusable", "code": "drop",
    }  # fmt: skip
    assert log[-1] == {"event": "lines_not_read", "records": 2}


def test_a_defect_is_told_with_where_in_the_code_it_happened() -> None:
    line = {"event": "defect", "where": "hook", "error": "KeyError", "at": ["/opt/x/tillstream_agent/capture.py:12"]}
    assert list(log_facts([msgspec.json.encode(line).decode()])) == [
        {"event": "defect", "error": "KeyError", "at": ["capture.py:12"]}
    ]


async def test_a_damaged_chunk_is_told_of(folder: Folder) -> None:
    folder.journal.mkdir()
    (folder.journal / "0000000001.chunk").write_bytes(b"what")
    (chunk,) = msgspec.json.decode((await parts_of(folder, Config()))["journal.json"])
    assert (chunk["name"], chunk["size"], chunk["header"]) == ("0000000001.chunk", 4, "damaged")


async def test_chunks_are_looked_into_for_so_long_only(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "SCAN_S", -1.0)
    folder.journal.mkdir()
    (folder.journal / "0000000001.chunk").write_bytes(b"what")
    (chunk,) = msgspec.json.decode((await parts_of(folder, Config()))["journal.json"])
    assert set(chunk) == {"name", "size", "changed_ms"}


async def test_nothing_is_written_with_a_secret_in_it(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    token = folder.hook_token()
    monkeypatch.setattr(bundle, "finding_facts", lambda _: {"detail": token})
    with pytest.raises(BundleError, match=r"doctor\.json"):
        await parts_of(folder, Config())


def test_what_could_not_be_written_whole_is_not_left_to_be_sent(tmp_path: Path) -> None:
    if reason := mounting_refuses():
        pytest.skip(reason)
    with small_disk(tmp_path / "stick", 64 << 10) as stick:
        with pytest.raises(BundleError, match="No space left") as caught:
            write(stick / "b.tar.gz", {"noise": os.urandom(1 << 20)})
        assert "room" in str(caught.value.hint)
        assert list(stick.iterdir()) == []
        assert write(stick / "b.tar.gz", {"a": b"1"}) == (stick / "b.tar.gz").stat().st_size


async def test_the_command_writes_for_its_user_alone_and_over_nothing(
    server: Gateway, folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b.tar.gz"
    assert await asyncio.to_thread(main, ["bundle", "--state", str(folder.path), str(file), "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == {"file": str(file), "bytes": file.stat().st_size}
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        assert "tillstream-support/doctor.json" in archive.getnames()
    assert await asyncio.to_thread(main, ["bundle", "--state", str(folder.path), str(file)]) == 1
    assert "File exists" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert await asyncio.to_thread(main, ["bundle", "--state", str(tmp_path / "nobody")]) == 0
    assert "tillstream-support-" in capsys.readouterr().out
    assert len(list(tmp_path.glob("tillstream-support-*.tar.gz"))) == 1
