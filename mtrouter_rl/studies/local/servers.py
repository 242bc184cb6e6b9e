"""Programs of this package that serve while the study runs; none outlives it."""

import ctypes
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mtrouter_rl.errors import BackendError, InvalidConfigError
from mtrouter_rl.files import read_json, write_atomically
from mtrouter_rl.pools.endpoint import Endpoint, EndpointError

HOST = "127.0.0.1"
PROGRAM = (sys.executable, "-m", "mtrouter_rl.cli")
_START_S, _END_S = 120.0, 20.0
_PARENT_DIES = 1  # PR_SET_PDEATHSIG


def free_ports(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """A port for every name, the same ones when the study is run again: the pool card, and so the dataset, holds them.

    Raises:
        InvalidConfigError: If one that was taken before is in use by another program.
    """
    file = folder / "ports.json"
    if file.is_file():
        kept = read_json(file)
        assert isinstance(kept, dict)
        ports = {name: int(str(kept[name])) for name in names}
        for name, port in ports.items():
            if not _is_free(port):
                raise InvalidConfigError(
                    f"port {port} of '{name}' (in {file}) is in use; end the program that listens there, or give another --out"
                )
        return ports
    sockets = [socket.socket() for _ in names]
    for one in sockets:
        one.bind((HOST, 0))
    ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    for one in sockets:
        one.close()
    write_atomically(file, json.dumps(ports).encode())
    return ports


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError:
            return False
    return True


@contextmanager
def served(words: Sequence[str], *, port: int, health: str, log: Path) -> Iterator[str]:
    """Run a command of this package that serves; gives its address once it answers, and ends it.

    Args:
        words: The command, without the program and its port.
        port: Where it listens.
        health: Path that answers when it is ready.
        log: File that takes what it prints.

    Raises:
        BackendError: If it ends, or does not answer in time.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*PROGRAM, *words, "--port", str(port)], stdout=out, stderr=out, preexec_fn=_end_with_parent
        )
    address = f"http://{HOST}:{port}"
    try:
        _wait(process, Endpoint(base_url=address, timeout_s=5.0), health, f"{words[0]} (see {log})")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", endpoint: Endpoint, health: str, name: str) -> None:
    ends_s = time.monotonic() + _START_S
    while True:
        try:
            endpoint.send("GET", health)
            return
        except EndpointError as error:
            if process.poll() is not None:
                raise BackendError(f"{name} ended with {process.returncode} before it answered") from error
            if time.monotonic() > ends_s:
                raise BackendError(f"{name} does not answer after {_START_S:g} s: {error}") from error
        time.sleep(0.1)


def _end_with_parent() -> None:
    """In the child: it ends when the study does, however that ends."""
    ctypes.CDLL(None).prctl(_PARENT_DIES, signal.SIGTERM)


def command(words: Sequence[str], *, log: Path) -> None:
    """Run a command of this package to its end.

    Raises:
        BackendError: If it ends with an error; the message has its last lines.
    """
    done = subprocess.run([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    with log.open("a", encoding="utf-8") as out:
        out.write(f"$ mtrouter-rl {' '.join(words)}\n{done.stdout}\n")
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise BackendError(f"mtrouter-rl {words[0]} ended with {done.returncode}; its last lines:\n{tail}")
