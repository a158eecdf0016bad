import keras
import numpy as np
import pytest

from mlnt_tf.training import callbacks, checkpoints

import tiny


def attach(callback, params=(), **attributes):
    """Attaches a callback to a stand-in for a model with these attributes."""
    callback.set_model(type("Model", (), attributes)())
    callback.set_params(dict(params))
    return callback


def test_best_network_is_that_of_the_earliest_best_epoch(tmp_path):
    network = tiny.dense(seed=1)
    callback = attach(callbacks.SaveBest("student", tmp_path / "best.keras"),
                      networks={"student": network})
    for epoch, accuracy in enumerate([.5, .9, .9, .7]):
        network.layers[-1].bias.assign([float(epoch)] * 3)
        callback.on_epoch_end(epoch, {"val_accuracy": accuracy})
    best = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(best.layers[-1].bias, [1, 1, 1])


@pytest.mark.parametrize("logs, message", [
    ({"loss": 1.0, "consistency": float("inf")}, "^consistency=inf at step 17$"),
    ({"loss": float("nan")}, "^loss=nan at step 17$")])
def test_non_finite_loss_stops_with_the_step(logs, message):
    callback = attach(callbacks.StopOnNonFinite(), nonfinite_step=np.int64(17))
    callback.on_train_batch_end(3, {"loss": 1.0, "consistency": .5})
    with pytest.raises(callbacks.NonFiniteLoss, match=message):
        callback.on_train_batch_end(3, logs)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets: `clock.seconds`."""
    class Clock:
        seconds = 100.0

        def monotonic(self):
            return self.seconds

    clock = Clock()
    monkeypatch.setattr("mlnt_tf.progress.time", clock)
    return clock


@pytest.fixture
def lines(monkeypatch):
    """The lines that EpochLog logs."""
    lines = []
    monkeypatch.setattr(callbacks.logging, "info", lambda text, *args: lines.append(text % args))
    return lines


LOGS = {"loss": .2711, "consistency": .1634, "accuracy": 1.0, "true_accuracy": .9876,
        "val_accuracy": .86, "val_teacher_accuracy": .8734}


def epoch_log(position=None, **kwargs):
    callback = callbacks.EpochLog("iteration 1", 30, position, **kwargs)
    return attach(callback, {"steps": 100}, networks=dict.fromkeys(["student", "teacher"]))


def test_epoch_log_is_a_table_row(clock, lines):
    callback = epoch_log()
    callback.on_train_begin()
    for epoch, seconds in enumerate([5.2, 2.9, 2.9]):
        callback.on_epoch_begin(epoch)
        clock.seconds += seconds
        callback.on_epoch_end(epoch, LOGS)
    assert lines[2] == (
        "iteration 1  epoch  3/30  loss 0.27  consistency 0.163  train acc (given) 1.000  "
        "(true) 0.988  val acc: student 0.860  teacher 0.873   2.9 s  ETA   99 s")
    assert len({len(line) for line in lines}) == 1


def test_epoch_log_omits_what_is_not_measured(clock, lines):
    callback = epoch_log()
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    clock.seconds += 600
    callback.on_epoch_end(0, {name: LOGS[name] for name in LOGS
                              if name not in ("consistency", "true_accuracy")})
    assert lines == ["iteration 1  epoch  1/30  loss 0.27  train acc (given) 1.000  "
                     "val acc: student 0.860  teacher 0.873  10 min  ETA  4.8 h"]


def test_remaining_time_after_resuming_counts_only_this_process(clock, lines):
    callback = epoch_log(checkpoints.Position(epoch=28, step=50))
    callback.on_train_begin()
    callback.on_epoch_begin(28)
    clock.seconds += 10  # Half an epoch.
    callback.on_epoch_end(28, LOGS)
    assert lines[0].endswith("  10 s  ETA   20 s")


def test_long_epoch_logs_a_line_per_interval(clock, lines):
    callback = epoch_log(interval=30.0)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for batch in range(10):
        clock.seconds += 10
        callback.on_train_batch_end(batch, {"loss": .5})
    assert lines == [
        "iteration 1  epoch  1/30  step   4/100  loss 0.50  ETA  8.3 h",
        "iteration 1  epoch  1/30  step   8/100  loss 0.50  ETA  8.3 h"]


def test_terminal_shows_a_bar_in_place_of_the_lines_within_an_epoch(clock, lines, monkeypatch):
    drawn = []
    callback = epoch_log(interval=30.0)
    callback.on_train_begin()
    callback.bar.is_shown = True
    monkeypatch.setattr(callback.bar, "draw", lambda *args: drawn.append(args))
    callback.on_epoch_begin(0)
    clock.seconds += 50
    callback.on_train_batch_end(49, {"loss": .5})
    callback.on_epoch_end(0, LOGS)
    assert drawn == [(.5, "iteration 1  epoch  1/30  step  50/100  loss 0.50  ETA 49 min")]
    assert len(lines) == 1
