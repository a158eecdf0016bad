"""Networks for small images, feature extraction and fused batch normalization."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.config import MODELS, UserError
from mlnt_tf.models import build
from mlnt_tf.training.keras_internals import nested_layers


def new_network(name="cnn", *, width=4, shape=(8, 8, 1), seed=0):
    return mlnt_tf.build_network(name, width=width, input_shape=shape, num_classes=10, seed=seed)


def test_preact_resnet32_has_the_parameters_of_the_paper():
    resnet = new_network("preact_resnet32", width=32, shape=(32, 32, 3))
    sizes = [int(np.prod(variable.shape)) for variable in resnet.trainable_variables]
    assert sum(sizes) == 1_861_162


@pytest.mark.parametrize("name", MODELS)
def test_every_name_builds_a_network_with_logits(name):
    assert new_network(name)(tf.zeros([2, 8, 8, 1])).shape == (2, 10)


def test_builders_and_config_have_the_same_names():
    assert tuple(build.BUILDERS) == MODELS


def test_unknown_name_is_refused_with_the_choices():
    with pytest.raises(UserError, match="--model=vgg .*preact_resnet32"):
        new_network("vgg")


def test_seed_determines_the_weights():
    kernel = new_network().get_weights()[0]
    np.testing.assert_array_equal(new_network().get_weights()[0], kernel)
    assert abs(new_network(seed=1).get_weights()[0] - kernel).max() > 0


def test_penultimate_features_are_the_input_of_the_logits():
    cnn = new_network()
    images = tf.random.stateless_normal([3, 8, 8, 1], [0, 1])
    features = mlnt_tf.feature_extractor(cnn)(images)
    kernel, bias = cnn.get_layer("logits").get_weights()
    np.testing.assert_allclose(features @ kernel + bias, cnn(images), atol=1e-5)
    logits = mlnt_tf.feature_extractor(cnn, "logits")(images)
    np.testing.assert_array_equal(logits, cnn(images))


def test_features_and_logits_are_float32_in_mixed_bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        cnn = new_network()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert mlnt_tf.feature_extractor(cnn).output.dtype == "float32"
    assert cnn.output.dtype == "float32"


@pytest.mark.parametrize("last", [
    keras.layers.Softmax(), keras.layers.Dense(3, activation="softmax")])
def test_feature_extractor_refuses_a_network_that_outputs_probabilities(last):
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3), last])
    with pytest.raises(ValueError, match="last layer outputs the logits"):
        mlnt_tf.feature_extractor(network)


def test_feature_extractor_refuses_a_network_that_is_not_built():
    with pytest.raises(ValueError, match="built"):
        mlnt_tf.feature_extractor(keras.Sequential([keras.layers.Dense(3)]))


class TestFusedBatchNormalization:
    """Comparison with `keras.layers.BatchNormalization` at the same weights."""

    def layers_and_inputs(self, shape, **kwargs):
        """Returns (fused layer, Keras layer, inputs of this shape)."""
        fused = mlnt_tf.FusedBatchNormalization(momentum=.8, **kwargs)
        plain = keras.layers.BatchNormalization(momentum=.8, **kwargs)
        rng = np.random.default_rng(0)
        fused.build((None, *shape[1:]))
        plain.build((None, *shape[1:]))
        weights = [rng.uniform(.5, 1.5, size=weight.shape) for weight in fused.get_weights()]
        fused.set_weights(weights)
        plain.set_weights(weights)
        return fused, plain, tf.constant(rng.normal(2, 3, size=shape), tf.float32)

    @pytest.mark.parametrize("shape", [(6, 3, 3, 4), (6, 4), (1, 1, 1, 4)])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("jit_compile", [True, False])
    def test_outputs_and_statistics_equal_those_of_keras(self, shape, training, jit_compile):
        fused, plain, x = self.layers_and_inputs(shape)
        run = tf.function(lambda x: fused(x, training=training), jit_compile=jit_compile)
        np.testing.assert_allclose(run(x), plain(x, training=training), atol=2e-5)
        for actual, expected in zip(fused.get_weights(), plain.get_weights()):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    def test_mixed_bfloat16_equals_keras(self):
        fused, plain, x = self.layers_and_inputs((16, 3, 3, 4), dtype="mixed_bfloat16")
        outputs = fused(x, training=True)
        expected = tf.cast(plain(x, training=True), tf.float32)
        assert outputs.dtype == tf.bfloat16
        np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, atol=.03)
        np.testing.assert_allclose(fused.moving_variance, plain.moving_variance, rtol=.01)

    def test_frozen_layer_uses_moving_statistics(self):
        fused, plain, x = self.layers_and_inputs((6, 3, 3, 4))
        fused.trainable = False
        before = fused.get_weights()
        expected = plain(x, training=False)
        np.testing.assert_allclose(fused(x, training=True), expected, atol=2e-5)
        for actual, weight in zip(fused.get_weights(), before):
            np.testing.assert_array_equal(actual, weight)

    def test_renorm_uses_the_code_of_keras(self):
        fused, plain, x = self.layers_and_inputs((6, 3, 3, 4), renorm=True)
        assert not fused.fused
        np.testing.assert_allclose(fused(x, training=True), plain(x, training=True), atol=2e-5)

    def test_moving_statistics_are_averaged_over_replicas(self):
        fused, _, _ = self.layers_and_inputs((6, 4))
        assert {variable.aggregation for variable in fused.non_trainable_variables} == {"mean"}

    def test_second_derivative_equals_finite_differences(self):
        fused, _, x = self.layers_and_inputs((5, 2, 2, 3))
        direction = tf.random.stateless_normal(x.shape, [3, 4])

        def slope(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.math.softplus(fused(x, training=True)) ** 2)
            return tf.reduce_sum(tape.gradient(loss, x) * direction)

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = slope(x)
        exact = float(tf.reduce_sum(tape.gradient(value, x) * direction))
        step = 1e-2
        up = slope(x + step * direction)
        down = slope(x - step * direction)
        assert exact == pytest.approx(float((up - down) / (2 * step)), rel=.01)


def network_with_batch_norm():
    """A network with nested, frozen and shared batch normalization."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input([3, 3, 4]), keras.layers.BatchNormalization(),
                              keras.layers.ReLU()])
    frozen = keras.layers.BatchNormalization(name="frozen", momentum=.7, scale=False,
                                             trainable=False)
    shared = keras.layers.BatchNormalization(name="shared")
    images = keras.Input([3, 3, 4])
    x = keras.ops.add(shared(images), shared(frozen(inner(images))))
    logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    network = keras.Model(images, logits, name="mine")
    rng = np.random.default_rng(0)
    network.set_weights([rng.uniform(.5, 1.5, size=weight.shape)
                         for weight in network.get_weights()])
    return network


