"""Every language says everything, and a browser gets the one that it asks for."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tillstream_agent import display
from tillstream_agent.config import LANGUAGES
from tillstream_agent.display import page
from tillstream_agent.display.words import FALLBACK, Dictionary, load
from tillstream_protocol.decisions import Trigger
from tillstream_protocol.languages import preferred
from tillstream_protocol.transaction import Identifier

ENGLISH = load("en")


def test_there_is_one_file_a_language() -> None:
    names = sorted(file.name for file in files(display).joinpath("languages").iterdir())
    assert names == [f"{language}.json" for language in LANGUAGES]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_string(language: str) -> None:
    words = load(language)
    assert list(words.strings) == list(ENGLISH.strings)
    assert [name for name, text in words.strings.items() if not text.strip()] == []


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {"en"}))
def test_no_language_was_left_in_english(language: str) -> None:
    same = {name for name, text in load(language).strings.items() if text == ENGLISH[name]}
    assert same <= {"direction", "offline", "member.cookie", "pair.code"}, "these look untranslated"


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_runs_the_way_its_letters_do(language: str) -> None:
    assert load(language).direction == ("rtl" if language == "ar" else "ltr")


def test_everything_that_the_page_says_is_there_and_nothing_else() -> None:
    said = set(re.findall(r"""words\[["']([^"'{]+)["']\]""", Path(page.__file__).read_text(encoding="utf-8")))
    said |= {f"member.{scheme}" for scheme in get_args(get_type_hints(Identifier)["scheme"])}
    said |= {f"why.{trigger}" for trigger in get_args(Trigger)} | {"from.edge", "from.server"}
    said |= {f"note.{button.kind}" for button in page.BUTTONS}
    assert said | {"direction"} == set(ENGLISH.strings)


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", FALLBACK),
        ("de", "de"),
        ("de-CH,de;q=0.9,en;q=0.8", "de"),
        ("da, hi;q=0.7, en;q=0.8", "en"),
        ("FR-ca", "fr"),
        ("ar;q=0, es;q=0.1", "es"),
        ("tlh, *", FALLBACK),
        ("de;q=often, es", "es"),
        (",;q=1,,", FALLBACK),
    ],
)
def test_a_browser_gets_the_first_of_its_languages_that_there_is(header: str, language: str) -> None:
    assert Dictionary().words(header).language == language


def test_a_setting_wins_over_the_browser() -> None:
    assert Dictionary("ar").words("de").language == "ar"


def test_no_header_is_read_without_end() -> None:
    assert len(preferred("de," * 10_000)) <= 32
