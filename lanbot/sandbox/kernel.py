"""System calls that Python's library does not offer: prctl, mount, capset, and syscall itself."""

import ctypes
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_KEEPCAPS, SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 1, 4, 8, 22, 38
NOSUID, NODEV, NOEXEC, DETACH = 2, 4, 8, 2
CAPABILITY_VERSION = 0x20080522
READ_SEARCH = 1 << 2  # CAP_DAC_READ_SEARCH: reads files and searches folders whatever their mode


def checked(result: int) -> int:
    """Raises OSError if libc returned -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *arguments: int | ctypes.c_void_p) -> int:
    return checked(
        LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    )


def pointer(data: ctypes.Array) -> ctypes.c_void_p:
    """The address of a buffer, which the caller keeps alive."""
    return ctypes.cast(data, ctypes.c_void_p)


def prctl(option: int, value: int | ctypes.c_void_p, second: int | ctypes.c_void_p = 0) -> int:
    words = (ctypes.c_ulong(word) if isinstance(word, int) else word for word in (value, second, 0, 0))
    return checked(LIBC.prctl(ctypes.c_int(option), *words))


def keep_capabilities(mask: int) -> None:
    """Drops all capabilities of this process except those in the mask."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION, 0))
    words = ctypes.create_string_buffer(struct.pack("=6I", mask, mask, 0, 0, 0, 0))
    checked(LIBC.capset(header, words))


def mount_tmpfs(folder: str, options: str) -> None:
    flags = ctypes.c_ulong(NOSUID | NODEV | NOEXEC)
    checked(LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode()))


def unmount(folder: str) -> None:
    checked(LIBC.umount2(os.fsencode(folder), DETACH))
