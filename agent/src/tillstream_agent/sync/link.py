"""What is known of the link to the server, from both the uploads and the push channel."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import Clock, CorrectedClock


class Link:
    """Heard or not heard, and what is wrong. `changed` is called when `online` may have changed."""

    def __init__(self, clock: Clock, changed: Callable[[Link], None], time: CorrectedClock | None = None) -> None:
        """`time` is told what the server says of it."""
        self._clock = clock
        self._time = time or CorrectedClock(clock)
        self._changed = changed
        self._heard = False
        self.push_connected = False
        self.revision = 0
        """What was agreed on with the server on the present push channel, or the last one."""
        self.upload_trouble = ""
        self.push_trouble = ""
        self.revoked = False
        self.last_contact_ms: int | None = None

    @property
    def online(self) -> bool:
        """Whether the server was reached when it was last tried."""
        return self.push_connected or self._heard

    @property
    def clock_trusted(self) -> bool:
        """Whether the till's clock agrees with the server's, as far as is known."""
        return self._time.trusted

    @property
    def clock_offset_ms(self) -> int | None:
        """How far the till's clock is ahead of the server's now, as far as is known."""
        return self._time.ahead_ms

    @property
    def trouble(self) -> tuple[str, ...]:
        """Codes of what keeps the link from working, each once."""
        codes = (self.upload_trouble, self.push_trouble, "revoked" if self.revoked else "")
        return tuple(dict.fromkeys(code for code in codes if code))

    def told_time(self, server_ms: int) -> None:
        """The server said what time it is, just now."""
        self._time.hear(server_ms)
        self._contact()

    def upload_done(self, trouble: str = "") -> None:
        """A batch was acknowledged; `trouble` is what is wrong all the same."""
        self.upload_trouble = trouble
        self._heard = True
        self._contact()

    def upload_failed(self, code: str, *, heard: bool) -> None:
        """A batch was not acknowledged; `heard` says whether the server itself refused it."""
        self.upload_trouble = code
        self._heard = heard
        self._changed(self)

    def greeted(self, server_ms: int) -> None:
        """A push channel begins: what the server said of this till on an earlier one is no longer news."""
        self.revoked = False
        self.told_time(server_ms)

    def push_opened(self) -> None:
        """The push channel works."""
        self.push_connected = True
        self.push_trouble = ""
        self._contact()

    def push_closed(self, code: str) -> None:
        """The push channel is down."""
        self.push_connected = False
        self._heard = False
        self.push_trouble = code
        self._changed(self)

    def _contact(self) -> None:
        self.last_contact_ms = self._clock.now_ms()
        self._changed(self)
