import keras
import numpy as np
import pytest
import tensorflow as tf

import tiny
from mlnt_tf import callbacks, mentor
from mlnt_tf.config import UserError

GIVEN, TRUE = np.int32([0, 0, 1, 1, 2]), np.int32([0, 1, 1, 1, 2])


def images(count=10):
    return tf.data.Dataset.from_tensor_slices({"image": np.random.default_rng(0).normal(size=[count, 4])}).batch(4)


def test_probability_exactly_tau_is_dropped():
    np.testing.assert_array_equal(mentor.trusted(np.float32([.29, .3, .31]), .3), [False, False, True])


def test_precision_and_recall_of_the_filter():
    kept = np.array([True, True, True, False, True])
    found = mentor.describe_filter(kept, GIVEN, TRUE, "abc", .3)
    assert found == {"kept": 4, "filter_precision": .75, "filter_recall": .75}


def test_a_filter_that_keeps_nothing_is_refused():
    with pytest.raises(UserError, match="--tau=0.9 keeps none of the 5"):
        mentor.describe_filter(np.zeros(5, bool), GIVEN, TRUE, "abc", .9)


def test_a_share_of_nothing_is_none():
    nothing = np.zeros(5, bool)
    assert mentor.count_filter(nothing, GIVEN, TRUE) == {"kept": 0, "filter_precision": None, "filter_recall": 0.0}


def test_a_class_left_empty_is_warned_of_with_counts(monkeypatch):
    told = []
    monkeypatch.setattr(mentor.logging, "warning", lambda text, *values: told.append(text % values))
    mentor.describe_filter(np.array([True] * 4 + [False]), GIVEN, TRUE, ("cat", "dog", "bird"), .3)
    assert "bird (0 of 1)" in told[0] and "[2, 2, 0]" in told[0] and "--tau=0.3" in told[0]


def test_predictions_are_softmax_in_order():
    network = tiny.dense()
    batches = images()
    everything = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_allclose(mentor.predict(network, batches), tf.nn.softmax(network(everything)), atol=1e-6)
    labels = np.argmax(network(everything), axis=1)
    assert mentor.accuracy(network, batches, labels) == 1
    assert mentor.accuracy(network, batches, (labels + 1) % 3) == 0


def test_features_are_the_input_of_the_last_layer():
    network, batches = tiny.dense(), images()
    features = mentor.embed(network, batches, "penultimate")
    kernel, bias = network.layers[-1].get_weights()
    np.testing.assert_allclose(features @ kernel + bias, mentor.embed(network, batches, "logits"), atol=1e-5)


def test_large_features_are_written_and_memory_mapped(tmp_path, monkeypatch):
    network, batches = tiny.dense(), images()
    in_memory = mentor.embed(network, batches, "penultimate", count=10, path=tmp_path / "features.npy")
    monkeypatch.setattr(mentor, "IN_MEMORY_BELOW", 0)
    mapped = mentor.embed(network, batches, "penultimate", count=10, path=tmp_path / "features.npy")
    assert isinstance(mapped, np.memmap) and not isinstance(in_memory, np.memmap)
    np.testing.assert_allclose(mapped, in_memory, atol=1e-6)


def test_the_best_network_is_kept_not_the_last(tmp_path):
    model = type("Model", (), {"student": tiny.dense(seed=1)})()
    keeper = callbacks.SaveBest("student", tmp_path / "best.keras")
    keeper.set_model(model)
    keeper.set_params({})
    for epoch, accuracy in enumerate([.5, .9, .9, .7]):
        model.student.layers[-1].bias.assign([float(epoch)] * 3)
        keeper.on_epoch_end(epoch, {"val_accuracy": accuracy})
    best = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(best.layers[-1].bias, [1, 1, 1])


def test_a_loss_that_is_not_finite_is_told_with_its_step():
    model = type("Model", (), {"nonfinite_step": np.int64(17)})()
    watcher = callbacks.StopOnNonFinite()
    watcher.set_model(model)
    watcher.on_train_batch_end(3, {"loss": 1.0, "consistency": .5})
    with pytest.raises(callbacks.NonFiniteLoss, match="consistency=inf at step 17"):
        watcher.on_train_batch_end(3, {"loss": 1.0, "consistency": float("inf")})
