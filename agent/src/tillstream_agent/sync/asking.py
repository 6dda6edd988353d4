"""What commands ask a server once: the one place that knows httpx.

Joining and the doctor's questions are a few small requests of a process of their own, where what a request costs the
event loop does not matter. No module that `tillstream-agent run` loads may need this one.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import httpx

from .transport import CONNECT_TIMEOUT, HEADERS, Client, Response, answered, gathered, not_reached, too_slow


class Asker(Client):
    """Asks one server, by httpx."""

    def __init__(self, address: str, *, tls: ssl.SSLContext | None, timeout: float) -> None:
        """`timeout` is how many seconds may pass without progress."""
        self._address = address
        self._client = httpx.AsyncClient(
            base_url=address,
            verify=tls if tls is not None else not address.startswith("http://"),
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            trust_env=False,
            headers=HEADERS,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        """One request and its answer. Raises `Unreachable`."""
        try:
            async with self._client.stream(method, path, content=body, headers=headers) as response:
                body = await gathered(self._address, response.aiter_raw())
                return answered(response.status_code, response.headers, body)
        except httpx.TimeoutException as error:
            raise too_slow(self._address) from error
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise not_reached(self._address, error) from error
