"""Runs programs that models write: a process of its own, with limits, and cut off from network, files and other processes.

Two levels of protection. "namespaces": the Linux kernel gives the program its own network without any interface, its own
processes, a read-only view of the system's files and the interpreter alone, and no sockets. "audit_hook": where the kernel
forbids that, the interpreter itself refuses network, other programs and writing outside the working folder; it stops
accidents, and no program that means harm. Limits on time, memory, processes and output hold at both.
"""

import functools
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal, cast

from pydantic import Field

from mtrouter_rl.errors import InvalidConfigError, SimulatorError
from mtrouter_rl.records import Frozen

logger = logging.getLogger(__name__)

SandboxLevel = Literal["namespaces", "audit_hook"]
Language = Literal["python", "bash"]
Stop = Literal["", "time_limit", "output_limit"]

_CHILD = Path(__file__).with_name("sandbox_child.py")
_WORK = "/tmp"  # at level "namespaces" a folder in memory that only the program sees
_FLOOD_BYTES = 1 << 20
_GRACE_S = 2.0
_PATH = "/usr/local/bin:/usr/bin:/bin"


class SandboxLimits(Frozen):
    """Limits of one program.

    Attributes:
        time_s: Wall-clock time, seconds; CPU time is limited to a little more.
        memory_mb: Address space of each of its processes, MiB.
        disk_mb: Size of a file and, at level "namespaces", of the whole working folder, MiB.
        max_processes: Processes and threads at one time, its first one included.
        output_characters: Output that is kept; what follows is dropped, and after 1 MiB the program is stopped.
    """

    time_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    disk_mb: Annotated[int, Field(ge=1)] = 64
    max_processes: Annotated[int, Field(ge=1)] = 16
    output_characters: Annotated[int, Field(ge=100)] = 4000


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """How a program ended.

    Attributes:
        output: What it printed, errors among it, cut to the limit.
        is_cut: Whether it printed more.
        exit_status: Its exit status; None if it did not exit by itself.
        signal: Signal that killed it; None if none did.
        stopped: Limit of ours for which it was stopped; empty if none.
    """

    output: str
    is_cut: bool = False
    exit_status: int | None = None
    signal: int | None = None
    stopped: Stop = ""

    @property
    def error(self) -> str:
        """Kind of error; empty if the program ran to its end with status 0."""
        if self.stopped:
            return self.stopped
        if self.signal is not None:
            return "program_killed"
        return "" if self.exit_status == 0 else "program_failed"

    def describe(self, limits: SandboxLimits) -> str:
        """What the model is shown."""
        lines = [self.output.rstrip("\n")] if self.output.strip() else []
        if self.is_cut:
            lines.append(f"[output cut to {limits.output_characters} characters]")
        if self.stopped == "time_limit":
            lines.append(f"[stopped after {limits.time_s:g} s]")
        elif self.stopped == "output_limit":
            lines.append("[stopped: more than 1 MiB of output]")
        elif self.signal is not None:
            lines.append(f"[killed by signal {self.signal} ({signal.Signals(self.signal).name})]")
        elif self.exit_status != 0:
            lines.append(f"[exit status {self.exit_status}]")
        return "\n".join(lines) or "[no output]"


