"""Nothing in the repository points at one machine or one registry, and no link of its documents leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from house.tree import ROOT, files

HOME = re.compile(r"(?<![\w./~-])/(?:root|home/(?!tillstream\b)\w+|Users/\w+)/")
REGISTRY = re.compile(
    r"pypi[.]org/simple|files[.]pythonhosted[.]org|registry[.](?:npmjs|yarnpkg)[.]|--(?:extra-)?index-url|--find[-]links",
)
FENCED = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\((?P<target>[^)\s]+)\)|^\[[^\]]+\]:\s*(?P<named>\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$", re.MULTILINE)


def texts() -> Iterator[tuple[Path, str]]:
    for path in files():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def places(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1} {found[0]}"
        for path, text in texts()
        for found in pattern.finditer(text)
    ]


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    assert places(HOME) == []


@pytest.mark.skipif(len(ROOT.parts) < 3, reason="a checkout so near the root has too short a path to look for")
def test_no_file_names_the_folder_of_this_checkout() -> None:
    assert places(re.compile(re.escape(str(ROOT)) + r"\b")) == []


def test_no_file_names_a_registry() -> None:
    assert places(REGISTRY) == []


def anchors(document: Path) -> set[str]:
    """The names of a document's headings, as code hosts derive them."""
    plain = FENCED.sub("", document.read_text(encoding="utf-8"))
    names = (re.sub(r"[^\w\- ]", "", found["text"].lower()).replace(" ", "-") for found in HEADING.finditer(plain))
    return set(names)


def broken(document: Path, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return False
    name, _, anchor = target.partition("#")
    other = (document.parent / name).resolve() if name else document
    if not other.is_relative_to(ROOT) or not other.exists():
        return True
    return bool(anchor) and other.suffix == ".md" and anchor not in anchors(other)


def test_every_link_between_documents_leads_somewhere() -> None:
    dead = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in files(".md")
        for found in LINK.finditer(FENCED.sub("", document.read_text(encoding="utf-8")))
        if broken(document, target := found["target"] or found["named"])
    ]
    assert dead == []


def test_every_document_is_on_the_map() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {
        (index.parent / found["target"].partition("#")[0]).resolve()
        for found in LINK.finditer(index.read_text(encoding="utf-8"))
        if found["target"]
    }
    assert [str(path.relative_to(ROOT)) for path in files(".md") if path not in listed and path != index] == []
