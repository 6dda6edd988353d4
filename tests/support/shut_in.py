"""Runs a program under what a systemd unit forbids it, without systemd: its calls to the kernel, executable memory.

    python -m support.shut_in CALLS MODULE ARGUMENTS…        CALLS names a file with an allowed call a line

Exit code 77 says that this machine cannot forbid it.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import sys
from ctypes.util import find_library
from pathlib import Path
from typing import Final

CANNOT: Final = 77
PR_SET_MDWE: Final = 65
"""Linux 6.3's own form of MemoryDenyWriteExecute; linux/prctl.h."""
PR_SET_NO_NEW_PRIVS: Final = 38
ACT_ALLOW: Final = 0x7FFF0000
ACT_ERRNO: Final = 0x00050000
"""seccomp.h; with the error in the low bits."""


def forbid_executable_memory() -> bool:
    """For this process and its children, for ever. Whether the kernel can."""
    return bool(ctypes.CDLL(None).prctl(PR_SET_MDWE, 1, 0, 0, 0) == 0)


def allow_only(calls: list[str]) -> bool:
    """Have the kernel answer every other call with EPERM. Whether libseccomp is there."""
    name = find_library("seccomp")
    if name is None:
        return False
    library = ctypes.CDLL(name)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ACT_ERRNO | errno.EPERM))
    for call in calls:
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number != -1:
            assert library.seccomp_rule_add_array(context, ACT_ALLOW, number, 0, None) in (0, -errno.EDOM), call
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(library.seccomp_load(context) == 0)


def main() -> int:
    """Forbid, then be the program."""
    calls, module, *arguments = sys.argv[1:]
    allowed = Path(calls).read_text(encoding="ascii").split()
    if not (forbid_executable_memory() and allow_only(allowed)):
        return CANNOT
    code: int = importlib.import_module(module).main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
