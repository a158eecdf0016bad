import pytest

from mlnt_tf import progress
from mlnt_tf.progress import format_duration


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
