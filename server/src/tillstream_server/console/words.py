"""What the pages say, in each of their languages: one file a language, chosen by what the browser prefers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import msgspec

from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.languages import preferred

LANGUAGES: Final = ("en", "de")
FALLBACK: Final = "en"


@dataclass(frozen=True, slots=True)
class Words:
    """The strings of one language, by name."""

    language: str
    strings: Mapping[str, str]

    def __call__(self, name: str, **values: object) -> str:
        """A string with its places filled in; as plain text, which templates escape. Raises `KeyError`."""
        return self.strings[name].format_map(values) if values else self.strings[name]

    def error(self, error: TillstreamError) -> str:
        """What went wrong, in this language where it has words for it."""
        for name in (f"error.{error.code}.{error.field}", f"error.{error.code}"):
            if name in self.strings:
                return self.strings[name]
        return f"{error.message} ({error.limit})" if error.limit else error.message


class Dictionary:
    """Every language."""

    def __init__(self) -> None:
        self._words = {language: load(language) for language in LANGUAGES}

    def words(self, accept_language: str) -> Words:
        """The words for a browser that asks for these languages."""
        wanted = preferred(accept_language)
        return self._words[next((language for language in wanted if language in self._words), FALLBACK)]


def load(language: str) -> Words:
    """The words of one language."""
    data = files(__package__).joinpath("languages", f"{language}.json").read_bytes()
    return Words(language, msgspec.json.decode(data, type=dict[str, str]))
