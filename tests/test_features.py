"""Heads on the features of a frozen body, and the probe as the first head of a network."""

import json

import keras
import numpy as np
import pytest
import sklearn.discriminant_analysis
import tensorflow as tf

from mlnt_tf import train
from mlnt_tf.config import Config, UserError
from mlnt_tf.data.load import load_examples
from mlnt_tf.experiment import features
from mlnt_tf.experiment.head import new_head, replace_head
from mlnt_tf.experiment.run import Run
from mlnt_tf.hardware.devices import Devices
from mlnt_tf.labels.probe import fit_probe, fit_projection
from mlnt_tf.models.layers import in_float32
from mlnt_tf.models.submodels import feature_extractor, mirror_averaged

import tiny

TINY = ["--epochs=2", "--steps_per_epoch=3", "--train_examples=200", "--batch_size=32",
        "--width=2", "--precision=float32"]


def run(directory, *flags):
    """Trains, and returns the results."""
    assert train.main(["train", *TINY, f"--output_dir={directory}", *flags]) == 0
    return json.loads((directory / "results.json").read_text())


def digits(**settings):
    """Returns (config, examples) of 200 digits."""
    config = Config(train_examples=200, batch_size=32, width=2, **settings)
    return config, load_examples(config)


def random_features(count=60, size=6, classes=3, seed=0):
    """Returns (features [count, size], labels [count]) that a linear head can learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    return rng.normal(size=[count, size]) + 2 * np.eye(classes, size)[labels], labels


def test_head_of_keras_layers_predicts_what_the_probe_predicts():
    rows, labels = random_features()
    probe = fit_probe(rows, labels, 3)
    head = new_head(probe.projection, 3, seed=0)
    head.get_layer("logits").set_weights([probe.weights[:-1], probe.weights[-1]])
    predicted = tf.nn.softmax(head(rows.astype(np.float32)))
    np.testing.assert_allclose(predicted, probe.probabilities(rows), atol=1e-6)


def test_head_trains_its_last_layer_only():
    rows, _ = random_features()
    head = new_head(fit_projection(rows), 3, seed=0)
    assert [variable.path.split("/")[-2] for variable in head.trainable_variables] == 2 * ["logits"]


def test_heads_of_equal_seeds_have_equal_weights():
    rows, _ = random_features()
    first, second = (new_head(fit_projection(rows), 3, seed=5) for _ in range(2))
    tiny.assert_equal_weights(first, second)


def test_network_with_the_head_of_a_probe_predicts_what_the_probe_predicts():
    network = tiny.dense()
    images = np.random.default_rng(0).normal(size=[50, 4]).astype(np.float32)
    rows = np.asarray(feature_extractor(network)(images))
    probe = fit_probe(rows, np.arange(50) % 3, 3)
    predicted = tf.nn.softmax(replace_head(network, probe)(images))
    np.testing.assert_allclose(predicted, probe.probabilities(rows), atol=1e-5)


def test_network_with_the_head_of_a_probe_can_be_saved_and_cloned(tmp_path):
    network = tiny.dense()
    images = np.random.default_rng(0).normal(size=[50, 4]).astype(np.float32)
    rows = np.asarray(feature_extractor(network)(images))
    replaced = replace_head(network, fit_probe(rows, np.arange(50) % 3, 3))
    replaced.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images), replaced(images))


def test_mirror_average_is_the_mean_of_both_images():
    inputs = keras.Input([3, 4, 1])
    extractor = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(inputs)))
    images = np.random.default_rng(0).normal(size=[2, 3, 4, 1]).astype(np.float32)
    expected = (extractor(images) + extractor(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(mirror_averaged(extractor)(images), expected, atol=1e-6)


def test_mirror_average_in_mixed_precision_has_a_float32_copy():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([
        keras.Input([4, 6, 1]), keras.layers.Flatten(),
        keras.layers.Dense(3, dtype="mixed_bfloat16", name="logits")])
    copy = in_float32(mirror_averaged(network))
    images = np.random.default_rng(0).normal(size=[2, 4, 6, 1]).astype(np.float32)
    kernel, bias = network.get_weights()
    expected = (images + images[:, :, ::-1]).reshape(2, -1) / 2 @ kernel + bias
    np.testing.assert_allclose(copy(images), expected, rtol=1e-5, atol=1e-5)


def test_linear_classifier_becomes_a_layer_of_logits():
    rows, labels = random_features()
    lda = sklearn.discriminant_analysis.LinearDiscriminantAnalysis().fit(rows, labels)
    weights, bias = features.linear_weights(lda, 3)
    np.testing.assert_array_equal((rows @ weights + bias).argmax(axis=1), lda.predict(rows))


def test_linear_classifier_of_two_classes_gets_a_column_for_each():
    rows, labels = random_features(classes=2)
    lda = sklearn.discriminant_analysis.LinearDiscriminantAnalysis().fit(rows, labels)
    weights, bias = features.linear_weights(lda, 2)
    probabilities = tf.nn.softmax(rows @ weights + bias)
    np.testing.assert_allclose(probabilities, lda.predict_proba(rows), atol=1e-5)


def test_class_without_training_examples_is_never_predicted():
    rows, labels = random_features()
    labels[labels == 1] = 0
    lda = sklearn.discriminant_analysis.LinearDiscriminantAnalysis().fit(rows, labels)
    weights, bias = features.linear_weights(lda, 3)
    assert set((rows @ weights + bias).argmax(axis=1)) == {0, 2}


def test_frozen_body_replaces_images_by_features_of_every_split(tmp_path):
    config, examples = digits(freeze="body")
    this_run = Run(config, examples, Devices(tf.distribute.get_strategy()), tmp_path)
    this_run.prepare()
    for split in ("train", "validation", "test"):
        images = getattr(examples, split)
        expected = this_run.examples.body.predict(
            examples.batches(images, config).map(lambda batch: batch["image"]), verbose=0)
        rows = getattr(this_run.examples, split)
        np.testing.assert_allclose(rows.images.array, expected, atol=1e-6)
        np.testing.assert_array_equal(rows.labels, images.labels)


def test_features_are_read_again_instead_of_computed(tmp_path, monkeypatch):
    config, examples = digits(freeze="body")
    first = Run(config, examples, Devices(tf.distribute.get_strategy()), tmp_path)
    first.prepare()
    monkeypatch.setattr(features.predict, "write_outputs", None)
    second = Run(config, examples, Devices(tf.distribute.get_strategy()), tmp_path)
    second.prepare()
    np.testing.assert_array_equal(second.examples.train.images.array,
                                  first.examples.train.images.array)


@pytest.mark.parametrize("settings, flag", [
    (dict(freeze="body"), "--freeze=body"), (dict(initial_head="probe"), "--initial_head=probe")])
def test_features_with_several_workers_are_refused(settings, flag, tmp_path):
    config, examples = digits(**settings)
    devices = Devices(tf.distribute.get_strategy(), workers=2)
    with pytest.raises(UserError, match=f"{flag} computes features in one process"):
        Run(config, examples, devices, tmp_path).prepare()


@pytest.mark.parametrize("settings, message", [
    (dict(freeze="body", augment=True), "--augment changes the images in every epoch"),
    (dict(freeze="body", initial_head="probe"), "--initial_head=probe is for a network"),
    (dict(flip_average=True), "--flip_average needs --freeze=body")])
def test_settings_that_contradict_a_frozen_body_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)


@pytest.mark.parametrize("method", ["lda", "logistic"])
def test_linear_methods_need_a_frozen_body(method):
    with pytest.raises(UserError, match=f"--method={method} .* Add --freeze=body"):
        features.check_frozen_body(Config(method=method))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lda", "logistic", "gce"])
def test_saved_model_contains_body_and_head(method, tmp_path):
    results = run(tmp_path / "run", f"--method={method}", "--freeze=body", "--flip_average")
    served = tf.saved_model.load(str(tmp_path / "run/saved_model/1"))
    config, examples = digits(freeze="body")
    images = np.concatenate([examples.test.images.array])
    labels = served.signatures["images"](images=tf.constant(images))["label"]
    assert np.mean(labels.numpy() == examples.test.labels) == pytest.approx(
        results["test_accuracy"], abs=.02)


@pytest.mark.slow
def test_probe_is_a_stage_and_the_first_head_of_the_others(tmp_path):
    results = run(tmp_path / "run", "--method=forward", "--transition_matrix=probe",
                  "--initial_head=probe", "--select=auto", "--learning_rate=1e-9",
                  "--freeze_batch_norm")
    names = [stage["name"] for stage in results["stages"]]
    assert names == ["cross entropy probe", "probe", "forward"]
    assert results["transition"]["source"] == "probe"
    # Without a noticeable learning rate, the network stays what the probe is.
    probe, forward = results["stages"][1:]
    assert forward["student"]["best_validation"] == pytest.approx(
        probe["student"]["best_validation"])
    assert [one["network"] for one in results["selection"]] == ["probe student", "forward teacher"]
    assert not results["selection"][1]["selected"]
