"""Each side knows whether it understands the other, and what to do when it does not."""

from __future__ import annotations

import pytest

from tillstream_protocol.versions import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    REVISION,
    VersionMismatch,
    require_spoken,
    revision_of,
    subprotocols,
)


@pytest.mark.parametrize("protocol", range(OLDEST_PROTOCOL, PROTOCOL + 1))
def test_every_version_from_the_oldest_to_ours_is_spoken(protocol: int) -> None:
    require_spoken(protocol)


@pytest.mark.parametrize(
    ("protocol", "hint"), [(PROTOCOL + 1, "upgrade the server first"), (OLDEST_PROTOCOL - 1, "upgrade the agent")]
)
def test_another_version_is_refused_with_what_to_do(protocol: int, hint: str) -> None:
    with pytest.raises(VersionMismatch) as refused:
        require_spoken(protocol)
    body = refused.value.body()
    assert (body.code, body.field, body.hint, body.retryable) == ("version_mismatch", "protocol", hint, False)
    assert body.limit == f"{OLDEST_PROTOCOL} to {PROTOCOL}"


def test_revisions_are_offered_the_newest_first_and_known_by_their_name() -> None:
    assert subprotocols()[0] == f"tillstream.{PROTOCOL}.{REVISION}"
    assert [revision_of(name) for name in subprotocols()] == list(range(REVISION, 0, -1))


@pytest.mark.parametrize("name", [None, "", "tillstream.1.0", f"tillstream.1.{REVISION + 1}", "chat"])
def test_what_was_not_agreed_on_is_revision_0(name: str | None) -> None:
    assert revision_of(name) == 0
