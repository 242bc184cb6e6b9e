"""Runs one untrusted program; started by `mtrouter_rl.envs.hle.sandbox` as a script of its own, never imported by it.

Reads the program from standard input and its orders, as JSON, from the first argument. Three processes at level
"namespaces": this one, the first process of a new process namespace (when that ends, the kernel kills whatever is left in
the namespace), and the program. Two at level "audit_hook": this one, which adopts and kills what the program leaves, and the
program. How the program ended goes as a line of JSON to a descriptor that the program does not have. It starts for every
program, so it imports little.
Source: the Linux manual pages namespaces(7), user_namespaces(7), pid_namespaces(7), mount_setattr(2), seccomp(2) and
capabilities(7).
"""

import contextlib
import ctypes
import json
import os
import pwd
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

Orders = dict[str, Any]
Report = Callable[[Orders], None]

_NOBODY = 65534
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SECCOMP_MODE_FILTER, _REFUSE = 2, 0x00050000 | 13  # with "permission denied"
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Machine -> how the kernel's filters call it, and its number of socket(2)."""
_SYS_IO_URING_SETUP, _FIRST_OTHER_ABI = 425, 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def _enter_namespaces() -> None:
    """New mounts, network, processes and IPC; a user who is not root gets them through a user namespace."""
    flags = _NEWNS | _NEWNET | _NEWPID | _NEWIPC
    uid, gid = os.getuid(), os.getgid()
    _check(_libc.unshare(flags if uid == 0 else flags | _NEWUSER), "unshare")
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)


def _cover_files(orders: Orders) -> None:
    """Make all files read-only, cover what is nobody's business, and leave one empty folder to write to."""
    work, interpreter = orders["work"], sorted({sys.prefix, sys.base_prefix})
    handles = {path: os.open(path, os.O_PATH) for path in interpreter}
    hidden = [os.path.realpath(path) for path in orders["hidden"]]
    _mount("", "/", flags=_MS_REC | _MS_PRIVATE)
    has_own_proc = _mount_proc()
    for cover in sorted(_covers()):
        _mount("tmpfs", cover, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    writable = f"size={orders['disk_mb']}m,nr_inodes=4096,mode=0777"
    _mount("tmpfs", work, "tmpfs", _MS_NOSUID | _MS_NODEV, writable)
    for path, handle in handles.items():
        if not os.path.isdir(path):
            os.makedirs(path)
            _mount(f"/proc/self/fd/{handle}", path, flags=_MS_BIND | _MS_REC)
        os.close(handle)
    for path in filter(os.path.exists, hidden):
        _mount("/dev/null", path, flags=_MS_BIND)
    if not has_own_proc:
        _mount("tmpfs", "/proc", "tmpfs", 0, "size=4k")
    _set_mount_attributes("/", set_=_MOUNT_ATTR_RDONLY, is_recursive=True)
    _set_mount_attributes(work, clear=_MOUNT_ATTR_RDONLY)


def _mount_proc() -> bool:
    """Mount a /proc that shows the new processes alone; a container may forbid that."""
    try:
        _mount("proc", "/proc", "proc")
    except OSError:
        return False
    return True


_SHOWN = frozenset({"usr", "bin", "sbin", "etc", "dev", "proc", "sys", "nix", "gnu"})
"""What a program sees of the folders at the top, besides those that begin with lib, and the interpreter wherever it lies."""


def _covers() -> set[str]:
    """Folders that a program has no business in: all where users and services put files, sockets and pipes.

    A read-only view alone would not do: a socket or a named pipe can be written to in it.
    """
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = "/root"
    top = (f"/{name}" for name in os.listdir("/") if name not in _SHOWN and not name.startswith("lib"))
    found = {real for path in (home, *top, "/dev/shm", "/dev/mqueue") if os.path.isdir(real := os.path.realpath(path))}
    return {path for path in found if path != "/" and path.split("/")[1] not in _SHOWN - {"dev"}}


def _set_mount_attributes(path: str, *, set_: int = 0, clear: int = 0, is_recursive: bool = False) -> None:
    attributes = (ctypes.c_uint64 * 4)(set_, clear, 0, 0)
    flags = _AT_RECURSIVE if is_recursive else 0
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, 32)
    _check(result, f"mount_setattr {path}")


