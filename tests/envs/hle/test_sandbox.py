"""Programs that models write, from harmless to hostile: each is contained, and nothing outlives it.

Every hostile program bounds itself: at most some dozens of processes, one file, one address.
"""

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from mtrouter_rl.envs.hle.sandbox import Sandbox, SandboxLimits, sandbox_level
from mtrouter_rl.errors import InvalidConfigError, SimulatorError

LIMITS = SandboxLimits(time_s=60, memory_mb=512, disk_mb=4, max_processes=8, output_characters=3000)
SHORT = LIMITS.model_copy(update={"time_s": 3.0})


def interpreters():
    """Python of this process, and one that every user can read: as root, the weaker level runs programs as nobody."""
    return [sys.executable, *(path for path in ("/usr/bin/python3",) if Path(path).exists())]


def works(level):
    for interpreter in interpreters():
        try:
            if Sandbox(LIMITS, level=level, interpreter=interpreter).run("print(6 * 7)").output == "42\n":
                return interpreter
        except SimulatorError:
            continue
    return None


LEVELS = {level: works(level) for level in ("namespaces", "audit_hook")}


@pytest.fixture(params=LEVELS)
def sandbox(request):
    if LEVELS[request.param] is None:
        pytest.skip(f"this machine does not allow {request.param}")
    return lambda limits=LIMITS, **more: Sandbox(limits, level=request.param, interpreter=LEVELS[request.param], **more)


@pytest.fixture
def outside():
    """A file outside the working folder that everybody may change."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o777)
    file = folder / "kept.txt"
    file.write_text("kept", encoding="utf-8")
    file.chmod(0o666)
    yield file
    shutil.rmtree(folder)


@pytest.fixture
def marker(tmp_path):
    """A path on the command line of every process of a sandbox that hides it: whoever is left is found by it."""
    path = tmp_path / "marker"
    yield path
    assert not processes_with(path)


def processes_with(marker):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(marker) in text:
            found.append((path.parent.name, text))
    return found


def test_at_least_one_level_works():
    assert any(LEVELS.values())
    assert sandbox_level(next(filter(None, LEVELS.values()))) in LEVELS


def test_output_and_exit_status(sandbox):
    result = sandbox().run("import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\nsys.exit(3)")
    assert sorted(result.output.splitlines()) == ["to stderr", "to stdout"]
    assert (result.exit_status, result.signal, result.stopped, result.error) == (3, None, "", "program_failed")
    assert result.describe(LIMITS).endswith("[exit status 3]")


def test_an_exception_is_shown_with_its_line(sandbox):
    result = sandbox().run("x = 1\nx / 0")
    assert "line 2" in result.output
    assert "ZeroDivisionError" in result.output
    assert "sandbox_child" not in result.output
    assert result.error == "program_failed"


@pytest.mark.parametrize("code", ["def f(:", "print('\x00')", "raise SystemExit('no')", "import no_such_module"])
def test_broken_programs_fail(sandbox, code):
    assert sandbox().run(code).exit_status == 1


def test_threads_are_waited_for(sandbox):
    code = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()"
    assert sandbox().run(code).output == "late\n"


def test_every_program_starts_in_a_fresh_folder(sandbox):
    box = sandbox()
    # A Python installation below the temporary folder shows in it as a mount point, so the listing need not be empty.
    code = "import os\nprint('a' in os.listdir('.'))\nopen('a', 'w').write('x')\nprint(open('a').read())"
    assert box.run(code).output == box.run(code).output == "False\nx\n"


def test_it_reads_nothing_from_stdin(sandbox):
    assert "EOFError" in sandbox().run("input()").output


def test_killed_by_a_signal(sandbox):
    result = sandbox().run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (result.signal, result.error) == (9, "program_killed")
    assert "[killed by signal 9 (SIGKILL)]" in result.describe(LIMITS)


def test_an_endless_loop_is_stopped(sandbox):
    result = sandbox(SHORT).run("print('begun', flush=True)\nwhile True: pass")
    assert (result.output, result.error) == ("begun\n", "time_limit")
    assert result.describe(SHORT) == "begun\n[stopped after 3 s]"


def test_ten_gigabytes_are_refused(sandbox):
    assert "MemoryError" in sandbox().run("x = bytearray(10 * 10**9)").output


def test_endless_output_is_cut_and_stopped(sandbox):
    result = sandbox().run("while True: print('y' * 1000)")
    assert (len(result.output), result.is_cut, result.error) == (LIMITS.output_characters, True, "output_limit")


def test_long_output_is_cut_and_the_program_ends_by_itself(sandbox):
    result = sandbox().run("print('ä' * 5000)")
    assert (result.output, result.is_cut, result.exit_status) == ("ä" * LIMITS.output_characters, True, 0)


def test_processes_are_limited_and_none_is_left(sandbox, marker):
    code = (
        "import os, time\nn = 0\ntry:\n    while n < 40:\n        if os.fork() == 0:\n            os.setsid()\n"
        "            time.sleep(60)\n        n += 1\nexcept OSError as error:\n    print(type(error).__name__)\nprint(n)"
    )
    result = sandbox(hidden=(marker,)).run(code)
    assert result.output.splitlines()[0] == "BlockingIOError"
    assert int(result.output.splitlines()[1]) < 40  # where others run programs as nobody, too, the limit is not exact
    assert not processes_with(marker)


@pytest.mark.parametrize(("ending", "stopped"), [("print('parent ends')", ""), ("time.sleep(60)", "time_limit")])
def test_what_leaves_its_session_is_killed_with_the_rest(sandbox, marker, ending, stopped):
    code = (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\n"
        f"print('forked', flush=True)\n{ending}"
    )
    result = sandbox(SHORT, hidden=(marker,)).run(code)
    assert result.output.startswith("forked")
    assert result.stopped == stopped
    assert not processes_with(marker)


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=2)",
        "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=2)",
        "import socket\nsocket.getaddrinfo('example.org', 80)",
    ],
)
def test_no_network(sandbox, code):
    result = sandbox().run(code)
    assert result.error == "program_failed"
    assert "rror: " in result.output


def test_files_outside_are_safe(sandbox, outside):
    for code in (
        f"import os\nos.remove({str(outside)!r})",
        f"import os\nos.rename({str(outside)!r}, 'mine')",
        f"import shutil\nshutil.rmtree({str(outside.parent)!r})",
        f"open({str(outside)!r}, 'w').write('changed')",
        f"open({str(outside.parent / 'new')!r}, 'w')",
    ):
        assert sandbox().run(code).error == "program_failed"
    assert outside.read_text(encoding="utf-8") == "kept"
    assert [path.name for path in outside.parent.iterdir()] == ["kept.txt"]


def test_huge_files_are_refused(sandbox):
    result = sandbox().run("with open('big', 'wb') as f:\n    for _ in range(200):\n        f.write(bytes(10**6))")
    assert "File too large" in result.output or "No space left" in result.output


def test_hidden_files_cannot_be_read(sandbox, outside):
    code = f"print(open({str(outside)!r}).read())"
    if sandbox().level == "audit_hook":  # the stronger level shows no file of users at all
        assert sandbox().run(code).output == "kept\n"
    assert "kept" not in sandbox(hidden=(outside,)).run(code).output.splitlines()


def test_the_environment_holds_no_secrets(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    result = sandbox().run("import os\nprint(sorted(os.environ))")
    assert "SECRET_KEY" not in result.output


def test_a_shell_needs_namespaces(sandbox):
    box = sandbox()
    if box.level == "audit_hook":
        with pytest.raises(InvalidConfigError, match="tool 'bash' needs namespaces"):
            box.run("echo hi", "bash")
    else:
        result = box.run("echo hi; touch /var/tmp/x; exit 4", "bash")
        assert "hi\n" in result.output
        assert result.exit_status == 4
        assert not Path("/var/tmp/x").exists()


def test_an_interpreter_that_is_not_there(tmp_path):
    with pytest.raises(SimulatorError, match=r"nothing-here cannot be started"):
        Sandbox(LIMITS, level="namespaces", interpreter=str(tmp_path / "nothing-here")).run("1")
    with pytest.raises(SimulatorError, match="cannot be contained on this machine, so none is run"):
        sandbox_level(str(tmp_path / "nothing-here"))


@pytest.fixture
def meeting_points():
    """A socket and a pipe that everybody may write to, in a folder outside the program's own."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o777)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(1)
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for path in folder.iterdir():
        path.chmod(0o777)
    yield folder
    os.close(reader)
    listener.close()
    shutil.rmtree(folder)


