"""Durations, log lines at intervals, and the bar of a terminal."""

import io

import pytest

from mlnt_tf import progress
from mlnt_tf.progress import Bar, format_duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_overwrites_the_last_line_of_a_terminal_until_it_is_cleared():
    terminal = Terminal()
    bar = Bar(terminal)
    bar.draw(0.5, "step 5/10")
    bar.clear()
    assert terminal.getvalue() == f"\r\x1b[K[{'=' * 12}{' ' * 12}] step 5/10\r\x1b[K"


def test_bar_is_not_drawn_more_often_than_the_eye_can_follow():
    terminal = Terminal()
    bar = Bar(terminal)
    for step in range(100):
        bar.draw(step / 100, f"step {step}")
    assert terminal.getvalue().count("step") == 1


def test_log_file_gets_no_bar():
    file = io.StringIO()
    bar = Bar(file)
    bar.draw(0.5, "step 5/10")
    bar.clear()
    assert file.getvalue() == ""


@pytest.mark.parametrize("seconds, text", [
    (0, " 0.0 s"), (2.94, " 2.9 s"), (9.96, "  10 s"), (119, " 119 s"), (120, " 2 min"),
    (99 * 60, "99 min"), (6000, " 1.7 h"), (36000, "  10 h"), (None, "     ?")])
def test_duration_has_six_characters(seconds, text):
    assert format_duration(seconds) == text


def test_progress_logs_at_most_once_per_interval(monkeypatch):
    clock = type("Clock", (), {"seconds": 0.0, "monotonic": lambda self: self.seconds})()
    lines = []
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress.logging, "info", lambda text, *args: lines.append(text % args))
    search = progress.Progress(200, interval=20.0)
    assert search.remaining is None
    for _ in range(5):
        clock.seconds += 15
        search.add(10)
        search.log_if_due("neighbor search")
    assert lines == ["neighbor search:  10 %  ETA  4 min",
                     "neighbor search:  20 %  ETA  4 min"]
    assert search.elapsed == 75
