"""An interrupted and resumed training gives the weights of an uninterrupted one, bit for bit."""

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


class CallAfter(keras.callbacks.Callback):
    """Calls `action(model)` when the hook `hook` has been called `count` times."""

    def __init__(self, hook, count, action):
        super().__init__()
        self.remaining = count
        self.action = action
        setattr(self, hook, self.count_down)

    def count_down(self, batch, logs=None):
        self.remaining -= 1
        if not self.remaining:
            self.action(self.model)


def train_in(directory, *, callback=None, every=0, epochs=EPOCHS, steps_per_execution=1):
    """Trains from the newest checkpoint of `directory`: (values of all variables, history)."""
    position, arrays = checkpoints.read_newest(directory)
    # The state of the dropout seed is not in a .keras file.
    network = tiny.dense(layer=keras.layers.Dropout(.5, seed=3))
    model = mlnt_tf.MLNT(network, num_synthetic=2, mentor=tiny.dense(1))
    model.compile(learning_rate=.2, meta_rate=.1, meta_momentum=.5,
                  steps_per_execution=steps_per_execution)
    saving = checkpoints.Checkpoints(directory, position, arrays, every=every, clock=lambda: 7.0)
    extra = [callback] if callback else []
    if arrays:
        checkpoints.restore(model, position, arrays, directory)
    dataset = tiny.dataset(EPOCHS * STEPS).skip(position.epoch * STEPS + position.step)
    if position.step:
        # A filter makes the cardinality unknown, as that of the pipeline is.
        dataset = dataset.filter(lambda batch: True)
    best = callbacks.SaveBest("student", directory / "student_best.keras", position)
    with saving.defer_sigterm():
        model.fit(dataset, initial_epoch=position.epoch, epochs=epochs, steps_per_epoch=STEPS,
                  verbose=0, validation_data=tiny.dataset(2), shuffle=False,
                  callbacks=[mlnt_tf.EmaTeacher(.9), *extra, saving, best])
    variables = checkpoints.named_variables(model).values()
    return [variable.numpy() for variable in variables], saving.history


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Variables, history and best network of an uninterrupted training."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    variables, history = train_in(directory)
    return variables, history, kill.weights(directory / "student_best.keras")


def assert_resumes_like(uninterrupted, directory, **kwargs):
    variables, history = train_in(directory, **kwargs)
    expected_variables, expected_history, expected_network = uninterrupted
    for variable, expected in zip(variables, expected_variables, strict=True):
        np.testing.assert_array_equal(variable, expected)
    assert history == expected_history
    assert kill.weights(directory / "student_best.keras") == expected_network


def test_peak_memory_is_the_maximum_over_all_processes(tmp_path, monkeypatch):
    for epochs, megabytes in enumerate([900.0, 800.0, 1000.0], start=1):
        monkeypatch.setattr(checkpoints.host, "peak_memory_mb", lambda value=megabytes: value)
        train_in(tmp_path, epochs=epochs)
        position, _ = checkpoints.read_newest(tmp_path)
        assert position.peak_memory_mb == max(900, megabytes)


def interrupt(model):
    raise KeyboardInterrupt


def terminate(model):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("batches", [3, 7, 12])
def test_resume_after_interrupt_gives_identical_weights(uninterrupted, tmp_path, batches):
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path, callback=CallAfter("on_train_batch_end", batches, interrupt), every=2)
    assert_resumes_like(uninterrupted, tmp_path, every=2)


@pytest.mark.parametrize("hook, count, expected", [
    ("on_train_batch_end", 6, (1, 2)), ("on_train_batch_end", 4, (0, 4)),
    ("on_test_batch_end", 3, (1, 4))])
def test_sigterm_saves_at_the_current_step(uninterrupted, tmp_path, hook, count, expected):
    with pytest.raises(Terminated) as raised:
        train_in(tmp_path, callback=CallAfter(hook, count, terminate))
    assert raised.value.code == 143
    position, _ = checkpoints.read_newest(tmp_path)
    assert (position.epoch, position.step) == expected and position.seconds == 7
    assert_resumes_like(uninterrupted, tmp_path)


@pytest.mark.slow
def test_resume_after_kill_between_checkpoint_and_best_network(uninterrupted, tmp_path,
                                                               monkeypatch):
    monkeypatch.setattr(callbacks.SaveBest, "on_epoch_end", lambda *_: interrupt(None))
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path)
    monkeypatch.undo()
    assert_resumes_like(uninterrupted, tmp_path)


@pytest.mark.slow
def test_resume_with_several_steps_per_execution_gives_identical_weights(tmp_path):
    expected, expected_history = train_in(tmp_path / "uninterrupted", steps_per_execution=2)
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path / "resumed", callback=CallAfter("on_train_batch_end", 4, interrupt),
                 every=2, steps_per_execution=2)
    assert checkpoints.read_newest(tmp_path / "resumed")[0].step == 2
    variables, history = train_in(tmp_path / "resumed", steps_per_execution=2)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert history == expected_history


def names(directory):
    return sorted(path.name for path in directory.glob("*.npz"))


def test_newest_three_checkpoints_are_stored(tmp_path):
    train_in(tmp_path, every=1)
    assert names(tmp_path) == ["00002_00000002.npz", "00002_00000003.npz",
                               "00003_00000000.npz"]


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def overwrite_with_zeros(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(content[4000:4040], bytes(40), 1))


