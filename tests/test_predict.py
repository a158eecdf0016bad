"""Predictions and features of a network on un-augmented batches."""

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.models import predict

import tiny


@pytest.fixture
def network():
    return tiny.dense()


@pytest.fixture
def batches():
    images = np.random.default_rng(0).normal(size=[10, 4])
    return tf.data.Dataset.from_tensor_slices({"image": images}).batch(4)


def test_predicted_probabilities_are_the_softmax_in_order(network, batches):
    images = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_allclose(predict.predict_probabilities(network, batches),
                               tf.nn.softmax(network(images)), atol=1e-6)


def test_accuracy_is_the_fraction_of_predicted_labels(network, batches):
    labels = predict.predict_probabilities(network, batches).argmax(axis=1)
    assert predict.accuracy(network, batches, labels) == 1
    assert predict.accuracy(network, batches, (labels + 1) % 3) == 0
    labels[:3] = (labels[:3] + 1) % 3
    assert predict.accuracy(network, batches, labels) == pytest.approx(.7)


def test_penultimate_features_are_the_input_of_the_last_layer(network, batches):
    features = predict.extract_features(network, batches, "penultimate")
    kernel, bias = network.layers[-1].get_weights()
    logits = predict.extract_features(network, batches, "logits")
    np.testing.assert_allclose(features @ kernel + bias, logits, atol=1e-5)


def test_large_features_are_memory_mapped(network, batches, tmp_path, monkeypatch):
    path = tmp_path / "features.npy"
    in_memory = predict.extract_features(network, batches, "penultimate", count=10, path=path)
    monkeypatch.setattr(predict, "IN_MEMORY_BELOW", 0)
    mapped = predict.extract_features(network, batches, "penultimate", count=10, path=path)
    assert isinstance(mapped, np.memmap) and not isinstance(in_memory, np.memmap)
    np.testing.assert_allclose(mapped, in_memory, atol=1e-6)
