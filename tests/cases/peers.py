"""Processes that train together, started as torchrun starts them, on the loopback interface alone."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@contextlib.contextmanager
def processes(*words, n=2):
    """Starts processes as torchrun does, with its variables, so that each can be seen by itself; none is left behind."""
    own = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    own |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, *words], env={**os.environ, **own, "RANK": str(rank)}, cwd=ROOT, **options)
        for rank in range(n)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()
