"""Runs a command as systemd's MemoryDenyWriteExecute= would: no memory that is written can become code.

    python confined.py COMMAND [ARGUMENT …]

systemd does it by a seccomp filter, and so does this: mmap that asks for PROT_WRITE and PROT_EXEC, mprotect and
pkey_mprotect that ask for PROT_EXEC, and shmat with SHM_EXEC fail with EPERM. The numbers are those of x86-64.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER_MODE = 38, 22, 2
AUDIT_ARCH_X86_64 = 0xC000003E
LOAD, AND, EQUALS, RETURN = 0x20, 0x54, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # EPERM is 1
WRITE_EXEC, EXEC, SHM_EXEC = 0x6, 0x4, 0o100000
RULES = ((9, WRITE_EXEC), (10, EXEC), (329, EXEC), (30, SHM_EXEC))
"""A system call, and the bits of its third argument that it must not have together."""


def program() -> bytes:
    """The filter: one architecture, then each rule in five instructions."""
    steps = [(LOAD, 0, 0, 4), (EQUALS, 1, 0, AUDIT_ARCH_X86_64), (RETURN, 0, 0, ALLOW)]
    for number, bits in RULES:
        steps += [(LOAD, 0, 0, 0), (EQUALS, 0, 4, number), (LOAD, 0, 0, 32), (AND, 0, 0, bits)]
        steps += [(EQUALS, 0, 1, bits), (RETURN, 0, 0, REFUSE)]
    steps.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def confine() -> None:
    """Confine this process and all that it starts. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = program()
    buffer = ctypes.create_string_buffer(code, len(code))
    description = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER_MODE, description, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    confine()
    os.execvp(sys.argv[1], sys.argv[1:])
