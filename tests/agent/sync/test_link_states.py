"""What the link is known to be, in each state it can be in, to the letter: people and metrics read it as it stands."""

from __future__ import annotations

from support.tills import TurnedClock
from tillstream_agent.sync.link import Link


def a_link() -> Link:
    return Link(TurnedClock(), lambda _link: None)


def state(link: Link) -> tuple[object, ...]:
    return (link.push_connected, link.upload_trouble, link.push_trouble, link.revoked, link.online)


def test_of_a_link_that_was_never_used_nothing_is_known() -> None:
    assert state(a_link()) == (False, "", "", False, False)
    assert a_link().last_contact_ms is None


def test_an_open_channel_is_without_trouble() -> None:
    link = a_link()
    link.push_closed("unreachable")
    link.push_opened()
    assert state(link) == (True, "", "", False, True)


def test_a_closed_one_names_its_trouble_and_is_no_longer_heard() -> None:
    link = a_link()
    link.push_opened()
    link.upload_done()
    link.push_closed("closed")
    assert state(link) == (False, "", "closed", False, False)


def test_an_acknowledgement_ends_the_trouble_of_uploads_unless_it_names_another() -> None:
    link = a_link()
    link.upload_failed("unavailable", heard=False)
    link.upload_done()
    assert state(link) == (False, "", "", False, True)
    link.upload_done("poison")
    assert state(link) == (False, "poison", "", False, True)


def test_a_greeting_takes_an_old_revocation_back() -> None:
    link = a_link()
    link.revoked = True
    link.greeted(0)
    assert state(link) == (False, "", "", False, False)
    assert link.last_contact_ms == TurnedClock().now_ms()
