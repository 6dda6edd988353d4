"""What Tryton asks of every module, asked of ours. For `python -m unittest`, as `Shop.own_tests` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polib
from trytond.pool import Pool
from trytond.tests.test_tryton import ModuleTestCase, with_transaction

import tillstream_tryton

MODULE = "sale_point_tillstream"
LOCALES = Path(tillstream_tryton.__file__).parent / "locale"


class TillstreamTestCase(ModuleTestCase):
    """Views, fields, buttons and registrations, and that each text is translated."""

    module = MODULE

    @with_transaction()
    def test_every_text_is_translated(self) -> None:
        ours = Pool().get("ir.translation").search([("module", "=", MODULE), ("lang", "=", "en")])
        wanted = {_key(one) for one in ours}
        assert len(wanted) > 25
        for language in ("de", "fr", "es"):
            with self.subTest(language=language):
                entries = polib.pofile(str(LOCALES / f"{language}.po"))
                given = {(one.msgctxt.split(":")[1], one.msgid) for one in entries if one.msgstr}
                assert wanted - given == set()
                assert len(given) == len(entries)


def _key(translation: Any) -> tuple[str, str]:
    return translation.name, translation.src


del ModuleTestCase
