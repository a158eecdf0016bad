import keras
import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.models import predict
from mlnt_tf.training import callbacks

import tiny


def images(count=10):
    return tf.data.Dataset.from_tensor_slices({"image": np.random.default_rng(0).normal(size=[count, 4])}).batch(4)


def test_predictions_are_softmax_in_order():
    network = tiny.dense()
    batches = images()
    everything = np.concatenate([batch["image"] for batch in batches])
    np.testing.assert_allclose(predict.predict_probabilities(network, batches), tf.nn.softmax(network(everything)), atol=1e-6)
    labels = np.argmax(network(everything), axis=1)
    assert predict.accuracy(network, batches, labels) == 1
    assert predict.accuracy(network, batches, (labels + 1) % 3) == 0


def test_features_are_the_input_of_the_last_layer():
    network, batches = tiny.dense(), images()
    features = predict.extract_features(network, batches, "penultimate")
    kernel, bias = network.layers[-1].get_weights()
    np.testing.assert_allclose(features @ kernel + bias, predict.extract_features(network, batches, "logits"), atol=1e-5)


def test_large_features_are_written_and_memory_mapped(tmp_path, monkeypatch):
    network, batches = tiny.dense(), images()
    in_memory = predict.extract_features(network, batches, "penultimate", count=10, path=tmp_path / "features.npy")
    monkeypatch.setattr(predict, "IN_MEMORY_BELOW", 0)
    mapped = predict.extract_features(network, batches, "penultimate", count=10, path=tmp_path / "features.npy")
    assert isinstance(mapped, np.memmap) and not isinstance(in_memory, np.memmap)
    np.testing.assert_allclose(mapped, in_memory, atol=1e-6)


def test_the_best_network_is_kept_not_the_last(tmp_path):
    network = tiny.dense(seed=1)
    model = type("Model", (), {"networks": {"student": network}})()
    keeper = callbacks.SaveBest("student", tmp_path / "best.keras")
    keeper.set_model(model)
    keeper.set_params({})
    for epoch, accuracy in enumerate([.5, .9, .9, .7]):
        network.layers[-1].bias.assign([float(epoch)] * 3)
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
