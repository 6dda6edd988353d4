"""The first user: whoever can read a file in the data folder may make one. There is no default password.

While nobody may sign in, a code lies in `DATA/console-setup-code`, for the server's own user to read. The page that
makes the first user asks for it; then the file is gone, and the page with it.
"""

from __future__ import annotations

import base64
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tillstream_protocol.errors import InvalidInput

from .. import users
from ..auth import Randomness
from ..folder import FolderError
from ..ledger.database import Database

FILE: Final = "console-setup-code"


class WrongCode(InvalidInput):
    """Not the code that lies in the data folder."""

    code = "wrong_code"


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The one-time code of one data folder."""

    database: Database
    file: Path
    random: Randomness

    async def prepare(self) -> bool:
        """Leave a code where nobody may sign in, or take it away; whether there is one. Raises `FolderError`."""
        if not await self.is_open():
            self.file.unlink(missing_ok=True)
            return False
        if not self.file.exists():
            self._write(base64.b32encode(self.random(10)).decode())
        return True

    async def is_open(self) -> bool:
        """Whether the first user is still to be made."""
        async with self.database.read() as conn:
            return not await users.anybody(conn)

    def check(self, given: str) -> None:
        """Raise `WrongCode` unless this is the code."""
        try:
            code = self.file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            code = ""
        plain = "".join(given.split()).replace("-", "").upper()
        if not code or not hmac.compare_digest(code.replace("-", "").encode(), plain.encode()):
            raise WrongCode(
                "that is not the code", field="code", hint=f"it lies in the server's data folder, in {FILE}"
            )

    def _write(self, text: str) -> None:
        code = "-".join(text[i : i + 4] for i in range(0, len(text), 4))
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise FolderError(f"cannot write {self.file}: {error.strerror}") from error
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(code + "\n")
