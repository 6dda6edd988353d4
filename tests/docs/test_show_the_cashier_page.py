"""What the page on the cashier's page says is so."""

from __future__ import annotations

import re
from pathlib import Path

from tillstream_agent.config import Button, load
from tillstream_agent.display.page import BUTTONS
from tillstream_agent.hooks import pairing, screens

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "show-the-cashier.md").read_text(encoding="utf-8")


def test_the_example_of_buttons_is_taken(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "agent.toml").write_text(example, encoding="utf-8")
    assert load(tmp_path / "agent.toml", environment={}).display_buttons == (
        Button("other_bags", (("en", "Other shops' bags"), ("de", "Fremde Tüten"))),
        Button("asked_for_gift_wrap", (("en", "Gift wrap"),)),
    )


def test_the_figures_are_the_codes() -> None:
    assert (pairing.CODE_SIZE, pairing.CODE_LIFE_S, pairing.TRIES) == (8, 5 * 60, 5)
    assert screens.COOKIE_LIFE_S == 180 * 86_400
    assert len(BUTTONS) == 4
    script = (Path(screens.__file__).parents[1] / "display" / "app.js").read_text(encoding="utf-8")
    assert "BURST_MS = 80" in script
    assert "80 ms" in PAGE
