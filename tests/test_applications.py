"""Keras Applications, their normalization and weights, and networks of users."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import methods, runner
from mlnt_tf.config import Config, UserError
from mlnt_tf.data import load
from mlnt_tf.models.build import build_network, normalization

PIXEL = np.uint8([[[10, 20, 30]]])


def build(name, *, shape=(32, 32, 3), **kwargs):
    return build_network(name, width=4, input_shape=shape, num_classes=5, seed=0, **kwargs)


@pytest.fixture(scope="module")
def resnet50():
    return build("resnet50")


@pytest.mark.parametrize("name, expected", [
    ("resnet50", [30 - 103.939, 20 - 116.779, 10 - 123.68]),  # BGR, minus ImageNet's means.
    ("keras:MobileNetV2", [10 / 127.5 - 1, 20 / 127.5 - 1, 30 / 127.5 - 1]),
    ("keras:DenseNet121", [(10 / 255 - .485) / .229, (20 / 255 - .456) / .224,
                           (30 / 255 - .406) / .225]),
    ("keras:EfficientNetV2B0", [10, 20, 30])])  # Its first layers normalize.
def test_normalization_is_that_of_the_pretrained_weights(name, expected):
    normalize = normalization(name)
    np.testing.assert_allclose(normalize(PIXEL)[0, 0], expected, rtol=1e-5)
    in_graph = tf.function(normalize)(tf.constant(PIXEL[None]))
    np.testing.assert_allclose(in_graph[0, 0, 0], expected, rtol=1e-5)


def test_network_without_pretrained_weights_has_no_normalization():
    assert normalization("cnn") is None


def test_resnet50_has_fused_batch_norm_pooled_features_and_logits(resnet50):
    norms = [layer for layer in resnet50.layers
             if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 53
    assert {type(layer) for layer in norms} == {mlnt_tf.FusedBatchNormalization}
    assert mlnt_tf.feature_extractor(resnet50).output_shape == (None, 2048)
    assert resnet50.output_shape == (None, 5)
    # Keras's count of ResNet-50 without its top layer, and the new logits.
    assert resnet50.count_params() == 23_587_712 + 5 * 2049


def test_pretrained_weights_are_loaded_from_a_file(resnet50, tmp_path):
    keras.utils.set_random_seed(7)
    base = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3))
    base.save_weights(tmp_path / "mine.weights.h5")
    loaded = build("resnet50", pretrained_weights=str(tmp_path / "mine.weights.h5"))
    kernel = base.get_layer("conv1_conv").kernel
    np.testing.assert_array_equal(loaded.get_layer("conv1_conv").kernel, kernel)
    assert np.abs(resnet50.get_layer("conv1_conv").kernel - kernel).max() > 0


def test_damaged_weights_file_is_refused(tmp_path):
    path = tmp_path / "broken.weights.h5"
    path.write_bytes(b"nothing")
    message = "broken.weights.h5 does not fit --model=keras:MobileNetV3Small"
    with pytest.raises(UserError, match=message):
        build("keras:MobileNetV3Small", pretrained_weights=str(path))


def test_failed_download_of_weights_says_where_to_put_the_file(monkeypatch, tmp_path):
    new_mobilenet = keras.applications.MobileNetV3Small

    def offline(*, include_top, weights, input_shape):
        if weights == "imagenet":
            raise Exception("URL fetch failure on https://somewhere/mobile/small_notop.h5: None "
                            "-- [Errno -2] Name or service not known")
        return new_mobilenet(include_top=include_top, weights=weights, input_shape=input_shape)

    monkeypatch.setattr(keras.applications, "MobileNetV3Small", offline)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UserError) as raised:
        build("keras:MobileNetV3Small", pretrained_weights="imagenet")
    message = str(raised.value)
    assert ("Download https://somewhere/mobile/small_notop.h5 to "
            f"{tmp_path}/models/small_notop.h5") in message
    assert "Name or service not known" in message and "\n" not in message


@pytest.mark.parametrize("name, kwargs, message", [
    ("keras:ResNet5000", {}, "Keras has .*ResNet50"), ("keras:layers", {}, "is not known"),
    ("resnet50", {"shape": (8, 8, 3)}, "cannot process images of 8 x 8 x 3"),
    ("resnet50", {"shape": (32, 32, 1)}, "needs images with 3 channels, but these have 1"),
    ("resnet50", {"pretrained_weights": "/nowhere.h5"}, "/nowhere.h5 is not a file"),
    ("cnn", {"pretrained_weights": "imagenet"}, "--model=cnn has no pretrained weights.*resnet50")])
def test_network_that_cannot_be_built_is_refused_in_one_line(name, kwargs, message):
    with pytest.raises(UserError, match=message) as raised:
        build(name, **kwargs)
    assert "\n" not in str(raised.value)


def test_network_with_dropout_takes_an_mlnt_step():
    keras.utils.set_random_seed(0)
    model = mlnt_tf.MLNT(build("keras:MobileNetV3Small"), num_synthetic=2)
    model.compile(learning_rate=.01)
    batch = {"id": tf.range(4, dtype=tf.int64),
             "image": tf.random.stateless_normal([4, 32, 32, 3], [0, 1]),
             "label": tf.constant([0, 1, 2, 3]), "neighbor_labels": tf.zeros([4, 3], tf.int32)}
    assert np.isfinite(float(model.train_step(batch)["loss"]))


MODULE = """
import keras, numpy as np
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Source, Split

