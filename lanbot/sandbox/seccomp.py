"""A seccomp filter: the system calls that a run may not make. (Linux documentation, userspace-api/seccomp_filter.)

It denies what is listed: a list of all that CPython and libc may call would break with their next version. Calls newer
than the list do not exist for a run. What is denied fails with EPERM, and the run continues.
"""

import ctypes
import errno
import platform
import struct
import sys

from lanbot.sandbox import kernel

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEWEST = 450
"""set_mempolicy_home_node, Linux 5.17. Later calls fail with ENOSYS, and so do the x32 ones, which start at 2^30."""

DENIED = """
socket 41 198, connect 42 203, accept 43 202, accept4 288 242, bind 49 200, listen 50 201, sendmsg 46 211,
sendmmsg 307 269, setsockopt 54 208,
fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, ptrace 101 117, unshare 272 97, setns 308 268,
tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, pidfd_send_signal 424 424, pidfd_open 434 434,
pidfd_getfd 438 438, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440,
process_mrelease 448 448, kcmp 312 272,
setpriority 141 140, sched_setparam 142 118, sched_setscheduler 144 119, sched_setattr 314 274,
sched_setaffinity 203 122, ioprio_set 251 30, migrate_pages 256 238, move_pages 279 239,
io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427, io_setup 206 0,
add_key 248 217, request_key 249 218, keyctl 250 219, bpf 321 280, perf_event_open 298 241, userfaultfd 323 282,
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, open_tree 428 428, move_mount 429 429, fsopen 430 430,
fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442, quotactl 179 60, quotactl_fd 443 443,
memfd_create 319 279, memfd_secret 447 447, shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, semop 65 193,
semctl 66 191, semtimedop 220 192, msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187, mq_open 240 180,
mq_unlink 241 181,
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16,
name_to_handle_at 303 264, open_by_handle_at 304 265, mknod 133 -, mknodat 259 33, fanotify_init 300 262,
fanotify_mark 301 263, inotify_add_watch 254 27, sync 162 81, syncfs 306 267,
syslog 103 116, personality 135 92, modify_ldt 154 -, iopl 172 -, ioperm 173 -, vhangup 153 58, lookup_dcookie 212 18
"""
"""Name, number on x86-64, number on aarch64."""

DENIED_WHERE_NOTHING_IS_WRITTEN = """
chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, utime 132 -,
utimes 235 -, futimesat 261 -, utimensat 280 88, truncate 76 45
"""
"""These need no open file, so Landlock (for truncate: before version 3) allows them on the user's own files."""

LOAD, AND, EQUAL, GREATER, ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x25, 0x45, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets into the filter's input; arguments have 8 bytes each, low word first."""
OWN_PID = 0xFFFFFFF1  # placeholder for the pid of the process that loads the filter
CLONE_THREAD, CLONE_NEW_SPACES = 0x00010000, 0x7E020000
PR_SET_NAME, PR_GET_NAME = 15, 16
AF_UNIX = 1
TERMINAL_AND_FLAGS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""ioctl: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
SIGNALS_BY_FILE = (8, 10, 15, 1024, 1026)
"""fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: a signal to any process of the same user."""
O_ACCESS, O_TRUNC = 0o3, 0o1000

Instruction = tuple[int, int, int, int]


def refuse(number: int) -> Instruction:
    return (RETURN, 0, 0, ERROR | number)


YES: Instruction = (RETURN, 0, 0, ALLOW)
NO = refuse(errno.EPERM)


def argument(index: int, high: bool = False) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS + 8 * index + 4 * high)


def one_of(index: int, values: tuple[int, ...], then: Instruction, otherwise: Instruction) -> list[Instruction]:
    """Whether the low word of an argument is among the values."""
    tests = [step for value in values for step in ((EQUAL, 0, 1, value), then)]
    return [argument(index), *tests, otherwise]


def opens_to_truncate(index: int) -> list[Instruction]:
    """open(O_RDONLY | O_TRUNC) truncates a file that the user may write; Landlock covers it from version 3 on."""
    mask = (AND, 0, 0, O_ACCESS | O_TRUNC)
    return [argument(index), mask, (EQUAL, 0, 1, O_TRUNC), refuse(errno.EACCES), YES]


