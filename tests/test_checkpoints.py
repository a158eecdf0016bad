"""Interrupted and resumed, a training ends with the weights, bit for bit, of one that was not."""

import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import mlnt_tf
from mlnt_tf import train
from mlnt_tf.config import NonFiniteLoss, Terminated, UserError
from mlnt_tf.training import callbacks, checkpoints

import kill
import tiny

EPOCHS, STEPS = 3, 4


class At(keras.callbacks.Callback):
    """Calls `act(model)` when `count` batches of a kind have ended."""

    def __init__(self, hook, count, act):
        super().__init__()
        self.left, self.act = count, act
        setattr(self, hook, self.count_down)

    def count_down(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            self.act(self.model)


def training(directory, *, act=None, every=0, epochs=EPOCHS, steps_per_execution=1):
    """Trains in `directory` until it ends or something is raised; (weights, history of the logs)."""
    position, arrays = checkpoints.read_newest(directory)
    network = tiny.dense(layer=keras.layers.Dropout(.5, seed=3))  # whose seed is in no .keras file
    model = mlnt_tf.MLNT(network, num_synthetic=2, mentor=tiny.dense(1))
    model.compile(learning_rate=.2, meta_rate=.1, meta_momentum=.5, steps_per_execution=steps_per_execution)
    saving = checkpoints.Checkpoints(directory, position, arrays, every=every, clock=lambda: 7.0)
    if arrays:
        checkpoints.restore(model, position, arrays, directory)
    dataset = tiny.dataset(EPOCHS * STEPS).skip(position.epoch * STEPS + position.step)
    if position.step:
        dataset = dataset.filter(lambda batch: True)  # of unknown cardinality, as the pipeline's
    best = callbacks.SaveBest("student", directory / "student_best.keras", position)
    with saving.watching():
        model.fit(dataset, initial_epoch=position.epoch, epochs=epochs, steps_per_epoch=STEPS, verbose=0,
                  validation_data=tiny.dataset(2), shuffle=False,
                  callbacks=[mlnt_tf.EmaTeacher(.9), *([act] if act else []), saving, best])
    return [variable.numpy() for variable in checkpoints.named_variables(model).values()], saving.history


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return *training(directory), kill.weights(directory / "student_best.keras")


def same_as(uninterrupted, directory, **kwargs):
    found, history = training(directory, **kwargs)
    for mine, theirs in zip(found, uninterrupted[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert history == uninterrupted[1]
    assert kill.weights(directory / "student_best.keras") == uninterrupted[2]


def test_the_most_memory_of_earlier_processes_is_kept(tmp_path, monkeypatch):
    for process, told in enumerate([900.0, 800.0, 1000.0]):
        monkeypatch.setattr(checkpoints.host, "peak_memory_mb", lambda: told)
        training(tmp_path, epochs=process + 1)
        assert checkpoints.read_newest(tmp_path)[0].peak_memory_mb == max(900, told)


def stop(model):
    raise KeyboardInterrupt


def terminate(model):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("batches", [3, 7, 12])
def test_a_resumed_training_ends_as_one_never_interrupted(uninterrupted, tmp_path, batches):
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path, act=At("on_train_batch_end", batches, stop), every=2)
    same_as(uninterrupted, tmp_path, every=2)


@pytest.mark.parametrize("hook, count, expected", [
    ("on_train_batch_end", 6, (1, 2)), ("on_train_batch_end", 4, (0, 4)), ("on_test_batch_end", 3, (1, 4))])
def test_sigterm_saves_at_the_very_step(uninterrupted, tmp_path, hook, count, expected):
    with pytest.raises(Terminated) as caught:
        training(tmp_path, act=At(hook, count, terminate))
    assert caught.value.code == 143
    position, _ = checkpoints.read_newest(tmp_path)
    assert (position.epoch, position.step) == expected and position.seconds == 7
    same_as(uninterrupted, tmp_path)


def test_a_kill_between_the_checkpoint_and_the_best_network(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks.SaveBest, "on_epoch_end", lambda *_: stop(None))
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path)
    monkeypatch.undo()
    same_as(uninterrupted, tmp_path)


def test_several_steps_in_one_call_resume_too(tmp_path):
    expected, history = training(tmp_path / "whole", steps_per_execution=2)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "cut", act=At("on_train_batch_end", 4, stop), every=2, steps_per_execution=2)
    assert checkpoints.read_newest(tmp_path / "cut")[0].step == 2
    found, again = training(tmp_path / "cut", steps_per_execution=2)
    assert all((mine == theirs).all() for mine, theirs in zip(found, expected, strict=True)) and again == history


def names(directory):
    return sorted(path.name for path in directory.glob("*.npz"))


def test_the_last_few_are_kept(tmp_path):
    training(tmp_path, every=1)
    assert names(tmp_path) == ["00002_00000002.npz", "00002_00000003.npz", "00003_00000000.npz"]


