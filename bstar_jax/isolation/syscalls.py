"""The system calls that a sandboxed program may not make, as a seccomp filter.

Namespaces hide the machine; this filter closes what they leave open. A program is one process
with threads, so its limits hold for all that it does. It has no sockets except pairs of its own
(some families, such as those to the host of a virtual machine, know no namespaces). It holds no
memory outside its address space, except its files in /tmp and what sockets and pipes buffer. And
it cannot look into other processes or use rarely tested parts of the kernel. What is not in the
table stays allowed.

A filter is a program for a small machine with one register: load a word of `struct seccomp_data`
(the number of the call, the name of the machine, the arguments), compare, jump, return an action.
Source: the Linux manual, seccomp(2).
"""

from __future__ import annotations

import errno
import platform
import struct

from bstar_jax.config import UserError

# Machine -> (its name in an audit record, the column of the table below).
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Name -> its number on x86_64 and on aarch64; None where the machine has no such call.
_DENIED = {
    # Other programs and processes. `clone` and `prlimit64` are looked at more closely below.
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "kcmp": (312, 272), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    # The network, and buffers of sockets that are larger than usual.
    "socket": (41, 198), "setsockopt": (54, 208),
    # Memory outside all limits.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "io_setup": (206, 0),
    # Namespaces and mounts.
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # Parts of the kernel that no submission needs, including its log.
    "syslog": (103, 116),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKETPAIR, _PRLIMIT64 = (53, 199), (302, 261)

_CLONE_THREAD = 0x00010000
_AF_UNIX = 1
_X32 = 0x40000000  # numbers from here on are x86_64's second set of calls

# Offsets in struct seccomp_data; arguments are 64 bits wide, their low word comes first.
_NUMBER, _MACHINE, _ARGUMENT_0 = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000


def seccomp_filter(machine: str = "") -> bytes:
    """Makes the filter for a machine, as the bytes of an array of `struct sock_filter`.

    Denied calls fail with EPERM ("Operation not permitted"), a new process with EAGAIN, as at a
    limit of processes. `clone3`, whose flags a filter cannot see, fails with ENOSYS; the C library
    then makes threads with `clone`. Calls of another machine's set end the process.

    Args:
      machine: As `platform.machine()` names it; "" for this one.

    Returns:
      8 bytes for each instruction.

    Raises:
      UserError: If there is no table for the machine.

    Example: len(seccomp_filter("x86_64")) // 8 -> 118 instructions.
    """
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise UserError(
            f"the sandbox has no table of system calls for {machine!r}, only for "
            f"{' and '.join(_MACHINES)}: grade code on such a machine"
        )
    name, column = _MACHINES[machine]
    program = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, name), _end(_KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), _end(_KILL)]
    for numbers in _DENIED.values():
        if numbers[column] is not None:
            program += [(_EQUAL, 0, 1, numbers[column]), _refuse(errno.EPERM)]
    program += [(_EQUAL, 0, 1, _CLONE3[column]), _refuse(errno.ENOSYS)]
    program += _unless_argument_0(_CLONE[column], (_ANY_BIT, _CLONE_THREAD), errno.EAGAIN)
    program += _unless_argument_0(_SOCKETPAIR[column], (_EQUAL, _AF_UNIX), errno.EPERM)
    program += _unless_argument_0(_PRLIMIT64[column], (_EQUAL, 0), errno.EPERM)
    program.append(_end(_ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _end(verdict: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, verdict)


def _refuse(error: int) -> tuple[int, int, int, int]:
    return _end(_REFUSE | error)


def _unless_argument_0(number: int, test: tuple[int, int], error: int) -> list[tuple]:
    """Refuses a call unless its first argument passes the test; other calls pass."""
    comparison, value = test
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _ARGUMENT_0),
        (comparison, 0, 1, value),
        _end(_ALLOW),
        _refuse(error),
    ]
