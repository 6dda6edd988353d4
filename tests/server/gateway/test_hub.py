"""Who is on the push channel."""

from __future__ import annotations

from dataclasses import replace

from tillstream_protocol.messages import Push, Revoked
from tillstream_server.devices import Device
from tillstream_server.gateway.hub import MAX_WAITING, Hub

DEVICE = Device(b"t" * 16, "acme", "north", "till-1", b"k" * 8, b"p" * 32, revoked=False, currency="USD")
OTHER = replace(DEVICE, till_id=b"u" * 16, retailer="zeta")


def push(seq: int) -> Push:
    return Push(seq, 1, Revoked(""))


async def test_a_push_goes_to_the_tills_own_line() -> None:
    hub = Hub()
    line, other = hub.join(DEVICE), hub.join(OTHER)
    hub.send(DEVICE.till_id, push(1))
    await line.wait()
    assert (line.take(), other.take()) == ([push(1)], [])


async def test_a_push_for_nobody_is_left_to_the_outbox() -> None:
    Hub().send(DEVICE.till_id, push(1))


async def test_the_newest_line_of_a_till_takes_over() -> None:
    hub = Hub()
    old, new = hub.join(DEVICE), hub.join(DEVICE)
    assert (old.ending, new.ending) == ("replaced", None)
    hub.leave(old)
    hub.send(DEVICE.till_id, push(1))
    assert new.take() == [push(1)]


async def test_more_than_a_line_holds_is_read_from_the_outbox() -> None:
    line = Hub().join(DEVICE)
    line.missed = False
    for seq in range(MAX_WAITING + 1):
        line.put(push(seq))
    assert (len(line.take()), line.missed) == (MAX_WAITING, True)


async def test_connected_tills_are_found_by_retailer() -> None:
    hub = Hub()
    hub.join(DEVICE)
    line = hub.join(OTHER)
    assert (hub.connected("acme"), len(hub.connected())) == ([DEVICE], 2)
    hub.leave(line)
    assert hub.connected("zeta") == []


async def test_a_closed_hub_ends_every_line_old_and_new() -> None:
    hub = Hub()
    line = hub.join(DEVICE)
    hub.close()
    assert (line.ending, hub.join(OTHER).ending) == ("shutdown", "shutdown")
    await line.wait()


async def test_the_first_reason_to_end_stays() -> None:
    hub = Hub()
    line = hub.join(DEVICE)
    hub.end(DEVICE.till_id, "revoked")
    hub.close()
    assert line.ending == "revoked"
