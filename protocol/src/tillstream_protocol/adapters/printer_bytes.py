"""A receipt printer's bytes as lines of text: Epson's ESC/POS, and the basics of Star's line mode.

Commands are skipped by their length, so that images, cuts and settings leave no trace; the text of QR codes and bar
codes is kept beside the lines. The code page may change in mid-line (`ESC t`, Star's `ESC GS t`), and so may the
national variant of ASCII (`ESC R`) and a double-byte mode (`FS &`). Nothing here raises: a command that is cut off ends
the text, one that is not known is skipped with its two bytes and counted.

Source: Epson's ESC/POS command reference, Star's line mode command specification, and the numbers of code pages that
encoder libraries (python-escpos, receipt-printer-encoder) write for both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

ESC, GS, FS, DLE, RS, NUL, LF, CR, FF, HT = 0x1B, 0x1D, 0x1C, 0x10, 0x1E, 0, 0x0A, 0x0D, 0x0C, 0x09
_SPACE: Final = 0x20
_TEXT: Final = re.compile(rb"[\x20-\xff]+")
_GAP: Final = "  "
"""What a move of the print position stands for: columns stay apart."""
MAX_LINE: Final = 128
"""Characters of a line that are kept; receipt paper has room for some 40 to 64."""
MAX_LINES: Final = 2_000
MAX_CODES: Final = 500
"""Codes of one job that are kept."""


def _numbered(names: str, first: int = 0) -> dict[int, str]:
    return dict(enumerate(names.split(), first))


_EPSON_PAGES: Final[Mapping[int, str]] = {
    **_numbered("cp437 shift_jis cp850 cp860 cp863 cp865"),
    **_numbered("cp857 cp737 iso8859_7 cp1252 cp866 cp852 cp858", 13),
    **dict.fromkeys(range(20, 27), "cp874"),
    **_numbered("cp720 cp775 cp855 cp861 cp862 cp864 cp869 iso8859_2 iso8859_15", 32),
    **_numbered("cp1125 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 kz1048", 44),
}
_STAR_PAGES: Final[Mapping[int, str]] = {
    **_numbered("cp437 cp437 shift_jis cp437 cp858 cp852 cp860 cp861 cp863 cp865 cp866 cp855 cp857 cp862 cp864 cp737"),
    **_numbered("cp869 iso8859_7", 17),
    **_numbered("cp1252 cp1250 cp1251", 32),
    21: "cp874",
}
_ASCII: Final = "#$@[\\]^`{|}~"
_NATIONAL: Final = (
    *(_ASCII, "#$à°ç§^`éùè¨", "#$§ÄÖÜ^`äöüß", "£$@[\\]^`{|}~", "#$@ÆØÅ^`æøå~", "#¤ÉÄÖÅÜéäöåü"),
    *("#$@°\\é^ùàòèì", "₧$@¡Ñ¿^`¨ñ}~", "#$@[¥]^`{|}~", "#¤ÉÆØÅÜéæøåü", "#$ÉÆØÅÜéæøåü"),
)


@dataclass(slots=True)
class Slip:
    """What was printed between two cuts: its lines, its codes as (`qr` or `barcode`, text), and where its bytes end."""

    lines: list[str] = field(default_factory=list)
    codes: list[tuple[str, str]] = field(default_factory=list)
    end: int = 0


@dataclass(slots=True)
class Printed:
    """A whole job: its slips in order, its dialect, and commands and code pages that are not known.

    Blank lines are left out. `lines` counts all others; those beyond `MAX_LINES` are in no slip.
    """

    slips: list[Slip]
    dialect: str
    unknown: set[str] = field(default_factory=set)
    lines: int = 0
    cut: int = 0
    """Where the bytes after the last whole cut command begin; 0 where nothing was cut."""


CUTS: Final = re.compile(rb"\x1dV|\x1b[imd]")
"""What begins every command that cuts. It may as well stand in an image, or mean something else."""


def last_cut(data: bytes, *, dialect: str = "") -> int:
    """How many bytes of a job that may go on lie before its last cut of the paper; 0 where there is none yet."""
    return printed(data, {}, dialect=dialect).cut if CUTS.search(data) else 0


def printed(data: bytes, pages: Mapping[int, str], *, first: str = "", dialect: str = "", double: str = "") -> Printed:
    """What a job prints. `pages` come before the dialect's own code pages; `first` is the one it begins with.

    `dialect` is `epson` or `star`, or empty to tell by the bytes: `ESC GS` is Star's alone. `double` is the codec of
    the double-byte mode. All codecs have to exist: see `known_codec`.
    """
    dialect = dialect or ("star" if b"\x1b\x1d" in data else "epson")
    return _Printer(data, dialect, pages, first or "cp437", double or "gb18030").run()


def known_codec(name: str) -> bool:
    """Whether there is a codec of text of this name."""
    try:
        b" ".decode(name, "replace")
    except (LookupError, ValueError):
        return False
    return True


class _Printer:
    def __init__(self, data: bytes, dialect: str, pages: Mapping[int, str], first: str, double: str) -> None:
        self._data, self._at = data, 0
        self._star = dialect == "star"
        self._pages = {**(_STAR_PAGES if self._star else _EPSON_PAGES), **pages}
        self._first = self._codec = first
        self._double, self._in_double = double, False
        self._national = _ASCII
        self._run, self._line = bytearray(), ""
        self._slip, self._codes = Slip(), 0
        self.result = Printed([], dialect)

    def run(self) -> Printed:
        data = self._data
        while self._at < len(data):
            text = _TEXT.match(data, self._at)
            if text is not None:
                self._run += text[0]
                self._at = text.end()
            else:
                self._at += 1
                self._control(data[self._at - 1])
        self._end_slip()
        return self.result

    def _control(self, byte: int) -> None:
        if byte in (ESC, GS, FS, DLE):
            self._command(byte)
        elif byte in (LF, FF) or (byte == CR and self._data[self._at : self._at + 1] != b"\n"):
            self._end_line()
        elif byte == HT:
            self._flush(_GAP)
        elif byte == RS and self._star:
            self._take(2)

    def _command(self, prefix: int) -> None:
        name = self._byte()
        if name is None:
            return
        tables = (_STAR, _COMMANDS) if self._star else (_COMMANDS,)
        for table in tables:
            action = table.get((prefix, name))
            if isinstance(action, int):
                self._take(action)
                return
            if action is not None:
                action(self)
                return
        self.result.unknown.add(f"{prefix:02x} {name:02x}")

    def _byte(self) -> int | None:
        taken = self._take(1)
        return taken[0] if taken else None

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def _number(self, size: int = 2) -> int:
        return int.from_bytes(self._take(size), "little")

    def _until(self, *ends: int) -> bytes:
        start = self._at
        while self._at < len(self._data) and self._data[self._at] not in ends:
            self._at += 1
        taken = self._data[start : self._at]
        self._at += 1
        return taken

    def _decoded(self, raw: bytes) -> str:
        text = raw.decode(self._double if self._in_double else self._codec, "replace")
        return text if self._national is _ASCII else text.translate(str.maketrans(_ASCII, self._national))

    def _flush(self, gap: str = "") -> None:
        if self._run and len(self._line) <= MAX_LINE:
            self._line += self._decoded(bytes(self._run))
        self._run.clear()
        if gap and self._line and len(self._line) <= MAX_LINE:
            self._line += gap

    def _end_line(self) -> None:
        if not self._run and not self._line:
            return
        self._flush()
        text = "".join(c for c in self._line[:MAX_LINE] if c.isprintable()).rstrip()
        if text:
            self.result.lines += 1
            if self.result.lines <= MAX_LINES:
                self._slip.lines.append(text)
        self._line = ""

    def _end_slip(self) -> None:
        self._end_line()
        self._slip.end = min(self._at, len(self._data))
        if self._slip.lines or self._slip.codes:
            self.result.slips.append(self._slip)
            self._slip = Slip()
        elif self.result.slips:
            self.result.slips[-1].end = self._slip.end

    def _code(self, kind: str, raw: bytes) -> None:
        text = "".join(c for c in raw.decode("utf-8", "replace") if c.isprintable())
        self._codes += 1
        if text and self._codes <= MAX_CODES:
            self._slip.codes.append((kind, text))

    # Commands: each reads its own arguments.

    def reset(self) -> None:
        self._flush()
        self._codec, self._in_double, self._national = self._first, False, _ASCII

    def page(self) -> None:
        self._flush()
        number = self._byte()
        codec = None if number is None else self._pages.get(number)
        if codec is None:
            self.result.unknown.add(f"code page {number}")
        self._codec = codec or self._first

    def national(self) -> None:
        self._flush()
        number = self._byte() or 0
        self._national = _NATIONAL[number] if number < len(_NATIONAL) else _ASCII

    def double(self, on: bool) -> None:
        self._flush()
        self._in_double = on

    def move(self, arguments: int) -> None:
        self._take(arguments)
        self._flush(_GAP)

    def feed(self, arguments: int) -> None:
        self._take(arguments)
        self._end_line()

    def cut(self, arguments: int) -> None:
        self._take(arguments)
        self._end_slip()
        if self._at <= len(self._data):
            self.result.cut = self._at

    def cut_gs(self) -> None:
        how = self._byte() or 0
        self.cut(0 if how in (0, 1, 48, 49) else 1)

    def block(self, size: int = 2) -> None:
        self._take(self._number(size))

    def large_block(self) -> None:
        self._take(1)
        self.block(4)

    def symbol(self) -> None:
        """`GS ( k`: a two-dimensional code; its data come with function 80, and are printed with 81."""
        data = self._take(self._number())
        if data[1:2] == b"P":
            self._code("qr" if data[:1] == b"1" else "barcode", data[3:])

    def parenthesis(self) -> None:
        if self._byte() == ord("k"):
            self.symbol()
        else:
            self.block()

    def barcode(self) -> None:
        kind = self._byte() or 0
        self._code("barcode", self._take(self._byte() or 0) if kind > _SPACE else self._until(NUL))

    def raster(self) -> None:
        self._take(2)
        self._take(self._number() * self._number())

    def bits(self) -> None:
        mode = self._byte()
        self._take(self._number() * (1 if mode in (0, 1) else 3))

    def downloaded(self) -> None:
        wide, high = self._byte() or 0, self._byte() or 0
        self._take(wide * high * 8)

    def characters(self) -> None:
        high, first, last = self._byte() or 0, self._byte() or 0, self._byte() or 0
        for _ in range(first, last + 1):
            self._take((self._byte() or 0) * high)

    def tabs(self) -> None:
        self._until(NUL)

    def stored(self) -> None:
        for _ in range(self._byte() or 0):
            self._take(self._number() * self._number() * 8)

    def realtime(self) -> None:
        self._take({1: 2, 2: 2, 8: 7}.get(self._byte() or 0, 1))

    def star_group(self) -> None:
        """`ESC GS`, Star's own second prefix."""
        name = self._byte()
        if name == ord("t"):
            self.page()
        elif name == ord("y"):
            self.star_qr()
        elif name in (ord("A"), ord("R")):
            self.move(2)
        elif name == ord("S"):
            self.star_raster()
        elif name in (ord(")"), ord("(")):
            self._take(1)
            self.block()
        else:
            self._take(1)

    def star_qr(self) -> None:
        step = self._byte()
        if step == ord("S"):
            self._take(2)
        elif step == ord("D"):
            self._take(2)
            self._code("qr", self._take(self._number()))

    def star_raster(self) -> None:
        self._take(1)
        wide, high = self._number(), self._number()
        self._take(1 + wide * high)

    def star_barcode(self) -> None:
        self._take(4)
        self._code("barcode", self._until(RS))


