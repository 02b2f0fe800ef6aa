"""Landlock: a process drops access to all files except those it names. (Linux documentation, userspace-api/landlock.)

Landlock does not cover operations without an open file, such as stat, chmod and chdir; seccomp denies the harmful ones.
"""

import ctypes
import os
import stat
import struct

from lanbot.sandbox import kernel

CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # syscalls; these numbers are the same on all machines
BY_PATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER, REMOVE_FOLDER, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHARACTER, MAKE_FOLDER, MAKE_FILE, MAKE_SOCKET, MAKE_FIFO, MAKE_BLOCK, MAKE_LINK = (1 << b for b in range(6, 13))
REFER, TRUNCATE, IOCTL_DEVICE = (1 << bit for bit in range(13, 16))
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
"""The rights that a rule on a file, not a folder, may name."""
READ = READ_FILE | READ_FOLDER
WRITE = READ | WRITE_FILE | REMOVE_FOLDER | REMOVE_FILE | MAKE_FOLDER | MAKE_FILE | MAKE_LINK | REFER | TRUNCATE


def abi() -> int:
    """Landlock's version in this kernel; 0 if it is missing or disabled."""
    try:
        return kernel.syscall(CREATE, 0, 0, 1)
    except OSError:
        return 0


def handled(version: int) -> int:
    """All file rights known to this version."""
    return (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1


def ruleset(rights: dict[str, int]) -> int:
    """{path: READ or WRITE} as a descriptor for `restrict`. Missing paths are skipped. Raises OSError."""
    version = abi()
    if not version:
        raise OSError("Landlock is missing from this kernel, or disabled")
    known, net, scoped = handled(version), 3 if version >= 4 else 0, 3 if version >= 6 else 0
    words = struct.pack("=3Q", known, net, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    attributes = ctypes.create_string_buffer(words, len(words))
    rules = kernel.syscall(CREATE, kernel.pointer(attributes), len(words), 0)
    for path, right in rights.items():
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        right &= known if stat.S_ISDIR(os.fstat(opened).st_mode) else known & OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", right, opened))
        kernel.syscall(ADD_RULE, rules, BY_PATH, kernel.pointer(rule), 0)
        os.close(opened)
    return rules


def restrict(rules: int) -> None:
    """Restricts this process irrevocably; `no new privileges` must be set."""
    kernel.syscall(RESTRICT, rules, 0)
