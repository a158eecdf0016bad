"""`mlnt_tf.run`: the command in one call, for arrays and networks of the caller."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf

DRAWS = np.random.default_rng(0)
Y = np.arange(60) % 3
X = np.clip(60 * Y[:, None, None, None] + DRAWS.integers(50, size=[60, 8, 8, 1]), 0, 255)
X = X.astype(np.uint8)


def build_network(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(),
                             keras.layers.Dense(num_classes, dtype="float32")])


def config(tmp_path, **changes):
    return mlnt_tf.Config(**{"method": "cross_entropy", "epochs": 1, "batch_size": 8,
                             "output_dir": str(tmp_path / "run"), **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(directory, results) of a run on arrays with a network of the caller."""
    directory = tmp_path_factory.mktemp("run")
    return directory, mlnt_tf.run(config(directory), data=(X, Y), model=build_network)


def test_run_trains_on_arrays_with_the_callers_network(finished):
    directory, results = finished
    assert 0 <= results["test_accuracy"] <= 1
    assert json.loads((directory / "run/results.json").read_text())
    best = keras.models.load_model(next((directory / "run").glob("*/student_best.keras")))
    shapes = [weight.shape for weight in build_network((8, 8, 1), 3).trainable_weights]
    assert [weight.shape for weight in best.trainable_weights] == shapes


def test_a_repeated_call_returns_the_stored_results(finished):
    directory, results = finished
    again = mlnt_tf.run(config(directory), data=(X / 255., Y), model=build_network)
    assert again["test_accuracy"] == results["test_accuracy"]


def test_other_labels_are_refused_in_the_same_directory(finished):
    directory, _ = finished
    with pytest.raises(mlnt_tf.UserError, match="holds a run on other data: the labels of"):
        mlnt_tf.run(config(directory), data=(X, Y[::-1]), model=build_network)


def test_policy_and_seeds_are_restored(finished):
    directory, _ = finished
    keras.utils.set_random_seed(7)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        expected = random.Random(7).random(), np.random.RandomState(7).rand()
        mlnt_tf.run(config(directory, precision="auto"), data=(X, Y), model=build_network)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        assert (random.random(), np.random.rand()) == expected
        drawn = float(tf.random.uniform([])), float(keras.random.uniform([]))
        keras.utils.set_random_seed(7)
        assert (random.random(), np.random.rand()) == expected
        assert drawn == (float(tf.random.uniform([])), float(keras.random.uniform([])))
    finally:
        keras.config.set_dtype_policy("float32")


def test_given_splits_and_a_built_network_are_used(tmp_path):
    network = build_network((8, 8, 1), 3)
    splits = {"train": (X[:40], Y[:40]), "validation": (X[40:50], Y[40:50]),
              "test": (X[50:, ..., 0], Y[50:])}
    mlnt_tf.run(config(tmp_path), data=splits, model=network)
    rows = (tmp_path / "run/noise.csv").read_text().splitlines()
    assert len(rows) == 1 + 40


@pytest.mark.parametrize("data, message", [
    ((X[..., None], Y), "shape"), ((X.astype(int), Y), "uint8"), ((X, Y[:-1]), "one row per"),
    ((X, Y.astype(float)), "integers"), ({"test": (X, Y)}, "key 'train'"), ((X,), "pair")])
def test_unusable_arrays_are_refused(data, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        mlnt_tf.run(config(tmp_path), data=data)
    assert "Received: " in str(error.value)


def test_the_settings_of_such_a_run_are_refused_by_the_command(tmp_path):
    from mlnt_tf import python_api, runner
    with pytest.raises(mlnt_tf.UserError, match="mlnt_tf.run"):
        runner.run(config(tmp_path, dataset=python_api.DATA))