class Sandbox:
    """Runs programs, each in a fresh empty working folder, under limits."""

    def __init__(
        self,
        limits: SandboxLimits,
        *,
        level: SandboxLevel | None = None,
        hidden: tuple[Path, ...] = (),
        interpreter: str = sys.executable,
    ) -> None:
        """Create the sandbox; starts nothing.

        Args:
            limits: Of every program.
            level: Protection; None takes the best that this machine allows.
            hidden: Files that programs must not read, such as the one with the answers.
            interpreter: Python that runs the programs.
        """
        self.limits = limits
        self._level = level
        self._hidden = [str(path.resolve()) for path in hidden]
        self._interpreter = interpreter

    @property
    def level(self) -> SandboxLevel:
        """Protection in force. Raises `SimulatorError` if the machine allows none."""
        return self._level or sandbox_level(self._interpreter)

    def run(self, code: str, language: Language = "python") -> ProgramResult:
        """Run a program to its end or its limits.

        Raises:
            InvalidConfigError: If a shell is asked for at a level that cannot hold it.
            SimulatorError: If the sandbox itself cannot be set up.
        """
        level = self.level
        if language == "bash" and level != "namespaces":
            raise InvalidConfigError(
                "tool 'bash' needs namespaces, which this machine does not allow: an audit hook cannot hold a shell; "
                "leave 'bash' out of the card's settings.tools"
            )
        with self._working_folder(level) as work:
            result = self._run(code, language, level=level, work=work)
        if result.error:
            logger.info("%s program: %s (isolation: %s)", language, result.error, level)
        return result

    def _working_folder(self, level: SandboxLevel) -> AbstractContextManager[str]:
        if level == "namespaces":
            return nullcontext(_WORK)
        return tempfile.TemporaryDirectory(prefix="mtrouter-rl-", ignore_cleanup_errors=True)

    def _run(self, code: str, language: Language, *, level: SandboxLevel, work: str) -> ProgramResult:
        status_out, status_in = os.pipe()
        orders = {
            "level": level,
            "language": language,
            "work": work,
            "hidden": self._hidden,
            "status_fd": status_in,
            "memory_mb": self.limits.memory_mb,
            "disk_mb": self.limits.disk_mb,
            "max_processes": self.limits.max_processes,
            "cpu_s": int(self.limits.time_s) + 1,
        }
        if level == "audit_hook":
            Path(work).chmod(0o777)
        environment = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": work, "TMPDIR": work, "OMP_NUM_THREADS": "1"}
        try:
            process = subprocess.Popen(
                [self._interpreter, "-I", "-X", "utf8", str(_CHILD), json.dumps(orders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment,
                pass_fds=(status_in,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(status_out)
            raise SimulatorError(f"the sandbox's interpreter {self._interpreter} cannot be started: {error}") from error
        finally:
            os.close(status_in)
        with os.fdopen(status_out, "rb") as status:
            try:
                _send(cast("IO[bytes]", process.stdin), code)
                output, stopped = self._read(cast("IO[bytes]", process.stdout))
            finally:
                _stop(process)
            return self._result(output, stopped, status.read())

    def _read(self, stream: IO[bytes]) -> tuple[bytes, Stop]:
        """Read until the end, the time limit or too much; keeps no more than is shown."""
        deadline = time.monotonic() + self.limits.time_s
        kept, n_bytes = bytearray(), 0
        n_keep = 4 * self.limits.output_characters + 4
        os.set_blocking(stream.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    return bytes(kept), "time_limit"
                chunk = os.read(stream.fileno(), 65536)
                if not chunk:
                    return bytes(kept), ""
                n_bytes += len(chunk)
                kept += chunk[: n_keep - len(kept)]
                if n_bytes > _FLOOD_BYTES:
                    return bytes(kept), "output_limit"

    def _result(self, output: bytes, stopped: Stop, status: bytes) -> ProgramResult:
        text = output.decode(errors="replace")
        end = json.loads(status.splitlines()[0]) if status else {}
        if "setup" in end:
            raise SimulatorError(f"the sandbox cannot be set up: {end['setup']}")
        if not end and not stopped:
            raise SimulatorError(f"the sandbox ended without a report: {text[-500:]}")
        return ProgramResult(
            output=text[: self.limits.output_characters],
            is_cut=len(text) > self.limits.output_characters,
            exit_status=None if stopped else end.get("exit"),
            signal=None if stopped else end.get("signal"),
            stopped=stopped,
        )


def _send(stream: IO[bytes], code: str) -> None:
    try:
        with stream:
            stream.write(code.encode(errors="replace"))
    except BrokenPipeError:
        return  # it ended before it read the program: its report says why


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the sandbox and everything in it: politely, so that it kills what it started, then by force."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    cast("IO[bytes]", process.stdout).close()


@functools.lru_cache(maxsize=4)
def sandbox_level(interpreter: str = sys.executable) -> SandboxLevel:
    """Best protection that this machine allows, found by running a program; remembered for the life of the process.

    Raises:
        SimulatorError: If it allows none.
    """
    reasons = []
    levels: tuple[SandboxLevel, ...] = ("namespaces", "audit_hook")
    for level in levels:
        sandbox = Sandbox(SandboxLimits(), level=level, interpreter=interpreter)
        try:
            result = sandbox.run("import math\nprint(math.factorial(5))")
        except SimulatorError as error:
            reasons.append(f"{level}: {error}")
            continue
        if result.output.strip() == "120":
            if reasons:
                logger.warning("programs of models are held by an audit hook only (%s)", "; ".join(reasons))
            return level
        reasons.append(f"{level}: a small program printed {result.output.strip()[-300:]!r}")
    raise SimulatorError(
        "programs of models cannot be contained on this machine, so none is run ("
        + "; ".join(reasons)
        + "); run as a user who is not root, or with a Python that every user can read, or leave 'python' out of settings.tools"
    )
