"""Draws the docs' pictures of the cashier's page and of the console: `make screenshots`.

Letters look as the machine's fonts have them.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.browsers import chromium, missing
from support.cashier import ADA, ASKS, ENGLISH, GRACE, a_desk, decision, question
from support.office_pictures import draw_console
from tillstream_protocol.decisions import Decision
from tillstream_protocol.effects import CashierMessage, Discount
from tillstream_protocol.transaction import Identifier

ARABIC = (
    decision(1, Discount("خصم ٢٠٪ على طقم القهوة القادم", basis_points=2000), edge=True, campaign="coffee-week"),
    decision(2, "نقاط مضاعفة اليوم", CashierMessage("أخبر العميل الآن"), campaign="double"),
    decision(3, "A free tote for your third visit", campaign="third-visit"),
    question(9, "كيف كانت زيارتك اليوم؟", "جيدة", "مقبولة", "غير جيدة", name="visit"),
)
FRENCH = (
    decision(1, "Un café offert dès deux viennoiseries", edge=True, campaign="petit-déjeuner"),
    decision(2, Discount("2 € de remise sur le pain complet", amount=200), edge=True, campaign="boulangerie"),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One state of the page."""

    name: str
    decisions: tuple[Decision, ...]
    member: tuple[Identifier, ...]
    online: bool
    options: dict[str, Any]
    noted: str = ""


PICTURES = (
    Picture("display", (*ENGLISH, ASKS), ADA, True, {"locale": "en-GB", "color_scheme": "light"}, "other_bags"),
    Picture("display-offline", FRENCH, GRACE, False, {"locale": "fr-FR", "color_scheme": "dark"}),
    Picture("display-right-to-left", ARABIC, ADA, True, {"locale": "ar-EG", "color_scheme": "light"}),
)


async def draw(folder: Path) -> None:
    """Write the pictures into a folder."""
    async with chromium() as browser:
        with tempfile.TemporaryDirectory() as state:
            await draw_console(browser, Path(state), folder)
        for picture in PICTURES:
            options = {**picture.options, "reduced_motion": "reduce", "viewport": {"width": 1120, "height": 620}}
            with tempfile.TemporaryDirectory() as state:
                async with a_desk(browser, Path(state), **options) as desk:
                    board = desk.till.behind.board
                    board.set_online(picture.online)
                    desk.till.serves("b1", *picture.decisions, member=picture.member)
                    if picture.noted:
                        board.note(picture.noted)
                    await desk.sees(*(card.title for card in board.cards()))
                    await desk.page.screenshot(path=folder / f"{picture.name}.png")


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    asyncio.run(draw(Path(sys.argv[1])))
