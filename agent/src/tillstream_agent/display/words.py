"""What the page says, in each of its languages: one file a language, chosen by a setting or by the browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import msgspec

from tillstream_protocol.languages import preferred

from ..config import LANGUAGES

FALLBACK: Final = "en"


@dataclass(frozen=True, slots=True)
class Words:
    """The strings of one language, by name."""

    language: str
    strings: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.strings[name]

    @property
    def direction(self) -> str:
        """`ltr` or `rtl`."""
        return self.strings["direction"]


class Dictionary:
    """Every language. With `setting` "auto", each browser has its own."""

    def __init__(self, setting: str = "auto") -> None:
        self._words = {language: load(language) for language in LANGUAGES}
        self._fixed = None if setting == "auto" else self._words[setting]

    def words(self, accept_language: str = "") -> Words:
        """The words for a browser that asks for these languages."""
        if self._fixed is not None:
            return self._fixed
        wanted = preferred(accept_language)
        return self._words[next((language for language in wanted if language in self._words), FALLBACK)]


def load(language: str) -> Words:
    """The words of one language."""
    data = files(__package__).joinpath("languages", f"{language}.json").read_bytes()
    return Words(language, msgspec.json.decode(data, type=dict[str, str]))