@pytest.mark.skipif(LEVELS["namespaces"] is None, reason="the kernel forbids namespaces here")
@pytest.mark.parametrize(
    "code",
    [
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect(FOLDER + '/socket')",
        "import os\nos.write(os.open(FOLDER + '/pipe', os.O_WRONLY | os.O_NONBLOCK), b'x')",
        "import os\nprint(os.listdir(FOLDER))",
        "import socket\nsocket.socket()",
    ],
    ids=["socket", "pipe", "folder", "any socket"],
)
def test_no_socket_and_no_pipe_of_others_is_reached(meeting_points, code):
    result = Sandbox(LIMITS, level="namespaces", interpreter=LEVELS["namespaces"]).run(
        code.replace("FOLDER", repr(str(meeting_points)))
    )
    assert result.exit_status == 1
    assert "PermissionError" in result.output or "FileNotFoundError" in result.output


@pytest.mark.skipif(LEVELS["namespaces"] is None, reason="the kernel forbids namespaces here")
def test_a_pair_of_sockets_and_a_pool_of_threads_still_work():
    code = (
        "import socket, asyncio\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "a, b = socket.socketpair(); a.send(b'hi'); print(b.recv(2))\n"
        "async def two(): return 2\nprint(asyncio.run(two()))\n"
        "with ThreadPoolExecutor(2) as pool: print(sum(pool.map(abs, [-1, -2])))"
    )
    assert Sandbox(LIMITS, level="namespaces", interpreter=LEVELS["namespaces"]).run(code).output.split() == [
        "b'hi'",
        "2",
        "3",
    ]