def network(width, input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(),
                             keras.layers.Dense(num_classes)])

def probabilities(width, input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(),
                             keras.layers.Dense(num_classes, activation="softmax")])

class Mine(keras.layers.Layer):
    def call(self, images):
        return 2 * images

def unregistered(width, input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), Mine(), keras.layers.Flatten(),
                             keras.layers.Dense(num_classes)])

def nothing(**arguments):
    return None

def broken(**arguments):
    return 1 / 0

def data(config):
    ids = np.arange(20)
    images = ArrayImages(np.zeros([20, 4, 4, 3], "uint8"))
    split = Split(ids, (ids % 2).astype("int32"), images, ids.astype(str))
    return Source(("even", "odd"), split, split)
"""


@pytest.fixture
def user_modules(tmp_path, monkeypatch):
    (tmp_path / "mine_for_tests.py").write_text(MODULE)
    (tmp_path / "broken_for_tests.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(str(tmp_path))


SETTINGS = dict(dataset="mine_for_tests:data", noise="none", batch_size=4, num_neighbors=2)


def test_functions_of_users_provide_data_and_network(user_modules):
    config = Config(model="mine_for_tests:network", **SETTINGS)
    loaded = load.load_examples(config)
    assert loaded.class_names == ("even", "odd") and len(loaded.test) == 20
    assert loaded.new_network(config).output_shape == (None, 2)


@pytest.mark.parametrize("settings, message", [
    (dict(model="mine_for_tests:nothing"), "returned NoneType"),
    (dict(model="mine_for_tests:probabilities"), "last layer outputs the logits"),
    (dict(model="mine_for_tests:broken"),
     r"failed \(ZeroDivisionError: .*mine_for_tests.py, line 26\)"),
    (dict(model="mine_for_tests:unregistered"), "register_keras_serializable"),
    (dict(model="mine_for_tests:other"), "AttributeError: .*other"),
    (dict(model="broken_for_tests:network"), "No module named 'not_installed_anywhere'"),
    (dict(dataset="mine_for_tests:nothing"), "must return an mlnt_tf.data.splits.Source"),
    (dict(dataset="no_such_module_at_all:data"), "No module named 'no_such_module_at_all'")])
def test_wrong_function_of_a_user_is_refused_in_one_line(user_modules, settings, message):
    config = Config(**{**SETTINGS, **settings})
    with pytest.raises(UserError, match=message) as raised:
        runner.check_network(config, load.load_examples(config), methods.find(config))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("flag, value", [
    ("model", "vgg"), ("model", "keras:"), ("model", "a b:c"), ("dataset", "mnist"),
    ("dataset", "tfds:"), ("dataset", "module:")])
def test_malformed_name_is_refused(flag, value):
    with pytest.raises(UserError, match=f"--{flag}={value} is not known"):
        Config(**{flag: value})