def batch_norm_layers(network):
    return [layer for layer in nested_layers(network)
            if isinstance(layer, keras.layers.BatchNormalization)]


class TestFuseBatchNorm:
    @pytest.mark.parametrize("training", [True, False])
    def test_converted_network_has_equal_outputs_and_a_copy_of_the_weights(self, training):
        network = network_with_batch_norm()
        fused = mlnt_tf.fuse_batch_norm(network)
        assert {type(layer) for layer in batch_norm_layers(fused)} == {
            mlnt_tf.FusedBatchNormalization}
        assert {type(layer) for layer in batch_norm_layers(network)} == {
            keras.layers.BatchNormalization}
        images = tf.random.stateless_normal([6, 3, 3, 4], [0, 1])
        np.testing.assert_allclose(fused(images, training=training),
                                   network(images, training=training), atol=2e-5)
        for copy, original in zip(fused.weights, network.weights):
            assert copy is not original and copy.path == original.path
            np.testing.assert_allclose(copy, original, atol=1e-5)
        assert [variable.path for variable in fused.trainable_variables] == [
            variable.path for variable in network.trainable_variables]
        frozen = fused.get_layer("frozen")
        assert frozen.momentum == .7 and not frozen.trainable

    def test_full_order_accepts_only_the_converted_network(self):
        with pytest.raises(ValueError, match="FusedBatchNormalization"):
            mlnt_tf.MLNT(network_with_batch_norm(), meta_order="full")
        mlnt_tf.MLNT(mlnt_tf.fuse_batch_norm(network_with_batch_norm()), meta_order="full")

    def test_keras_resnet50_is_converted_with_equal_outputs(self):
        resnet = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=14,
                                             classifier_activation=None)
        fused = mlnt_tf.fuse_batch_norm(resnet)
        layers = batch_norm_layers(fused)
        assert len(layers) == 53
        assert {type(layer) for layer in layers} == {mlnt_tf.FusedBatchNormalization}
        images = tf.random.stateless_normal([2, 32, 32, 3], [0, 1])
        np.testing.assert_allclose(fused(images), resnet(images), rtol=1e-4, atol=1e-4)

    def test_subclassed_network_is_refused(self):
        class Mine(keras.Model):
            def call(self, images):
                return images

        with pytest.raises(ValueError, match="Received: Mine"):
            mlnt_tf.fuse_batch_norm(Mine())
