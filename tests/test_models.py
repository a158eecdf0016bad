import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.config import MODELS, UserError
from mlnt_tf.models import build


def network(name="cnn", *, width=4, shape=(8, 8, 1), seed=0):
    return mlnt_tf.build_network(name, width=width, input_shape=shape, num_classes=10, seed=seed)


def test_preact_resnet32_has_the_papers_parameters():
    resnet = network("preact_resnet32", width=32, shape=(32, 32, 3))
    assert sum(int(np.prod(variable.shape)) for variable in resnet.trainable_variables) == 1_861_162


@pytest.mark.parametrize("name", MODELS)
def test_every_name_builds_a_network_that_gives_logits(name):
    assert network(name)(tf.zeros([2, 8, 8, 1])).shape == (2, 10)


def test_registry_and_config_name_the_same_networks():
    assert tuple(build.BUILDERS) == MODELS


def test_an_unknown_network_is_refused_with_the_choices():
    with pytest.raises(UserError, match="--model=vgg .*preact_resnet32"):
        network("vgg")


def test_the_same_seed_gives_the_same_weights():
    one, same, other = network(), network(), network(seed=1)
    np.testing.assert_array_equal(one.get_weights()[0], same.get_weights()[0])
    assert abs(one.get_weights()[0] - other.get_weights()[0]).max() > 0


def test_features_are_what_the_logits_are_made_of():
    cnn, images = network(), tf.random.stateless_normal([3, 8, 8, 1], [0, 1])
    features = mlnt_tf.feature_extractor(cnn)(images)
    kernel, bias = cnn.get_layer("logits").get_weights()
    np.testing.assert_allclose(features @ kernel + bias, cnn(images), atol=1e-5)
    np.testing.assert_array_equal(mlnt_tf.feature_extractor(cnn, "logits")(images), cnn(images))


def test_features_are_float32_in_bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        cnn = network()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert mlnt_tf.feature_extractor(cnn).output.dtype == "float32"
    assert cnn.output.dtype == "float32"


@pytest.mark.parametrize("last", [keras.layers.Softmax(), keras.layers.Dense(3, activation="softmax")])
def test_features_of_a_network_that_ends_in_probabilities_are_refused(last):
    with pytest.raises(ValueError, match="last layer gives the logits"):
        mlnt_tf.feature_extractor(keras.Sequential([keras.Input([4]), keras.layers.Dense(3), last]))


def test_features_of_a_network_that_is_not_built_are_refused():
    with pytest.raises(ValueError, match="built"):
        mlnt_tf.feature_extractor(keras.Sequential([keras.layers.Dense(3)]))


