"""Saved networks contain their normalization, need Keras alone, and load unchanged inside a run."""

import dataclasses
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import runner
from mlnt_tf.config import Config, UserError
from mlnt_tf.data.transforms import Normalizer, Preprocess
from mlnt_tf.models import applications, saved_network
from mlnt_tf.models.build import normalization
from mlnt_tf.models.normalization import SCALINGS
from mlnt_tf.models.saved_network import NetworkWriter, load_network

SHAPE = (8, 8, 3)
IMAGES = np.random.default_rng(0).integers(256, size=[5, *SHAPE]).astype(np.float32)
MEAN = np.random.default_rng(1).uniform(size=SHAPE).astype(np.float32)
NORMALIZATIONS = {
    "mean image": Normalizer(MEAN), "mean per channel": Normalizer(MEAN.mean(axis=(0, 1))),
    **SCALINGS,
    "lite": normalization("efficientnet_lite0"), "caffe": normalization("resnet50"),
    "tf": normalization("keras:MobileNetV2"), "torch": normalization("keras:DenseNet121")}


def new_network():
    return mlnt_tf.build_network("cnn", width=4, input_shape=SHAPE, num_classes=3, seed=0)


@pytest.fixture(scope="module", params=NORMALIZATIONS)
def saved(request, tmp_path_factory):
    """(network of normalized images, its normalization, the path of its file)."""
    network, normalize = new_network(), NORMALIZATIONS[request.param]
    path = tmp_path_factory.mktemp("saved") / "best.keras"
    NetworkWriter(network, normalize).write(path)
    return network, normalize, path


def test_a_file_takes_images_in_0_to_255(saved):
    network, normalize, path = saved
    expected = network(normalize(IMAGES), training=False)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-2, "the network must depend on its input"


def test_a_file_has_only_layers_of_keras(saved):
    layers = keras.models.load_model(saved[2]).layers
    assert {type(layer).__module__.partition(".")[0] for layer in layers} == {"keras"}
    assert not any(isinstance(layer, (mlnt_tf.FusedBatchNormalization, keras.Model))
                   for layer in layers)


