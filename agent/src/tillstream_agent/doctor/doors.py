"""What the folders and ports that the settings name give away from outside."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from ..config_doors import Doors, DropSetting
from ..hooks.drop_folder import DropFolder, printable
from .finding import Finding, ok, problem, some

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def findings_of_doors(doors: Doors) -> Iterator[Finding]:
    """Each watched folder, and each printer's port."""
    for drop in doors.drops:
        try:
            yield _drop(drop)
        except OSError as error:
            fix = "make it, and let the agent's user read, write and enter it"
            yield problem("drop folder", f"{drop.folder}: {error.strerror}", "it is not there, or not ours to use", fix)
    for printer in doors.printers:
        if printer.listen.host not in _LOOPBACK:
            fix = "listen on 127.0.0.1, or have a firewall let nobody but the POS in"
            detail = f"whoever reaches {printer.listen} can print and report sales"
            yield problem("printer port", detail, "[[printer]] listen is an address on the network", fix)
        else:
            yield ok("printer port", f"{printer.listen}, to {printer.to}")


def _drop(drop: DropSetting) -> Finding:
    folder = DropFolder(drop.folder, drop.pattern)
    look, where = folder.look(), str(drop.folder)
    as_seen = os.access in os.supports_effective_ids  # who looks may be root with the agent's user's eyes
    if not os.access(drop.folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=as_seen):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    refused = folder.refused()
    if refused:
        fix = "see the .error.json beside each; set the adapter right, and move the files back"
        detail = f"{where}: {len(refused)} in error/: {some(refused)}"
        return problem("drop folder", detail, "not as the adapter reads", fix)
    if look.open_to_others:
        fix = f"chmod o= {where}, and give the POS's user and the agent's a group in common"
        return problem("drop folder", f"{where} is open to every user", "anybody can read or forge sales there", fix)
    if look.odd:
        detail = f"{where}: left alone, as they are no files: {some([printable(name) for name in look.odd])}"
        return problem("drop folder", detail, "links and folders are not followed", "remove them")
    return ok("drop folder", f"{where}: {len(look.files)} files wait")