@pytest.mark.parametrize("damage", [
    lambda path: os.truncate(path, path.stat().st_size // 2), lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(path.read_bytes().replace(path.read_bytes()[4000:4040], bytes(40), 1))])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(uninterrupted, tmp_path, caplog, damage):
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path, act=At("on_train_batch_end", 7, stop), every=1)
    newest = tmp_path / names(tmp_path)[-1]
    damage(newest)
    position, _ = checkpoints.read_newest(tmp_path)
    assert (position.epoch, position.step) == (1, 1)
    assert f"{newest} is damaged" in caplog.text and not newest.exists()
    same_as(uninterrupted, tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(uninterrupted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path, act=At("on_train_batch_end", 7, stop), every=3)
    before = names(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(OSError):
            training(tmp_path, every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert names(tmp_path) == before and not list(tmp_path.glob("writing*"))
    same_as(uninterrupted, tmp_path)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    def spoil(model):
        model.teacher.trainable_variables[0].assign(np.nan * model.teacher.trainable_variables[0])

    with pytest.raises(NonFiniteLoss, match="dense.*/kernel has values that are nan or infinite after step 6"):
        training(tmp_path, act=At("on_train_batch_end", 6, spoil), every=2)
    assert names(tmp_path) == ["00000_00000002.npz", "00001_00000000.npz"]


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    checkpoints.write(tmp_path, checkpoints.Position(1, 0, model="MLNT"), {"model/0": np.zeros(3)})
    with pytest.raises(UserError, match="another --output_dir"):
        training(tmp_path)


def test_a_checkpoint_of_another_class_is_refused(tmp_path):
    checkpoints.write(tmp_path, checkpoints.Position(1, 0, model="ELR"), {"model/0": np.zeros(3)})
    with pytest.raises(UserError, match="checkpoints of a ELR, and this run trains a MLNT"):
        training(tmp_path)


def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    checkpoints.write(tmp_path, checkpoints.Position(1, 0, model="MLNT"), {"model/0": np.zeros(3)})
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"has checkpoint format {checkpoints.FORMAT + 1}.* reads format "
                                        f"{checkpoints.FORMAT}"):
        checkpoints.read_newest(tmp_path)
    assert len(names(tmp_path)) == 1  # it is not damaged, and stays


def test_the_order_of_the_variables_is_that_of_the_format():
    """Checkpoints restore by position. If this order changes, raise checkpoints.FORMAT and adapt the list."""
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(learning_rate=.2, meta_rate=.1)
    order = [re.sub(r"_\d+", "", variable.path) for variable in checkpoints.named_variables(model).values()]
    network = ["sequential/dense/kernel", "sequential/dense/bias"] * 2
    velocities = ["sequential_dense_kernel_velocity", "sequential_dense_bias_velocity"] * 2
    means = [f"{name}/{part}" for name in ("loss", "loss", "accuracy", "true_accuracy", "consistency", "loss", "accuracy",
                                           "teacher_accuracy") for part in ("total", "count")]
    assert checkpoints.FORMAT == 2
    assert order == [
        "mlnt/ema_decay_start", "mlnt/ema_decay_end", "mlnt/ema_decay_boundary", "mlnt/nonfinite_step",
        *network, *network, "coupled_sgd/iteration", "coupled_sgd/learning_rate",
        *(f"coupled_sgd/{name}" for name in velocities), "meta_sgd/iteration", "meta_sgd/learning_rate", *means]


def tiny_run(place, *flags):
    return train.main(["train", *kill.RUN, "--method=cross_entropy", "--epochs=2", f"--output_dir={place}", *flags])


def test_the_command_terminated_goes_on_and_ends_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end",
                        lambda self, batch, logs=None: batch == 1 and self.epoch == 1 and terminate(None))
    assert tiny_run(tmp_path / "cut", "--checkpoint_every=0") == 143
    assert "terminated; the same command resumes" in capsys.readouterr().err
    monkeypatch.undo()
    assert tiny_run(tmp_path / "cut") == 0 and tiny_run(tmp_path / "whole") == 0
    assert kill.contents(tmp_path / "cut") == kill.contents(tmp_path / "whole")
    assert kill.logged_epochs(tmp_path / "cut") == kill.logged_epochs(tmp_path / "whole") == {
        "cross_entropy/train": [0, 1], "cross_entropy/validation": [0, 1]}


def test_a_full_disk_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    assert tiny_run(tmp_path / "run") == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told and told.count("\n") == 1


def test_killed_twice_at_random_a_run_ends_the_same():
    """The short form; `python tests/kill.py --kills=20` is the long one."""
    told = subprocess.run([sys.executable, pathlib.Path(kill.__file__), "--kills=2", "--longest=3", "--iterations=2",
                           "--epochs=2"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "2 kills: weights, tables, results and logs are those of a run never killed" in told.stdout
