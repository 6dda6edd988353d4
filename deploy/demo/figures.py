"""What the server and the agents say while the demo runs, asked for over their own interfaces."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from .processes import Server, Till


@dataclass(frozen=True, slots=True)
class Summary:
    """The ledger's and the offers' figures. Amounts are in cents."""

    transactions: int
    revenue_minor: int
    duplicates_refused: int
    dead_letters: int
    offers_server: int
    offers_pushed: int
    offers_delivered: int
    offers_edge: dict[str, int]
    offers_shown: int


class Watcher:
    """Asks the server for its summaries, and the agents for their queues."""

    def __init__(self, session: aiohttp.ClientSession, server: Server, tills: list[Till]) -> None:
        self._session = session
        self._server = server
        self._tills = tills

    async def summary(self) -> Summary | None:
        """The server's figures; None while it does not answer."""
        try:
            ledger = await self._get("/api/v1/ledger/summary")
            offers = await self._get("/api/v1/offers/summary")
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return None
        made = [count for count in offers["counts"] if count["outcome"] == "offered"]
        central = [count for count in made if count["decided_at"] == "server"]
        edge: dict[str, int] = {}
        for count in made:
            if count["decided_at"] == "edge":
                edge[count["campaign"]] = edge.get(count["campaign"], 0) + count["decisions"]
        return Summary(
            transactions=ledger["transactions"],
            revenue_minor=ledger["amount_minor"].get("USD", 0),
            duplicates_refused=ledger["duplicates_refused"],
            dead_letters=ledger["dead_letters"],
            offers_server=sum(count["decisions"] for count in central),
            offers_pushed=sum(count["pushed"] for count in central),
            offers_delivered=sum(count["delivered"] for count in central),
            offers_edge=edge,
            offers_shown=sum(count["shown"] for count in made),
        )

    async def queued(self) -> int | None:
        """Records that wait on the tills; None while one of them does not answer."""
        try:
            return sum([await self._queue(till) for till in self._tills])
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return None

    async def pack_versions(self) -> list[int]:
        """The version of the pack that each till decides by."""
        return [(await self._status(till))["pack_version"] for till in self._tills]

    async def _queue(self, till: Till) -> int:
        return int((await self._status(till))["queue"]["records"])

    # What comes back is JSON of many shapes, read by name right here.
    async def _status(self, till: Till) -> dict:  # type: ignore[type-arg]
        headers = {"Authorization": f"Bearer {till.token}"}
        async with self._session.get(f"{till.url}/v1/status", headers=headers) as response:
            response.raise_for_status()
            return await response.json()  # type: ignore[no-any-return]

    async def _get(self, path: str) -> dict:  # type: ignore[type-arg]
        headers = {"Authorization": f"Bearer {self._server.key}"}
        async with self._session.get(self._server.url + path, headers=headers) as response:
            response.raise_for_status()
            return await response.json()  # type: ignore[no-any-return]
