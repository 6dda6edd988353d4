"""Settings from afar: for one till, by one server, and never what could cut the line they come on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import InvalidInput, TooLarge
from tillstream_protocol.messages import HookLatency, PackPush, Rotate, SettingsPush, Vitals, decode_vitals, since
from tillstream_protocol.pack import SignedPack
from tillstream_protocol.settings import (
    MAX_SETTINGS,
    REMOTE,
    ForeignSettings,
    Settings,
    SettingsReport,
    SignedSettings,
    open_settings,
    require_remote,
    sign_settings,
)
from tillstream_protocol.signing import BadSignature, SignKey

SERVER = SignKey(bytes(32))
TILL = b"t" * 16
SETTINGS = Settings(3, TILL, 1_790_000_000_000, {"log.level": "debug"})


def test_a_till_reads_what_its_server_set() -> None:
    assert open_settings(sign_settings(SETTINGS, SERVER), SERVER.public, TILL) == SETTINGS


def test_another_tills_another_servers_and_altered_ones_are_refused() -> None:
    signed = sign_settings(SETTINGS, SERVER)
    with pytest.raises(ForeignSettings):
        open_settings(signed, SERVER.public, b"u" * 16)
    with pytest.raises(BadSignature):
        open_settings(signed, SignKey(b"o" * 32).public, TILL)
    with pytest.raises(BadSignature):
        open_settings(replace(signed, payload=signed.payload + b"x"), SERVER.public, TILL)


def test_a_signature_over_something_else_the_server_signs_does_not_serve() -> None:
    payload = encode(SETTINGS)
    pack = SignedPack(payload, SERVER.sign(b"tillstream-pack-1" + payload))
    with pytest.raises(BadSignature):
        open_settings(SignedSettings(pack.payload, pack.signature), SERVER.public, TILL)


def test_what_no_till_could_take_is_not_signed() -> None:
    values = {f"a{number}": "x" * 4000 for number in range(17)}
    with pytest.raises(TooLarge) as refused:
        sign_settings(replace(SETTINGS, settings=values), SERVER)
    assert refused.value.limit == f"{MAX_SETTINGS} bytes"


@pytest.mark.parametrize("name", ["server", "sync.ca_file", "state", "run.uvloop", "hook.prot"])
def test_what_may_not_be_set_from_afar_is_named(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        require_remote(frozenset({name, "log.level"}))
    assert refused.value.field == name
    require_remote(REMOTE)


def test_a_heartbeat_without_settings_is_what_it_was_before_there_were_any() -> None:
    old = Vitals(TILL, bytes(16), 0, 0, 0, HookLatency(0, 0, 0, 0), 0, 0, "1", "", 0, 0)
    assert b"settings" not in encode(old)
    told = replace(old, settings=SettingsReport(2, 3, "rolled_back", "capture: journal_full"))
    assert decode_vitals(encode(told)) == told


def test_only_what_was_added_needs_a_revision() -> None:
    signed = sign_settings(SETTINGS, SERVER)
    assert since(SettingsPush(signed)) == since(Rotate("asked")) == 1
    assert since(PackPush(SignedPack(b"", bytes(64)))) == 0
