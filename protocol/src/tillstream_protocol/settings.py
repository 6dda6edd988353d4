"""What head office sets on a till from afar: signed by the server for one till, in versions that only grow.

A value is text, in the form that the setting has as an environment variable. Which settings may come from afar is fixed
here: none that says who the till is, whom it trusts, where its server is or where its state lies, so that no setting
can cut the line on which the next one comes.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from .codec import encode, message_decoder
from .errors import Damaged, InvalidInput, TooLarge
from .limits import MAX_LONG_TEXT, MAX_SHORT, MAX_TEXT
from .signing import SignKey, verify
from .transaction import InstantMs

MAX_SETTINGS: Final = 64 * 1024
MAX_NAMES: Final = 100
MAX_HEARTBEAT_S: Final = 100.0
"""`sync.heartbeat_s` is this at most: a till that speaks more rarely looks silent."""
_PURPOSE = b"tillstream-settings-1"

REMOTE: Final = frozenset(
    {
        "baskets.abandon_s",
        "display.buttons",
        "display.language",
        "display.member",
        "hook.calls_s",
        "hook.connections",
        "hook.origins",
        "hook.port",
        "hook.request_s",
        "journal.reserve_bytes",
        "journal.retain_bytes",
        "journal.retain_s",
        "log.level",
        "sync.heartbeat_s",
        "sync.timeout_s",
    }
)
"""The settings that head office may set."""

Outcome = Literal["none", "trial", "kept", "refused", "rolled_back"]
Value = Annotated[str, Meta(max_length=MAX_LONG_TEXT)]
SettingName = Annotated[str, Meta(min_length=1, max_length=MAX_SHORT)]
Version = Annotated[int, Meta(ge=1, le=2**53)]


class ForeignSettings(Damaged):
    """Settings that are not for this till."""

    code = "foreign_settings"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All that head office sets on one till; what is not named is not set. Versions only grow."""

    version: Version
    till: Annotated[bytes, Meta(min_length=16, max_length=16)]
    issued_ms: InstantMs
    settings: Annotated[dict[SettingName, Value], Meta(max_length=MAX_NAMES)]


class SignedSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The bytes of settings and the server's signature over them."""

    payload: Annotated[bytes, Meta(max_length=MAX_SETTINGS)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class SettingsReport(Struct, frozen=True, forbid_unknown_fields=True):
    """What became of them: the version the till runs with (0 for none), the newest it was given, and how that went.

    `reason` says why one was refused or rolled back.
    """

    running: Annotated[int, Meta(ge=0, le=2**53)]
    newest: Annotated[int, Meta(ge=0, le=2**53)]
    outcome: Outcome
    reason: Annotated[str, Meta(max_length=MAX_TEXT)] = ""


_decode = message_decoder(Settings, limit=MAX_SETTINGS)


def require_remote(names: frozenset[str]) -> None:
    """Raise `InvalidInput` for the first name that head office may not set."""
    for name in sorted(names - REMOTE):
        raise InvalidInput(f"{name!r} cannot be set from afar", field=name, limit=", ".join(sorted(REMOTE)))


def sign_settings(settings: Settings, server: SignKey) -> SignedSettings:
    """Settings under the server's signature. Raises `TooLarge`."""
    payload = encode(settings)
    if len(payload) > MAX_SETTINGS:
        raise TooLarge(f"{len(payload)} bytes of settings", field="settings", limit=f"{MAX_SETTINGS} bytes")
    return SignedSettings(payload, server.sign(_PURPOSE + payload))


def open_settings(signed: SignedSettings, server_public_key: bytes, till: bytes) -> Settings:
    """The settings, if the server signed them for this till.

    Raises `BadSignature`, `InvalidInput` or `ForeignSettings`.
    """
    verify(server_public_key, _PURPOSE + signed.payload, signed.signature)
    settings = _decode(signed.payload)
    if settings.till != till:
        raise ForeignSettings("the settings were signed for another till", field="till")
    return settings
