"""The code keeps the shape that CONTRIBUTING.md promises."""

from __future__ import annotations

import ast

from house.tree import PACKAGES, ROOT, SHIPPED, Definition, definitions, files

MIGRATIONS = "server/src/tillstream_server/ledger/migrations/versions/"
"""Steps of the past, in the form that Alembic asks for."""
MODULE_LINES = 600
FUNCTION_LINES = 60
MOSTLY_LINES = 20


def lines_of(definition: Definition) -> int:
    node = definition.node
    return (node.end_lineno or node.lineno) - node.lineno + 1


def body_lines_of(definition: Definition) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = definition.node.body
    first = body[1] if ast.get_docstring(definition.node) is not None and len(body) > 1 else body[0]
    return (definition.node.end_lineno or first.lineno) - first.lineno + 1


def ours(under: tuple[str, ...]) -> list[Definition]:
    return [one for one in definitions(under) if not one.path.relative_to(ROOT).as_posix().startswith(MIGRATIONS)]


def functions() -> list[Definition]:
    return [one for one in ours(SHIPPED) if not isinstance(one.node, ast.ClassDef)]


def repeats_the_docstring_of_another(definition: Definition) -> bool:
    """Property setters and overloads: their one docstring stands at the first of them."""
    return any(ast.unparse(one).endswith((".setter", "overload", "override")) for one in definition.node.decorator_list)


def test_every_folder_of_modules_is_a_package_that_the_import_contracts_see() -> None:
    loaded_by_alembic = ROOT / "server/src/tillstream_server/ledger/migrations"
    folders = {path.parent for path in files(".py", under=PACKAGES) if not path.is_relative_to(loaded_by_alembic)}
    assert [str(one.relative_to(ROOT)) for one in sorted(folders) if not (one / "__init__.py").exists()] == []


def test_no_module_is_longer_than_600_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in files(".py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MODULE_LINES
    ]
    assert long == []


def test_no_function_is_longer_than_60_lines() -> None:
    assert [f"{one}: {lines_of(one)} lines" for one in functions() if lines_of(one) > FUNCTION_LINES] == []


def test_nine_function_bodies_in_ten_are_within_20_lines() -> None:
    found = functions()
    long = [one for one in found if body_lines_of(one) > MOSTLY_LINES]
    assert len(long) * 10 <= len(found)


def test_every_public_function_and_class_says_what_it_is_for() -> None:
    silent = [
        str(one)
        for one in ours(PACKAGES)
        if one.public and ast.get_docstring(one.node) is None and not repeats_the_docstring_of_another(one)
    ]
    assert silent == []