_Action = int | Callable[[_Printer], None]


def _named(prefix: int, names: str, action: _Action) -> dict[tuple[int, int], _Action]:
    return {(prefix, ord(name)): action for name in names}


_COMMANDS: Final[Mapping[tuple[int, int], _Action]] = {
    **_named(ESC, "<2LSv\x0c", 0),
    **_named(ESC, "! %-3=?EGKMTUVae{rguc", 1),
    **_named(ESC, "B", 2),
    **_named(ESC, "p", 3),
    **_named(ESC, "W", 8),
    **_named(ESC, "c", 2),
    **_named(ESC, "@", _Printer.reset),
    **_named(ESC, "t", _Printer.page),
    **_named(ESC, "R", _Printer.national),
    **_named(ESC, "dJ", partial(_Printer.feed, arguments=1)),
    **_named(ESC, "$\\", partial(_Printer.move, arguments=2)),
    **_named(ESC, "im", partial(_Printer.cut, arguments=0)),
    **_named(ESC, "*", _Printer.bits),
    **_named(ESC, "&", _Printer.characters),
    **_named(ESC, "D", _Printer.tabs),
    **_named(ESC, "(", _Printer.parenthesis),
    **_named(GS, ":c", 0),
    **_named(GS, "!BEHITabfhrw/", 1),
    **_named(GS, "LWP", 2),
    **_named(GS, "^z", 3),
    **_named(GS, "$\\", partial(_Printer.move, arguments=2)),
    **_named(GS, "V", _Printer.cut_gs),
    **_named(GS, "k", _Printer.barcode),
    **_named(GS, "vQ", _Printer.raster),
    **_named(GS, "*", _Printer.downloaded),
    **_named(GS, "(", _Printer.parenthesis),
    **_named(GS, "8", _Printer.large_block),
    **_named(FS, "&", partial(_Printer.double, on=True)),
    **_named(FS, ".", partial(_Printer.double, on=False)),
    **_named(FS, "!-CW", 1),
    **_named(FS, "Sp?", 2),
    **_named(FS, "q", _Printer.stored),
    **_named(FS, "(", _Printer.parenthesis),
    **_named(DLE, "\x04\x05", 1),
    **_named(DLE, "\x14", _Printer.realtime),
}
"""What follows each command of ESC/POS: so many bytes, or what reads them."""
_STAR: Final[Mapping[tuple[int, int], _Action]] = {
    **_named(ESC, "EF45MP:g012fO", 0),
    **_named(ESC, "W_hClQNAyzIu3", 1),
    **_named(ESC, "is\x07", 2),
    **_named(ESC, "\x1e", 2),
    **_named(ESC, "@", _Printer.reset),
    **_named(ESC, "a", partial(_Printer.feed, arguments=1)),
    **_named(ESC, "d", partial(_Printer.cut, arguments=1)),
    **_named(ESC, "KLkX", _Printer.block),
    **_named(ESC, "b", _Printer.star_barcode),
    **_named(ESC, "\x1d", _Printer.star_group),
}
"""Where Star's line mode differs."""
