"""Models are saved, loaded in a new process and trained further, bit for bit."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import mlnt_tf
from mlnt_tf.methods.elr import ELR
from mlnt_tf.methods.gce import GCE
from mlnt_tf.methods.joint_optimization import JointOptimization
from mlnt_tf.training import schedules

import tiny

X = np.random.default_rng(0).normal(size=[12, 4]).astype(np.float32)
Y = np.arange(12, dtype=np.int32) % 3
CONTINUE = """
import sys
import keras, mlnt_tf
import numpy as np
model = keras.models.load_model(sys.argv[1])
data = np.load(sys.argv[2])
model.fit(data["x"], data["y"], batch_size=4, verbose=0, initial_epoch=1, epochs=2)
model.save_weights(sys.argv[3])
"""


def network():
    """A network with state of every kind: weights, moving averages and random numbers."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input([4]), keras.layers.GaussianNoise(.1), keras.layers.Dense(5),
        keras.layers.BatchNormalization(), keras.layers.Dropout(.3), keras.layers.Dense(3)])


def full_model():
    """An MLNT model with a mentor, schedules and momentum everywhere."""
    model = mlnt_tf.MLNT(
        network(), num_synthetic=2, mentor=tiny.dense(seed=4), ema_decay=.9, seed=3,
        teacher_weight=schedules.Ramp(.5, 10), transfer_ratio=.3)
    model.compile(
        mlnt_tf.CoupledSGD(schedules.StepDecay(schedules.Ramp(.1, 5), 4), momentum=.9),
        meta_optimizer=keras.optimizers.Adam(.01), run_eagerly=True,
        metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="ce")])
    return model


def values(model):
    """Everything that further training depends on: list of arrays."""
    variables = [*model.student.variables, *model.teacher.variables, *model.optimizer.variables,
                 model.step_counter, model.decay_start]
    variables += getattr(model, "meta_optimizer", model.optimizer).variables
    return [variable.numpy() for variable in variables]


def assert_equal_values(model, other):
    for one, another in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(one, another)


def fit(model, **kwargs):
    model.fit(X, Y, batch_size=4, verbose=0, **kwargs)
    return model


@pytest.fixture(scope="module")
def uninterrupted():
    return fit(full_model(), epochs=2)


def test_a_loaded_model_trains_on_bit_for_bit(uninterrupted, tmp_path):
    model = fit(full_model())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal_values(loaded, model)
    assert loaded.further_metrics("student")[0].name == "ce"
    assert_equal_values(fit(loaded, initial_epoch=1, epochs=2), uninterrupted)


@pytest.mark.slow
def test_a_model_loaded_in_a_new_process_trains_on_bit_for_bit(uninterrupted, tmp_path):
    fit(full_model()).save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    weights = tmp_path / "end.weights.h5"
    subprocess.run([sys.executable, "-c", CONTINUE, tmp_path / "model.keras",
                    tmp_path / "data.npz", weights], check=True)
    other = full_model()
    other.load_weights(weights)
    assert_equal_values(other, uninterrupted)


def test_weights_alone_continue_bit_for_bit(uninterrupted, tmp_path):
    fit(full_model()).save_weights(tmp_path / "a.weights.h5")
    other = full_model()
    other.load_weights(tmp_path / "a.weights.h5")
    assert_equal_values(fit(other, initial_epoch=1, epochs=2), uninterrupted)


def test_model_checkpoint_saves_the_best_teacher(tmp_path):
    model = full_model()
    path = tmp_path / "best.keras"
    fit(model, epochs=2, validation_data=(X, Y), callbacks=[keras.callbacks.ModelCheckpoint(
        path, monitor="val_teacher_accuracy", save_best_only=True, mode="max")])
    assert keras.models.load_model(path).teacher(X).shape == (12, 3)


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_backup_and_restore_is_exact_at_the_end_of_an_epoch(uninterrupted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(full_model(), epochs=2, callbacks=[
            keras.callbacks.BackupAndRestore(tmp_path / "backup"), Interrupt()])
    resumed = full_model()
    fit(resumed, epochs=2, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    assert_equal_values(resumed, uninterrupted)


@pytest.mark.parametrize("new_model", [
    mlnt_tf.CrossEntropy, lambda network: GCE(network, q=.5),
    lambda network: ELR(network, num_examples=12, beta=.5),
    lambda network: mlnt_tf.MLNT(network, ema_decay=1, fast_weights="head")],
    ids=["cross_entropy", "gce", "elr", "mlnt_head"])
def test_every_method_loads_with_its_arguments(new_model, tmp_path):
    model = new_model(tiny.dense())
    model.compile("adam")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    config, expected = loaded.get_config(), model.get_config()
    assert {**config, "network": None} == {**expected, "network": None}
    assert_equal_values(loaded, model)


def test_a_method_that_cannot_be_saved_names_the_student():
    model = JointOptimization(tiny.dense(), labels=np.eye(3, dtype=np.float32), alpha=1, beta=1)
    with pytest.raises(NotImplementedError, match=r"Save model\.student"):
        model.get_config()


def test_an_uncompiled_model_is_saved_and_loaded(tmp_path):
    model = mlnt_tf.CrossEntropy(tiny.dense())
    model.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").compiled


def test_export_serves_the_student(tmp_path):
    import tensorflow as tf
    model = full_model()
    model.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(X), model.student(X), rtol=1e-5, atol=1e-6)
