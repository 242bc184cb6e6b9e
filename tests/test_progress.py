"""Progress: a bar on a terminal, a line at most every 30 s elsewhere, nothing when it is hidden."""

import io
import os
import sys

import pytest

from mtrouter_rl import progress
from mtrouter_rl.progress import HIDE_VARIABLE, Progress, hidden, track


class Screen(io.StringIO):
    """Stands in for stderr; a terminal if told so."""

    def __init__(self, *, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.fixture
def stderr(monkeypatch):
    def make(*, is_terminal):
        screen = Screen(is_terminal=is_terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        return screen

    return make


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_30_s_at_most_and_at_the_end(stderr, clock):
    screen = stderr(is_terminal=False)
    with Progress("collect", total=120, unit="ep", done=20) as bar:
        for _ in range(100):
            clock[0] += 1
            bar.update(note="score 3.0")
    assert screen.getvalue().splitlines() == [
        "collect: 50/120 ep, 30 s, about 70 s left, score 3.0",
        "collect: 80/120 ep, 60 s, about 40 s left, score 3.0",
        "collect: 110/120 ep, 90 s, about 10 s left, score 3.0",
        "collect: 120/120 ep, 100 s, score 3.0",
    ]


def test_a_terminal_gets_a_bar(stderr):
    screen = stderr(is_terminal=True)
    assert list(track([1, 2], "train", total=2)) == [1, 2]
    assert "train: 100%" in screen.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_is_shown_where_it_is_hidden(is_terminal, stderr):
    screen = stderr(is_terminal=is_terminal)
    assert list(track("abc", "train", is_shown=False)) == ["a", "b", "c"]
    with hidden():
        assert HIDE_VARIABLE in os.environ  # what workers inherit
        assert list(track("abc", "train")) == ["a", "b", "c"]
    assert HIDE_VARIABLE not in os.environ
    assert screen.getvalue() == ""


def test_hiding_inside_hiding_ends_with_the_outer_one():
    with hidden():
        with hidden():
            pass
        assert HIDE_VARIABLE in os.environ
    with hidden(False):
        assert HIDE_VARIABLE not in os.environ


def test_a_step_that_is_done_already_or_at_once_or_does_not_stay_leaves_no_line(stderr, clock):
    screen = stderr(is_terminal=False)
    assert list(track("ab", "encoding", total=2)) == ["a", "b"]
    clock[0] += 5
    with Progress("collect", total=5, done=5):
        pass
    for _ in track("ab", "play", total=2, stays=False):
        clock[0] += 5
    assert screen.getvalue() == ""


def test_without_a_total_the_count_is_told(stderr, clock):
    screen = stderr(is_terminal=False)
    for _ in track("ab", "import jsonl", unit="ep"):
        clock[0] += 1
    assert screen.getvalue() == "import jsonl: 2 ep, 2 s\n"