def judged(writes: bool) -> list[tuple[tuple[int | None, int | None], list[Instruction]]]:
    """((number on x86-64, on aarch64), steps that decide by the arguments)."""
    own, no_address = (OWN_PID,), [argument(4), (EQUAL, 1, 0, 0), NO, argument(4, high=True), (EQUAL, 1, 0, 0), NO, YES]
    threads = [argument(0), (ANY_BIT, 0, 1, CLONE_NEW_SPACES), NO, (ANY_BIT, 0, 1, CLONE_THREAD), YES, NO]
    rules: list[tuple[tuple[int | None, int | None], list[Instruction]]] = [
        ((56, 220), threads),  # clone: a thread, never a process
        ((435, 435), [refuse(errno.ENOSYS)]),  # clone3: its flags are in memory; libc falls back to clone
        ((437, 437), [refuse(errno.ENOSYS)]),  # openat2: so are its flags
        ((62, 129), one_of(0, own, YES, NO)),  # kill
        ((234, 131), one_of(0, own, YES, NO)),  # tgkill
        ((302, 261), one_of(0, (0, *own), YES, NO)),  # prlimit64
        ((53, 199), one_of(0, (AF_UNIX,), YES, NO)),  # socketpair: asyncio needs one to wake up
        ((44, 206), no_address),  # sendto, to the other end of a pair only
        ((157, 167), one_of(0, (PR_SET_NAME, PR_GET_NAME), YES, NO)),  # prctl
        ((16, 29), one_of(1, TERMINAL_AND_FLAGS, YES, refuse(errno.ENOTTY))),  # ioctl
        ((72, 25), one_of(1, SIGNALS_BY_FILE, NO, YES)),  # fcntl
    ]
    if not writes:
        rules += [((2, None), opens_to_truncate(1)), ((257, 56), opens_to_truncate(2))]  # open, openat
    return rules


def numbers(listed: str, column: int) -> list[int]:
    cells = (entry.split() for entry in listed.split(","))
    return [int(cell[1 + column]) for cell in cells if cell[1 + column] != "-"]


def program(machine: str, writes: bool) -> list[Instruction]:
    """The filter for a machine of ARCHITECTURES. writes: whether there is a writable folder."""
    column = list(ARCHITECTURES).index(machine)
    denied = numbers(DENIED, column) + ([] if writes else numbers(DENIED_WHERE_NOTHING_IS_WRITTEN, column))
    steps: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (GREATER, 0, 1, NEWEST),
        refuse(errno.ENOSYS),
    ]
    for number in denied:
        steps += [(EQUAL, 0, 1, number), NO]
    for columns, deciding in judged(writes):
        if (known := columns[column]) is not None:
            steps += [(EQUAL, 0, len(deciding), known), *deciding]
    return [*steps, YES]


class Filter:
    """Built once, loaded by each process with its own pid."""

    def __init__(self, writes: bool) -> None:
        """Raises OSError on an unsupported architecture."""
        if (machine := platform.machine()) not in ARCHITECTURES or sys.maxsize < 2**32:
            raise OSError(
                f"the sandbox knows the kernel's numbers for {' and '.join(ARCHITECTURES)}, not for {machine}"
            )
        steps = program(machine, writes)
        self.code = bytearray(b"".join(struct.pack("=HBBI", *step) for step in steps))
        self.pids = [8 * at + 4 for at, step in enumerate(steps) if step[3] == OWN_PID]
        self.length = len(steps)

    def load(self, pid: int) -> None:
        """Filters this process irrevocably; `no new privileges` must be set."""
        for at in self.pids:
            struct.pack_into("=I", self.code, at, pid)
        code = (ctypes.c_char * len(self.code)).from_buffer(self.code)
        words = ctypes.create_string_buffer(struct.pack("@HP", self.length, ctypes.addressof(code)))
        kernel.prctl(kernel.SET_SECCOMP, 2, kernel.pointer(words))
