"""What every request of a till goes through: its body is bounded and plain, its signature is a known device's."""

from __future__ import annotations

from aiohttp import web

from tillstream_protocol.errors import InvalidInput, TillstreamError
from tillstream_protocol.messages import CONTENT_TYPE
from tillstream_protocol.signing import SignedRequest

from ..devices import Device, Devices


class UnsupportedMedia(InvalidInput):
    """A body in a form that is not taken here."""

    code = "unsupported_media"


class UnknownDevice(TillstreamError):
    """A key that no enrolment made known. The till keeps its identity and its queue."""

    code = "unknown_device"


class Revoked(TillstreamError):
    """A device that may no longer sync. What it sent is in quarantine."""

    code = "revoked"


async def body_of(request: web.Request) -> bytes:
    """The msgpack body as it came. Raises `UnsupportedMedia`; aiohttp bounds its size."""
    if request.content_type != CONTENT_TYPE:
        raise UnsupportedMedia(f"{request.content_type!r} is not taken", field="Content-Type", limit=CONTENT_TYPE)
    return await request.read()


async def sender_of(request: web.Request, body: bytes, devices: Devices) -> Device:
    """The device that signed this request, revoked or not.

    Raises `Unsigned`, `UnknownDevice` or `BadSignature`.
    """
    headers = request.headers
    signed = SignedRequest.parse(
        headers.get("Content-Digest", ""), headers.get("Signature-Input", ""), headers.get("Signature", "")
    )
    device = await devices.find(signed.key_id)
    if device is None:
        raise UnknownDevice("this device is not enrolled here", hint="enrol the agent with a new token")
    signed.verify(device.public_key, request.method, request.path, body)
    return device
