"""The cashier's page: one strip, large type, never in the way.

It is complete as served, so that it also works where scripts do not run: every button is one of a form. The script
keeps it up to date with the same pieces of HTML, so that there is one place where they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Final, Literal

from msgspec import Struct

from ..config import Button
from .board import BoardView
from .cards import Card
from .member import Strip
from .words import Words

BUTTONS: Final = tuple(Button(kind, ()) for kind in ("other_bags", "item_missing", "in_a_hurry", "with_children"))
"""What there is to press where the settings say nothing; the labels are in the words of each language."""
Screen = Literal["staff", "customer"]
ANSWER_LIMIT: Final = 256

_PAGE: Final = """<!doctype html>
<html lang="{lang}" dir="{dir}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/display/style.css">
<noscript><meta http-equiv="refresh" content="2"></noscript>
<script src="/display/app.js" defer></script>
</head>
<body class="{screen}" data-run="{run}" data-basket="{basket}" data-member="{member_key}" data-sequence="{sequence}">
<header>
<h1 class="unseen">{title}</h1>
<div id="member" aria-live="polite">{member}</div>
<p id="offline" role="status"><span{hidden}>{offline}</span></p>
</header>
<main aria-live="polite" tabindex="-1">
<div id="prompt">{prompt}</div>
<ol id="offers" aria-label="{offers_label}">{offers}</ol>
</main>
<footer>
<section id="notes" aria-label="{notes_label}">{notes}</section>
<div class="small">
<p class="scripted" id="help">{help}</p>
<p id="said" role="status" data-noted="{noted}" data-refused="{refused}"></p>
<button class="scripted" id="keys" type="button" aria-pressed="true">{keys}</button>
</div>
</footer>
</body>
</html>
"""

_PAIR: Final = """<!doctype html>
<html lang="{lang}" dir="{dir}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/display/style.css">
</head>
<body class="pair">
<main>
<h1>{title}</h1>
<p id="how">{how}</p>
<form method="post" action="/display/pair">
<label for="code">{code}</label>
<input id="code" name="code" required maxlength="16" autocomplete="off" autocapitalize="characters" spellcheck="false"
 dir="ltr" aria-describedby="how{wrong_id}">
{wrong}<button class="accept">{open}</button>
</form>
</main>
</body>
</html>
"""


class OfferMessage(Struct, frozen=True):
    """An offer as it goes to the page."""

    offer: str
    title: str
    details: tuple[str, ...]
    reason: str


class PromptMessage(Struct, frozen=True):
    """A question as it goes to the page."""

    offer: str
    question: str
    text: str
    choices: tuple[str, ...]


class MemberMessage(Struct, frozen=True):
    """What is told of the member."""

    kind: str
    tail: str


class Message(Struct, frozen=True):
    """The whole board as it goes to the page. `html` has what each part of the page holds now, by its id."""

    run: str
    basket: str
    member: str
    sequence: int
    online: bool
    strip: MemberMessage | None
    offers: tuple[OfferMessage, ...]
    prompt: PromptMessage | None
    html: dict[str, str]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Draws the board for one screen: in its language, with the token that its forms carry."""

    words: Words
    buttons: Sequence[Button]
    token: str = ""
    staff: bool = True
    """Whether this is the cashier's screen: the customer's has no observations to make and no words for staff."""

    @property
    def screen(self) -> Screen:
        """Whose screen this is, as the address says it."""
        return "staff" if self.staff else "customer"

    def page(self, view: BoardView) -> str:
        """The page with what is on the board now."""
        words = self.words
        return _PAGE.format(
            lang=words.language,
            dir=words.direction,
            title=escape(words["title"]),
            screen=self.screen,
            run=view.run,
            basket=view.basket,
            member_key=view.member,
            sequence=view.sequence,
            hidden=" hidden" if view.online else "",
            offline=escape(words["offline"]),
            offers_label=escape(words["offers"]),
            notes_label=escape(words["notes"]),
            noted=escape(words["noted"]),
            refused=escape(words["refused"]),
            help=escape(words["keys.help"]),
            keys=escape(words["keys"]),
            **self._parts(view),
        )

    def message(self, view: BoardView) -> Message:
        """What the stream says of the board now."""
        strip = view.strip
        asking = view.prompt.prompt if view.prompt is not None else None
        return Message(
            view.run,
            view.basket,
            view.member,
            view.sequence,
            view.online,
            MemberMessage(self.words[f"member.{strip.scheme}"], strip.tail) if strip is not None else None,
            tuple(
                OfferMessage(card.offer_id.hex(), card.title, self._details(card), " · ".join(self._reason(card)))
                for card in view.offers
            ),
            PromptMessage(view.prompt.offer_id.hex(), asking.question, asking.text, asking.choices)
            if view.prompt is not None and asking is not None
            else None,
            self._parts(view),
        )

    def pairing_page(self, *, wrong: bool) -> str:
        """Asks for the code of a screen that is not paired."""
        words = self.words
        return _PAIR.format(
            lang=words.language,
            dir=words.direction,
            title=escape(words["pair"]),
            how=escape(words["pair.how"]),
            code=escape(words["pair.code"]),
            open=escape(words["pair.open"]),
            wrong=f'<p id="wrong" role="alert">{escape(words["pair.wrong"])}</p>\n' if wrong else "",
            wrong_id=" wrong" if wrong else "",
        )

    def _parts(self, view: BoardView) -> dict[str, str]:
        return {
            "member": self._member(view.strip, view.member) if view.strip is not None else "",
            "prompt": self._prompt(view, view.prompt) if view.prompt is not None else "",
            "offers": "".join(self._offer(view, card) for card in view.offers),
            "notes": "".join(self._note(view, button) for button in self.buttons) if self.staff else "",
        }

    def _member(self, strip: Strip, key: str) -> str:
        kind = escape(self.words[f"member.{strip.scheme}"])
        tail = ""
        if strip.tail:
            ends = escape(self.words["member.ends_in"])
            tail = f' <span class="unseen">{ends}</span> <bdi class="tail">{escape(strip.tail)}</bdi>'
        return f'<p data-key="{key}"><span class="kind">{kind}</span>{tail}</p>'

    def _offer(self, view: BoardView, card: Card) -> str:
        offer = card.offer_id.hex()
        details = "".join(f"<p>{_own(text)}</p>" for text in self._details(card))
        by = f'aria-describedby="offer-{offer}"'
        return (
            f'<li data-key="{offer}"><article aria-labelledby="offer-{offer}">'
            f'<h2 id="offer-{offer}">{_own(card.title)}</h2>{details}{self._why(card)}'
            f'<form method="post" action="/display/offers/{offer}/accepted">{self._hidden(view, offer=offer)}'
            f'<button class="accept" {by}>{escape(self.words["accept"])}</button>'
            f'<button class="decline" {by} formaction="/display/offers/{offer}/declined">'
            f"{escape(self.words['decline'])}</button>{self._away(by)}</form></article></li>"
        )

    def _prompt(self, view: BoardView, card: Card) -> str:
        prompt = card.prompt
        if prompt is None:
            return ""
        offer = card.offer_id.hex()
        hidden = self._hidden(view, offer=offer, question=prompt.question)
        answers = "".join(
            f'<button name="answer" value="{escape(choice)}">{_own(choice)}</button>' for choice in prompt.choices
        )
        by = f'aria-describedby="asked-{offer}"'
        return (
            f'<section data-key="{offer}" aria-labelledby="asked-{offer}">'
            f'<h2 id="asked-{offer}">{_own(prompt.text)}</h2>'
            f'<form method="post" action="/display/answers">{hidden}'
            f'<div class="answers">{answers or self._field(by)}</div>{self._away(by)}</form>{self._why(card)}</section>'
        )

    def _field(self, by: str) -> str:
        """Free text. Without scripts the page reloads too often to be typed into."""
        return (
            f'<label class="scripted"><span class="unseen">{escape(self.words["answer"])}</span>'
            f'<input name="answer" required maxlength="{ANSWER_LIMIT}" autocomplete="off" dir="auto" {by}></label>'
            f'<button class="scripted">{escape(self.words["send"])}</button>'
        )

    def _note(self, view: BoardView, button: Button) -> str:
        labels = dict(button.labels) or {self.words.language: self.words[f"note.{button.kind}"]}
        language = self.words.language if self.words.language in labels else next(iter(labels))
        foreign = f' lang="{language}"' if language != self.words.language else ""
        noted = button.kind in view.noted
        said = f'<span class="unseen">{escape(self.words["noted"])}: </span>' if noted else ""
        state = ' class="noted" aria-disabled="true"' if noted else ""
        return (
            f'<form data-key="{button.kind}" method="post" action="/display/observations">{self._hidden(view)}'
            f'<button name="kind" value="{button.kind}"{state}>'
            f'{said}<span dir="auto"{foreign}>{escape(labels[language])}</span></button></form>'
        )

    def _away(self, by: str) -> str:
        name = escape(self.words["dismiss"])
        return (
            f'<button class="away" {by} formaction="/display/dismissed" formnovalidate title="{name}">'
            f'<span class="unseen">{name}</span></button>'
        )

    def _why(self, card: Card) -> str:
        why, *more = map(escape, self._reason(card))
        about = f" · <bdi>{more[0]}</bdi> · {more[1]}" if more else ""
        return f'<p class="reason">{why}{about}</p>'

    def _details(self, card: Card) -> tuple[str, ...]:
        return (*card.details, *card.asides) if self.staff else card.details

    def _reason(self, card: Card) -> tuple[str, ...]:
        """Why it applies; and to staff, by which campaign, and who decided."""
        why = self.words[f"why.{card.trigger}"]
        return (why, card.campaign, self.words[f"from.{card.decided_at}"]) if self.staff else (why,)

    def _hidden(self, view: BoardView, **more: str) -> str:
        given = {"basket": view.basket, "member": view.member, "token": self.token, "screen": self.screen, **more}
        return "".join(f'<input type="hidden" name="{name}" value="{escape(v)}">' for name, v in given.items())


def _own(text: str) -> str:
    """A campaign's text: it runs in its own direction, and stands where the page's texts do."""
    return f'<span dir="auto">{escape(text)}</span>'


def asset(name: str) -> bytes:
    """A file that the page loads: `app.js` or `style.css`."""
    return files(__package__).joinpath(name).read_bytes()