def _drop_privileges(*, is_namespaced: bool) -> None:
    """Become nobody where this is root, and give up every capability."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        if is_namespaced:  # a user namespace of its own counts its own processes alone
            _check(_libc.unshare(_NEWUSER), "unshare user namespace")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    if is_namespaced:
        _refuse_sockets()


class _Program(ctypes.Structure):
    """`struct sock_fprog`: a filter of system calls."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _refuse_sockets() -> None:
    """Make no socket from here on: one in a file system can be reached from any network namespace. Pairs of sockets stay."""
    if os.uname().machine not in _ARCHITECTURES:
        return  # the private view of the files is all that there is then
    architecture, sys_socket = _ARCHITECTURES[os.uname().machine]
    steps = (
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 3, 0, _FIRST_OTHER_ABI),
        (_EQUAL, 2, 0, sys_socket),
        (_EQUAL, 1, 0, _SYS_IO_URING_SETUP),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp")


def _n_present(uid: int, *, is_namespaced: bool) -> int:
    """Threads that RLIMIT_NPROC counts besides the program's own: those of its user, in its user namespace."""
    if is_namespaced:
        return 0 if uid == 0 else 2  # root's program gets a namespace to itself, else the two processes above share it
    counted = uid or _NOBODY
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == counted:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it ended meanwhile
    return count if uid == 0 else count - 1


def _set_limits(orders: Orders, *, n_present: int) -> None:
    megabyte = 1 << 20
    cpu_s = orders["cpu_s"]
    for kind, value in (
        (resource.RLIMIT_AS, orders["memory_mb"] * megabyte),
        (resource.RLIMIT_FSIZE, orders["disk_mb"] * megabyte),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, n_present + orders["max_processes"]),
    ):
        resource.setrlimit(kind, (value, value + 1 if kind == resource.RLIMIT_CPU else value))


# Audit events that change files: how many paths they have, and where the folders that these may be relative to stand.
_CHANGES: dict[str, tuple[int, int | None]] = {
    "os.remove": (1, 1),
    "os.rmdir": (1, 1),
    "os.mkdir": (1, 2),
    "os.rename": (2, 2),
    "os.link": (2, 2),
    "os.symlink": (2, None),
    "os.truncate": (1, None),
    "os.chmod": (1, 2),
    "os.chown": (1, 3),
    "os.utime": (1, 3),
    "os.setxattr": (1, None),
    "os.removexattr": (1, None),
}
_FORBIDDEN = (
    "socket.",
    "ctypes.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pty.",
    "syslog.",
)


class _AuditHook:
    """Refuses, inside the interpreter, what namespaces would refuse in the kernel: it stops accidents, no attacker."""

    def __init__(self, work: str, hidden: list[str]) -> None:
        self._work, self._hidden = work, hidden
        self._writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed in this program")
        if event in ("os.kill", "os.killpg") and arguments[0] != os.getpid():
            raise PermissionError("signals to other processes are not allowed in this program")
        if event in _CHANGES:
            self._check_change(event, arguments)
        elif event == "open" and not isinstance(arguments[0], int):
            self._check_open(arguments[0], arguments[2])

    def _check_change(self, event: str, arguments: tuple[Any, ...]) -> None:
        n_paths, first_folder = _CHANGES[event]
        for index in range(n_paths):
            folder = -1 if first_folder is None else arguments[min(first_folder + index, len(arguments) - 1)]
            if not self._is_inside(arguments[index], folder):
                raise PermissionError(f"{event} outside the working folder is not allowed in this program")

    def _check_open(self, path: Any, flags: int) -> None:  # noqa: ANN401 - whatever a program passes
        real = os.path.realpath(os.fsdecode(path))
        if (flags & self._writes or os.path.isdir(real)) and not self._is_inside(path):
            raise PermissionError("writing outside the working folder is not allowed in this program")
        if real in self._hidden:
            raise PermissionError("this file is not for this program")

    def _is_inside(self, path: Any, folder: int = -1) -> bool:  # noqa: ANN401
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        base = os.getcwd() if folder == -1 else os.readlink(f"/proc/self/fd/{folder}")
        real = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        return real in ("/dev/null", self._work) or real.startswith(self._work + "/")