@pytest.mark.parametrize("damage", [cut_in_half, empty, overwrite_with_zeros])
def test_damaged_checkpoint_is_deleted_and_the_previous_one_used(uninterrupted, tmp_path, caplog,
                                                                 damage):
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path, callback=CallAfter("on_train_batch_end", 7, interrupt), every=1)
    newest = tmp_path / names(tmp_path)[-1]
    damage(newest)
    position, _ = checkpoints.read_newest(tmp_path)
    assert (position.epoch, position.step) == (1, 1)
    assert f"{newest} is damaged" in caplog.text and not newest.exists()
    assert_resumes_like(uninterrupted, tmp_path)


@pytest.mark.slow
def test_full_disk_leaves_earlier_checkpoints_intact(uninterrupted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path, callback=CallAfter("on_train_batch_end", 7, interrupt), every=3)
    names_before = names(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(OSError):
            train_in(tmp_path, every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert names(tmp_path) == names_before and not list(tmp_path.glob("writing*"))
    assert_resumes_like(uninterrupted, tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    def assign_nan(model):
        kernel = model.teacher.trainable_variables[0]
        kernel.assign(np.nan * kernel)

    message = "dense.*/kernel has values that are NaN or infinite after step 6"
    with pytest.raises(NonFiniteLoss, match=message):
        train_in(tmp_path, callback=CallAfter("on_train_batch_end", 6, assign_nan), every=2)
    assert names(tmp_path) == ["00000_00000002.npz", "00001_00000000.npz"]


def write_checkpoint(directory, *, model):
    """Writes a checkpoint of a model with a single variable."""
    position = checkpoints.Position(epoch=1, model=model)
    checkpoints.write(directory, position, {"model/0": np.zeros(3)})


def test_checkpoint_of_another_network_is_refused(tmp_path):
    write_checkpoint(tmp_path, model="MLNT")
    with pytest.raises(UserError, match="another --output_dir"):
        train_in(tmp_path)


def test_checkpoint_of_another_class_is_refused(tmp_path):
    write_checkpoint(tmp_path, model="ELR")
    with pytest.raises(UserError, match="checkpoints of ELR models, but this run trains MLNT"):
        train_in(tmp_path)


def test_checkpoint_of_another_format_is_refused_and_not_deleted(tmp_path, monkeypatch):
    current = checkpoints.FORMAT
    monkeypatch.setattr(checkpoints, "FORMAT", current + 1)
    write_checkpoint(tmp_path, model="MLNT")
    monkeypatch.undo()
    message = f"has checkpoint format {current + 1}.* reads format {current}"
    with pytest.raises(UserError, match=message):
        checkpoints.read_newest(tmp_path)
    assert len(names(tmp_path)) == 1


def test_variables_have_the_order_of_the_format():
    """If this order changes, raise `checkpoints.FORMAT`: variables are restored by position."""
    model = mlnt_tf.MLNT(tiny.dense(), num_synthetic=1)
    model.compile(learning_rate=.2, meta_rate=.1)
    variables = checkpoints.named_variables(model).values()
    order = [re.sub(r"_\d+", "", variable.path) for variable in variables]
    network = ["sequential/dense/kernel", "sequential/dense/bias"] * 2
    velocities = ["sequential_dense_kernel_velocity", "sequential_dense_bias_velocity"] * 2
    metrics = ("loss", "loss", "accuracy", "true_accuracy", "consistency",
               "loss", "accuracy", "teacher_accuracy")
    means = [f"{name}/{part}" for name in metrics for part in ("total", "count")]
    assert checkpoints.FORMAT == 3
    assert order == [
        "mlnt/ema_decay_start", "mlnt/ema_decay_end", "mlnt/ema_decay_boundary",
        "mlnt/nonfinite_step", "mlnt/step", *network, *network, "coupled_sgd/iteration",
        "coupled_sgd/learning_rate", *(f"coupled_sgd/{name}" for name in velocities),
        "meta_sgd/iteration", "meta_sgd/learning_rate", *means]


def run_train_command(output_dir, *flags):
    return train.main(["train", *kill.RUN, "--method=cross_entropy", "--epochs=2",
                       f"--output_dir={output_dir}", *flags])


@pytest.mark.slow
def test_train_command_resumes_after_sigterm_with_identical_files(tmp_path, monkeypatch, capsys):
    def terminate_in_second_epoch(self, batch, logs=None):
        if batch == 1 and self.epoch == 1:
            terminate(None)

    monkeypatch.setattr(callbacks.EpochLog, "on_train_batch_end", terminate_in_second_epoch)
    resumed, uninterrupted = tmp_path / "resumed", tmp_path / "uninterrupted"
    assert run_train_command(resumed, "--checkpoint_every=0") == 143
    assert "terminated; the same command resumes" in capsys.readouterr().err
    monkeypatch.undo()
    assert run_train_command(resumed) == 0
    assert run_train_command(uninterrupted) == 0
    assert kill.contents(resumed) == kill.contents(uninterrupted)
    assert kill.logged_epochs(resumed) == kill.logged_epochs(uninterrupted) == {
        "cross_entropy/train": [0, 1], "cross_entropy/validation": [0, 1]}


@pytest.mark.slow
def test_full_disk_ends_the_train_command_with_one_line(tmp_path, capsys, monkeypatch):
    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", write)
    assert run_train_command(tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and error.count("\n") == 1


@pytest.mark.slow
def test_resume_after_kill_gives_identical_files():
    """A short form of `python tests/kill.py --kills=20`."""
    command = [sys.executable, pathlib.Path(kill.__file__), "--kills=2", "--longest=3",
               "--iterations=2", "--epochs=2"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "2 kills: the files equal those of an uninterrupted run" in result.stdout
