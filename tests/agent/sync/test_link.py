"""The link is online when the server was heard at the last try, and the clock is checked against the server's."""

from __future__ import annotations

from support.agents import NOW_MS
from support.tills import TurnedClock
from tillstream_agent.clock import MAX_SKEW_MS
from tillstream_agent.sync.link import Link


class Watched:
    """A link, and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[bool, bool]] = []
        self.link = Link(TurnedClock(NOW_MS), self._note)

    def _note(self, link: Link) -> None:
        self.told.append((link.online, link.clock_trusted))

    def online(self) -> bool:
        return self.link.online


def test_it_begins_offline_with_a_trusted_clock() -> None:
    link = Watched().link
    assert (link.online, link.clock_trusted, link.trouble) == (False, True, ())
    assert link.revision == 0, "nothing was agreed on"


def test_an_acknowledgement_or_an_open_channel_is_online() -> None:
    watched = Watched()
    watched.link.upload_done()
    assert watched.online()
    watched.link.push_closed("unreachable")
    assert not watched.online()
    watched.link.push_opened()
    watched.link.upload_failed("unavailable", heard=False)
    assert watched.online()
    assert watched.link.trouble == ("unavailable",)
    assert watched.told[-1] == (True, True)


def test_a_server_that_refuses_was_heard() -> None:
    link = Watched().link
    link.upload_failed("revoked", heard=True)
    assert link.online
    link.push_closed("revoked")
    assert link.trouble == ("revoked",)


def test_a_clock_far_off_is_not_trusted() -> None:
    link = Watched().link
    link.told_time(NOW_MS - MAX_SKEW_MS)
    assert link.clock_trusted
    assert link.clock_offset_ms == MAX_SKEW_MS
    for server_ms in (NOW_MS - MAX_SKEW_MS - 1, NOW_MS + MAX_SKEW_MS + 1):
        link.told_time(server_ms)
        assert not link.clock_trusted
    assert link.last_contact_ms == NOW_MS