def _run_python(code: str) -> int:
    """Run a program as `__main__` in this process; its exit status."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["<program>"]
    status = 0
    try:
        exec(compile(code, "<program>", "exec"), module.__dict__)
        _join_threads()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException as error:  # the program's own: printed as the interpreter would
        status = 1
        _print_error(error, code)
    return status & 0xFF


def _join_threads() -> None:
    threading = sys.modules.get("threading")
    if threading is None:
        return
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def _print_error(error: BaseException, code: str) -> None:
    import linecache
    import traceback

    linecache.cache["<program>"] = (len(code), None, code.splitlines(keepends=True), "<program>")
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    traceback.print_exception(type(error), error, trace)


def _be_the_program(orders: Orders, code: str, report: Report) -> None:
    """Give up what is not needed and run; never returns."""
    status = 1
    try:
        is_namespaced = orders["level"] == "namespaces"
        os.setsid()
        n_present = _n_present(os.getuid(), is_namespaced=is_namespaced)
        os.chdir(orders["work"])
        _drop_privileges(is_namespaced=is_namespaced)
        _set_limits(orders, n_present=n_present)
        if not os.access(os.__file__, os.R_OK):
            raise OSError(f"the interpreter's library beside {os.__file__} cannot be read by an unprivileged user")
    except OSError as error:
        report({"setup": str(error)})
        os._exit(1)
    os.close(orders["status_fd"])
    try:
        if orders["language"] == "bash":
            os.execv("/bin/bash", ["bash", "--noprofile", "--norc", "-c", code])
        if not is_namespaced:
            sys.addaudithook(_AuditHook(orders["work"], orders["hidden"]))
        status = _run_python(code)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _wait_for(pid: int) -> Orders:
    """Reap everything until the process is done; how it ended."""
    while True:
        done, status = os.wait()
        if done == pid:
            code = os.waitstatus_to_exitcode(status)
            return {"exit": code} if code >= 0 else {"signal": -code}


def _kill_on_term(pid: int) -> None:
    """When told to end, kill that process; what waits for it then does the rest."""

    def kill(_signal: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill)


def _kill_descendants() -> None:
    """Kill every process below this one, those that a dead parent left to this one included."""
    children = f"/proc/self/task/{os.getpid()}/children"
    while True:
        with open(children, encoding="ascii") as file:
            pids = [int(pid) for pid in file.read().split()]
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _in_namespaces(orders: Orders, code: str, report: Report) -> None:
    _enter_namespaces()
    first = os.fork()
    if first == 0:
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _cover_files(orders)
            program = os.fork()
            if program == 0:
                _be_the_program(orders, code, report)
            report(_wait_for(program))
        except OSError as error:
            report({"setup": str(error)})
        os._exit(0)
    _kill_on_term(first)
    os.waitpid(first, 0)


def _with_audit_hook(orders: Orders, code: str, report: Report) -> None:
    _check(_libc.prctl(_PR_SET_SUBREAPER, 1, 0, 0, 0), "prctl")
    program = os.fork()
    if program == 0:
        _be_the_program(orders, code, report)
    _kill_on_term(program)
    report(_wait_for(program))
    _kill_descendants()


def main() -> None:
    """Set everything up, run the program, report how it ended."""
    orders: Orders = json.loads(sys.argv[1])
    os.umask(0o022)
    code = sys.stdin.buffer.read().decode()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(1, 2)

    def report(line: Orders) -> None:
        os.write(orders["status_fd"], (json.dumps(line) + "\n").encode())

    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        run = _in_namespaces if orders["level"] == "namespaces" else _with_audit_hook
        run(orders, code, report)
    except OSError as error:
        report({"setup": str(error)})


if __name__ == "__main__":
    main()
