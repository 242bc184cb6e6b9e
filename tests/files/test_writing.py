import os

import pytest

from mtrouter_rl.files import PARTIAL_SUFFIX, locked, whole, write_atomically, writing


def write(out, text="new", **options):
    with whole(out, **options) as partial:
        partial.mkdir()
        (partial / "a").write_text(text)
        (partial / "info.json").write_text(text)


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(params=["exchange", "one by one"])
def way(request, monkeypatch):
    """Both ways to put a folder into its place."""
    if request.param == "one by one":
        monkeypatch.setattr(writing, "_exchange", lambda partial, target: False)
    return request.param


def test_a_folder_is_replaced_whole(tmp_path, way):
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "more").write_text("old")
    write(tmp_path / "out", overwrite=True)
    assert texts(tmp_path / "out") == {"a": "new", "info.json": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_what_was_there(tmp_path, way):
    write(tmp_path / "out", "old")

    def fail():
        with whole(tmp_path / "out", overwrite=True) as partial:
            partial.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert texts(tmp_path / "out") == {"a": "old", "info.json": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_entries_of_a_folder_stay_where_parts_are_replaced(tmp_path, way):
    out = tmp_path / "out"
    write(out / "train", "old")
    write(out / "test", "old")
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine")
    with whole(out, overwrite=True, replaces=("train", "test")) as partial:
        partial.mkdir()
        write(partial / "train")
    assert texts(out / "train") == {"a": "new", "info.json": "new"}
    assert texts(out / "notes") == {"mine.txt": "mine"}
    assert not (out / "test").exists()


@pytest.mark.parametrize("at", range(1, 9))
def test_a_kill_while_entries_are_exchanged_one_by_one_is_undone(tmp_path, monkeypatch, at):
    """Wherever it is killed, the next run finds the old folder, or the new one."""
    monkeypatch.setattr(writing, "_exchange", lambda partial, target: False)
    out = tmp_path / "out"
    write(out, "old")
    pid = os.fork()
    if pid == 0:
        n_moves = [0]

        def strike(act):
            def acting(*arguments):
                n_moves[0] += 1
                if n_moves[0] == at:
                    os._exit(9)
                return act(*arguments)

            return acting

        writing.shutil.move = strike(writing.shutil.move)
        writing._remove = strike(writing._remove)
        write(out, overwrite=True)
        os._exit(0)
    os.waitpid(pid, 0)
    found = []

    def look():
        with whole(out, overwrite=True):
            found.append(texts(out))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert found[0] in ({"a": "old", "info.json": "old"}, {"a": "new", "info.json": "new"})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_stays_the_same_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "old")
    inode = out.stat().st_ino
    monkeypatch.chdir(out)
    write(out, overwrite=True)
    assert out.stat().st_ino == inode
    assert texts(out) == {"a": "new", "info.json": "new"}


def test_what_a_killed_run_left_is_deleted(tmp_path):
    left = tmp_path / f".out{PARTIAL_SUFFIX}"
    left.mkdir()
    (left / "half").write_text("half")
    write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_place_is_held_meanwhile(tmp_path):
    with whole(tmp_path / "out") as partial:
        partial.write_text("x")
        pid = os.fork()
        if pid == 0:
            try:
                with locked(tmp_path / "out"):
                    os._exit(0)
            except Exception:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert (tmp_path / "out").read_text() == "x"


def test_a_file_is_written_whole_and_leftovers_are_used_again(tmp_path):
    path = tmp_path / "a.json"
    (tmp_path / ".a.json.tmp").write_bytes(b"half of something that is longer")
    write_atomically(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_many_writers_of_one_file_leave_one_of_their_texts(tmp_path):
    path = tmp_path / "a.json"
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            for _ in range(20):
                write_atomically(path, str(number).encode() * 5000)
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    data = path.read_bytes()
    assert len(data) == 5000
    assert len(set(data)) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