class TestFusedBatchNormalization:
    """Against `keras.layers.BatchNormalization` with the same weights."""

    def pair(self, shape, **kwargs):
        layers = [kind(momentum=.8, **kwargs) for kind in
                  (mlnt_tf.FusedBatchNormalization, keras.layers.BatchNormalization)]
        draws = np.random.default_rng(0)
        for layer in layers:
            layer.build((None, *shape[1:]))
        weights = [draws.uniform(.5, 1.5, size=weight.shape) for weight in layers[0].get_weights()]
        for layer in layers:
            layer.set_weights(weights)
        return *layers, tf.constant(draws.normal(2, 3, size=shape), tf.float32)

    @pytest.mark.parametrize("shape", [(6, 3, 3, 4), (6, 4), (1, 1, 1, 4)])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("jit_compile", [True, False])
    def test_same_numbers(self, shape, training, jit_compile):
        mine, theirs, x = self.pair(shape)
        run = tf.function(lambda x: mine(x, training=training), jit_compile=jit_compile)
        np.testing.assert_allclose(run(x), theirs(x, training=training), atol=2e-5)
        for one, other in zip(mine.get_weights(), theirs.get_weights()):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    def test_bfloat16(self):
        mine, theirs, x = self.pair((16, 3, 3, 4), dtype="mixed_bfloat16")
        outputs = mine(x, training=True)
        assert outputs.dtype == tf.bfloat16
        np.testing.assert_allclose(tf.cast(outputs, tf.float32), tf.cast(theirs(x, training=True), tf.float32),
                                   atol=.03)
        np.testing.assert_allclose(mine.moving_variance, theirs.moving_variance, rtol=.01)

    def test_frozen_it_uses_moving_statistics(self):
        mine, theirs, x = self.pair((6, 3, 3, 4))
        mine.trainable = theirs.trainable = False
        np.testing.assert_allclose(mine(x, training=True), theirs(x, training=True), atol=2e-5)

    def test_renorm_takes_the_code_of_keras(self):
        mine, theirs, x = self.pair((6, 3, 3, 4), renorm=True)
        np.testing.assert_allclose(mine(x, training=True), theirs(x, training=True), atol=2e-5)

    def test_moving_statistics_are_averaged_over_replicas(self):
        mine, _, _ = self.pair((6, 4))
        assert {variable.aggregation for variable in mine.non_trainable_variables} == {"mean"}

    def test_second_derivative_against_finite_differences(self):
        mine, _, x = self.pair((5, 2, 2, 3))
        direction = tf.random.stateless_normal(x.shape, [3, 4])

        def slope(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(tf.math.softplus(mine(x, training=True)) ** 2)
            return tf.reduce_sum(tape.gradient(loss, x) * direction)

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = slope(x)
        exact = float(tf.reduce_sum(tape.gradient(value, x) * direction))
        step = 1e-2
        assert exact == pytest.approx(float((slope(x + step * direction) - slope(x - step * direction)) / (2 * step)),
                                      rel=.01)


def with_batch_norm():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input([3, 3, 4]), keras.layers.BatchNormalization(), keras.layers.ReLU()])
    frozen = keras.layers.BatchNormalization(name="frozen", momentum=.7, scale=False, trainable=False)
    shared = keras.layers.BatchNormalization(name="shared")
    images = keras.Input([3, 3, 4])
    x = keras.ops.add(shared(images), shared(frozen(inner(images))))
    network = keras.Model(images, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)), name="mine")
    draws = np.random.default_rng(0)
    network.set_weights([draws.uniform(.5, 1.5, size=weight.shape) for weight in network.get_weights()])
    return network


class TestFuseBatchNorm:
    def normalizers(self, network):
        return [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]

    @pytest.mark.parametrize("training", [True, False])
    def test_same_numbers_and_own_weights(self, training):
        network = with_batch_norm()
        fused = mlnt_tf.fuse_batch_norm(network)
        assert {type(layer) for layer in self.normalizers(fused)} == {mlnt_tf.FusedBatchNormalization}
        assert {type(layer) for layer in self.normalizers(network)} == {keras.layers.BatchNormalization}
        images = tf.random.stateless_normal([6, 3, 3, 4], [0, 1])
        np.testing.assert_allclose(fused(images, training=training), network(images, training=training), atol=2e-5)
        for mine, theirs in zip(fused.weights, network.weights):
            assert mine is not theirs and mine.path == theirs.path
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
        assert [v.path for v in fused.trainable_variables] == [v.path for v in network.trainable_variables]
        assert fused.get_layer("frozen").momentum == .7 and not fused.get_layer("frozen").trainable

    def test_full_order_takes_the_converted_network(self):
        with pytest.raises(ValueError, match="FusedBatchNormalization"):
            mlnt_tf.MLNT(with_batch_norm(), meta_order="full")
        mlnt_tf.MLNT(mlnt_tf.fuse_batch_norm(with_batch_norm()), meta_order="full")

    def test_imagenet_resnet50(self):
        resnet = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=14,
                                             classifier_activation=None)
        fused = mlnt_tf.fuse_batch_norm(resnet)
        assert len(self.normalizers(fused)) == 53
        assert {type(layer) for layer in self.normalizers(fused)} == {mlnt_tf.FusedBatchNormalization}
        images = tf.random.stateless_normal([2, 32, 32, 3], [0, 1])
        np.testing.assert_allclose(fused(images), resnet(images), rtol=1e-4, atol=1e-4)

    def test_a_subclassed_network_is_refused(self):
        class Mine(keras.Model):
            def call(self, images):
                return images

        with pytest.raises(ValueError, match="Received: Mine"):
            mlnt_tf.fuse_batch_norm(Mine())
