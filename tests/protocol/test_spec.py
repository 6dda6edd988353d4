"""SPEC.md speaks of every field, kind, operator, variable and limit there is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tillstream_protocol import (
    decisions,
    effects,
    errors,
    events,
    framing,
    messages,
    pack,
    rules,
    sealing,
    settings,
    signing,
    transaction,
)
from tillstream_protocol.limits import DEFAULT
from tillstream_protocol.versions import PROTOCOL, REVISION, VersionMismatch

SPEC = (Path(__file__).parents[2] / "protocol" / "SPEC.md").read_text(encoding="utf-8")
STRUCTS = sorted(
    {
        value
        for module in (decisions, effects, errors, events, messages, pack, settings, transaction)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value not in (msgspec.Struct, decisions.Occasion, decisions.Rule)  # these never travel
    },
    key=lambda struct: (struct.__module__, struct.__name__),
)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: f"{struct.__module__}.{struct.__name__}")
def test_every_field_of_a_wire_type_is_named(struct: type[msgspec.Struct]) -> None:
    assert [field for field in struct.__struct_fields__ if f"`{field}`" not in SPEC] == []
    tag = struct.__struct_config__.tag
    assert tag is None or f"`{tag}`" in SPEC


def test_every_kind_has_its_number() -> None:
    for body, number in events.KIND_NUMBERS.items():
        assert f"| {number} | `{body.__struct_config__.tag}` |" in SPEC


def test_every_operator_and_variable_is_named() -> None:
    for name in (*rules._OPERATORS, "var", *rules.VARIABLES):
        assert f"`{name}`" in SPEC


def test_every_error_code_is_named() -> None:
    found = [
        errors.InvalidInput,
        errors.TooLarge,
        errors.Damaged,
        VersionMismatch,
        pack.ForeignPack,
        settings.ForeignSettings,
    ]
    for error in (*found, framing.DamagedChunk, sealing.CannotOpen, signing.BadSignature, signing.Unsigned):
        assert f"`{error.code}`" in SPEC


def test_the_limits_are_those_of_the_code() -> None:
    for size in (
        DEFAULT.record,
        framing.MAX_FRAME,
        DEFAULT.batch_body,
        DEFAULT.push_message,
        pack.MAX_PACK,
        settings.MAX_SETTINGS,
    ):
        assert f"| {size:,} |" in SPEC
    assert f"version {PROTOCOL}" in SPEC.splitlines()[0]
    assert f"this text has revision {REVISION}" in SPEC
    assert f"at least {framing.MIN_FRAME} + 20 n" in SPEC
