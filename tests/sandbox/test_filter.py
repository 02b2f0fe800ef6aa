"""The seccomp program in an interpreter, for both architectures."""

import errno
import re
import struct
from pathlib import Path

import pytest

from lanbot.sandbox import seccomp

PID = 77
MACHINES = list(seccomp.ARCHITECTURES)


def judge(machine: str, number: int, *arguments: int, writes: bool = True, architecture: int | None = None) -> int:
    """The kernel's decision: 0 to allow, an errno, or -1 to kill."""
    words = [argument & (1 << 64) - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    architecture = architecture or seccomp.ARCHITECTURES[machine]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *words)
    program, at, value = seccomp.program(machine, writes), 0, 0
    while True:
        code, true, false, k = program[at]
        k = PID if k == seccomp.OWN_PID else k
        at += 1
        if code == seccomp.LOAD:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == seccomp.AND:
            value &= k
        elif code == seccomp.RETURN:
            return {seccomp.ALLOW: 0, seccomp.KILL: -1}.get(k, k & 0xFFFF)
        else:
            holds = {seccomp.EQUAL: value == k, seccomp.GREATER: value > k, seccomp.ANY_BIT: bool(value & k)}[code]
            at += true if holds else false


@pytest.mark.parametrize("machine", MACHINES)
def test_a_filter_for_one_machine_kills_on_another(machine: str) -> None:
    (other,) = set(MACHINES) - {machine}
    assert judge(machine, 0, architecture=seccomp.ARCHITECTURES[other]) == -1
    assert judge(machine, 0, architecture=0x40000003) == -1  # 32 bits


CASES = {
    # call: (number on x86-64, on aarch64, arguments, what comes of it)
    "read": (0, 63, (), 0),
    "futex": (202, 98, (), 0),
    "socket": (41, 198, (2, 1), errno.EPERM),
    "socketpair": (53, 199, (1, 1), 0),
    "socketpair of the network": (53, 199, (2, 1), errno.EPERM),
    "a thread": (56, 220, (0x3D0F00,), 0),
    "a process": (56, 220, (17,), errno.EPERM),
    "vfork by clone": (56, 220, (0x4111,), errno.EPERM),
    "a thread with a user namespace": (56, 220, (0x10010000,), errno.EPERM),
    "clone3": (435, 435, (), errno.ENOSYS),
    "execve": (59, 221, (), errno.EPERM),
    "kill itself": (62, 129, (PID, 9), 0),
    "kill another": (62, 129, (78, 9), errno.EPERM),
    "kill all": (62, 129, (-1, 9), errno.EPERM),
    "kill its group": (62, 129, (0, 9), errno.EPERM),
    "tgkill itself": (234, 131, (PID, 80, 6), 0),
    "tgkill another": (234, 131, (78, 78, 6), errno.EPERM),
    "tkill": (200, 130, (PID,), errno.EPERM),
    "its own limits": (302, 261, (0, 7), 0),
    "another's limits": (302, 261, (78, 7), errno.EPERM),
    "send": (44, 206, (3, 1, 1, 0, 0), 0),
    "sendto": (44, 206, (3, 1, 1, 0, 0x1000), errno.EPERM),
    "sendto, high address": (44, 206, (3, 1, 1, 0, 0x7F00000000), errno.EPERM),
    "a signal when data comes": (72, 25, (3, 8, 78), errno.EPERM),
    "close on exec": (72, 25, (3, 2, 1), 0),
    "push into a terminal": (16, 29, (0, 0x5412), errno.ENOTTY),
    "is it a terminal": (16, 29, (0, 0x5401), 0),
    "its death signal": (157, 167, (1, 0), errno.EPERM),
    "its name": (157, 167, (15, 0), 0),
    "io_uring": (425, 425, (), errno.EPERM),
    "ptrace": (101, 117, (), errno.EPERM),
    "a call of tomorrow": (500, 500, (), errno.ENOSYS),
    "a call of x32": (0x40000000 + 57, 0x40000000 + 57, (), errno.ENOSYS),
    "number -1": (-1, -1, (), errno.ENOSYS),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", CASES)
def test_system_calls_are_allowed_denied_or_fatal(machine: str, name: str) -> None:
    *numbers, arguments, expected = CASES[name]
    assert judge(machine, numbers[MACHINES.index(machine)], *arguments) == expected  # type: ignore[call-overload]


@pytest.mark.parametrize("machine", MACHINES)
def test_read_only_filters_deny_more(machine: str) -> None:
    column = MACHINES.index(machine)
    openat, chmod, truncate = (257, 56)[column], (268, 53)[column], (76, 45)[column]
    for writes in (True, False):
        denied = 0 if writes else errno.EPERM
        assert judge(machine, chmod, writes=writes) == judge(machine, truncate, writes=writes) == denied
        assert judge(machine, openat, 0, 0, 0o1000, writes=writes) == (0 if writes else errno.EACCES)
        for flags in (0, 0o1, 0o1102, 0o2000000):  # Landlock judges what is opened for writing
            assert judge(machine, openat, 0, 0, flags, writes=writes) == 0


def test_the_numbers_are_those_of_the_kernels_headers() -> None:
    entries = [entry.split() for entry in f"{seccomp.DENIED},{seccomp.DENIED_WHERE_NOTHING_IS_WRITTEN}".split(",")]
    listed = {name: numbers for name, *numbers in entries}
    headers = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h")]
    for column, header in enumerate(headers):
        if not header.is_file():
            pytest.skip(f"{header.name} is not on this machine")
        known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
        for name, numbers in listed.items():
            assert known.get(name, "-") == numbers[column], name
