import gc
import os
import signal
import time

import pytest

from mtrouter_rl.errors import BusyError
from mtrouter_rl.files import LockedPlace, locked


def child(act):
    """Runs something in a forked process; 0 if it went well, 3 if the place was busy."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BusyError:
            os._exit(3)
        except BaseException:
            os._exit(4)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def take(place):
    with locked(place):
        pass


def test_a_second_process_is_refused_and_this_one_is_not(tmp_path):
    place = tmp_path / "out"
    with locked(place), locked(place):
        assert child(lambda: take(place)) == 3
        assert child(lambda: take(tmp_path / "other")) == 0
    assert child(lambda: take(place)) == 0
    assert not list(tmp_path.iterdir())


def test_two_names_of_one_place_are_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with locked(tmp_path / "a" / "out"):
        assert child(lambda: take(tmp_path / "link" / "out")) == 3


def test_who_holds_it_is_told(tmp_path):
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locked(tmp_path / "out"):
            os.write(go, b"x")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(BusyError, match=rf"out is being written by another command \(process {pid}\); wait until"):
        LockedPlace(tmp_path / "out")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with locked(tmp_path / "out"):  # the kernel let go of it, and what it left is taken up
        pass
    assert not list(tmp_path.iterdir())


def test_it_ends_with_its_object(tmp_path):
    lock = LockedPlace(tmp_path / "out")
    assert child(lambda: take(tmp_path / "out")) == 3
    del lock
    gc.collect()
    assert child(lambda: take(tmp_path / "out")) == 0


def test_folders_that_were_made_for_it_alone_are_gone_afterwards(tmp_path):
    with locked(tmp_path / "a" / "b" / "out"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a" / "b" / "out"):
        (tmp_path / "a" / "b" / "out").write_text("kept")
    assert (tmp_path / "a" / "b" / "out").read_text() == "kept"


def test_many_processes_never_hold_it_together(tmp_path):
    place, log = tmp_path / "out", tmp_path / "log"

    def work():
        while True:
            try:
                with locked(place):
                    with log.open("a") as file:
                        file.write("in\n")
                    time.sleep(0.002)
                    with log.open("a") as file:
                        file.write("out\n")
                    return
            except BusyError:
                time.sleep(0.001)

    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert log.read_text() == "in\nout\n" * 8