def test_inside_a_run_the_trained_network_comes_back_bit_for_bit(saved):
    network, normalize, path = saved
    loaded = load_network(path)
    images = normalize(IMAGES)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0),
                                  network.predict(images, verbose=0))
    assert [layer.name for layer in loaded.layers[1:]] == [
        layer.name for layer in network.layers[1:]]
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in network.layers]
    for ours, theirs in zip(loaded.get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_writer_saves_the_current_weights(tmp_path):
    network = new_network()
    writer = NetworkWriter(network, SCALINGS["imagenet"])
    for value in (1.0, 2.0):
        network.layers[-1].bias.assign(np.full(3, value))
        writer.write(tmp_path / "best.keras")
        loaded = keras.models.load_model(tmp_path / "best.keras")
        np.testing.assert_array_equal(loaded.layers[-1].bias, np.full(3, value))


def test_batch_normalization_of_keras_stays_as_it_is(tmp_path):
    network = keras.Sequential([
        keras.Input(SHAPE), keras.layers.BatchNormalization(name="plain"),
        mlnt_tf.FusedBatchNormalization(name="fused", synchronized=True, freeze_statistics=True),
        keras.layers.Flatten(), keras.layers.Dense(2)])
    NetworkWriter(network, SCALINGS["imagenet"]).write(tmp_path / "best.keras")
    loaded = load_network(tmp_path / "best.keras")
    assert type(loaded.get_layer("plain")) is keras.layers.BatchNormalization
    assert type(loaded.get_layer("fused")) is mlnt_tf.FusedBatchNormalization
    assert loaded.get_layer("fused").get_config() == network.get_layer("fused").get_config()


@pytest.mark.parametrize("normalize", [None, SCALINGS["imagenet"]])
def test_mixed_precision_is_kept_and_images_are_normalized_in_float32(tmp_path, normalize):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = new_network()
    finally:
        keras.config.set_dtype_policy("float32")
    NetworkWriter(network, normalize).write(tmp_path / "best.keras")
    images = IMAGES if normalize is None else normalize(IMAGES)
    np.testing.assert_array_equal(load_network(tmp_path / "best.keras")(images), network(images))
    loaded = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(loaded(IMAGES), network(images), atol=0.05)


def test_nested_networks_are_converted(tmp_path):
    inner = new_network()
    images = keras.Input(SHAPE)
    network = keras.Model(images, keras.layers.Dense(2)(inner(images)))
    NetworkWriter(network, SCALINGS["imagenet"]).write(tmp_path / "best.keras")
    normalized = SCALINGS["imagenet"](IMAGES)
    np.testing.assert_array_equal(load_network(tmp_path / "best.keras")(normalized),
                                  network(normalized))


def test_a_file_of_an_earlier_version_is_loaded_as_it_is(tmp_path):
    network = new_network()
    network.save(tmp_path / "best.keras")
    loaded = load_network(tmp_path / "best.keras")
    np.testing.assert_array_equal(loaded(IMAGES), network(IMAGES))
    assert not saved_network.contains_normalization(loaded)


@pytest.mark.parametrize("module", ["resnet", "resnet_v2", "densenet", "efficientnet", "vgg16"])
def test_layers_of_keras_applications_compute_preprocess_input(module):
    function = getattr(keras.applications, module).preprocess_input
    normalize = applications.ApplicationNormalization(function)
    normalized = IMAGES
    for layer in normalize.layers():
        normalized = layer(normalized)
    np.testing.assert_allclose(normalized, normalize(IMAGES), rtol=1e-5, atol=1e-5)


def test_export_of_a_saved_network_normalizes_once(tmp_path):
    network, normalize = new_network(), SCALINGS["minus_one_to_one"]
    NetworkWriter(network, normalize).write(tmp_path / "best.keras")
    mlnt_tf.export_saved_model(
        keras.models.load_model(tmp_path / "best.keras"), tmp_path / "model",
        preprocess=Preprocess(SHAPE, SHAPE, normalize), class_names="abc")
    served = tf.saved_model.load(str(tmp_path / "model/1")).signatures["images"]
    answer = served(tf.constant(IMAGES.astype(np.uint8)))
    expected = tf.nn.softmax(network(normalize(IMAGES)))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def test_saved_network_as_a_model_is_not_normalized_twice(tmp_path):
    NetworkWriter(new_network(), SCALINGS["minus_one_to_one"]).write(tmp_path / "best.keras")
    loaded = keras.models.load_model(tmp_path / "best.keras")
    train = types.SimpleNamespace(images=types.SimpleNamespace(shape=SHAPE))
    examples = types.SimpleNamespace(new_network=lambda config: loaded, train=train)
    method = types.SimpleNamespace(check=None)
    config = Config(model="package.module:function")
    with pytest.raises(UserError, match="--normalization=auto. Set --normalization=none"):
        runner.check_network(config, examples, method)
    runner.check_network(dataclasses.replace(config, normalization="none"), examples, method)


@pytest.mark.slow
def test_a_file_loads_in_a_fresh_process_without_this_package(tmp_path):
    """So it also loads after `import mlnt_tf`, in either order."""
    NetworkWriter(new_network(), NORMALIZATIONS["caffe"]).write(tmp_path / "best.keras")
    code = ("import sys\nsys.modules['mlnt_tf'] = None\nimport keras\n"
            f"model = keras.models.load_model({str(tmp_path / 'best.keras')!r})\n"
            "print(model.input_shape, model.output_shape)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "(None, 8, 8, 3) (None, 3)"


def test_network_loaded_in_a_new_process_can_be_saved_again(tmp_path):
    """Its operations have the names that Keras would give to new ones."""
    normalize = NORMALIZATIONS["lite"]
    path = tmp_path / "network.keras"
    keras.backend.clear_session()  # Numbers operations from the beginning, as a new process does.
    network = new_network()
    NetworkWriter(network, normalize).write(path)
    for _ in range(2):
        keras.backend.clear_session()
        NetworkWriter(load_network(path), normalize).write(path)
    images = normalize(IMAGES)
    np.testing.assert_array_equal(load_network(path)(images), network(images))
