"""Frozen layers and frozen batch normalization: which values a training changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import check
from mlnt_tf import train as train_command
from mlnt_tf.config import Config, UserError
from mlnt_tf.models.submodels import freeze_layers

import tiny

SHAPE = (8, 8, 1)


def small_cnn(freeze="none", **settings):
    network = mlnt_tf.build_network("cnn", width=2, input_shape=SHAPE, num_classes=3, seed=0)
    return freeze_layers(network, freeze, **settings)


def images(count=8):
    return tf.random.stateless_uniform([count, *SHAPE], [0, 1])


def values(network):
    """Returns {path without the network's name: array} of all variables."""
    return {variable.path: variable.numpy() for variable in network.variables}


def changed(before, after):
    """Returns the last parts of the paths of the variables that differ, as a set."""
    return {path.rpartition("/")[2] for path in before if (before[path] != after[path]).any()}


def train(network, *, steps=3, statistics="own", **settings):
    """Trains MLNT on random images and returns the model."""
    batch = tiny.batch(steps * 8)
    dataset = tf.data.Dataset.from_tensor_slices({**batch, "image": images(steps * 8)}).batch(
        8, drop_remainder=True)
    model = mlnt_tf.MLNT(network, **{"num_synthetic": 1, **settings})
    model.compile(learning_rate=.1, meta_rate=.1, weight_decay=1e-2)
    model.fit(dataset, verbose=0, shuffle=False,
              callbacks=[mlnt_tf.EmaTeacher(.5, statistics=statistics)])
    return model


def test_body_is_every_layer_but_the_last():
    network = small_cnn("body")
    assert [layer.trainable for layer in network.layers[-2:]] == [False, True]
    assert [variable.name for variable in network.trainable_variables] == ["kernel", "bias"]


def test_until_freezes_the_layers_up_to_the_named_one():
    network = small_cnn("until:stage2")
    names = [layer.name for layer in network.layers]
    expected = [position > names.index("stage2") for position in range(len(names))]
    assert [layer.trainable for layer in network.layers] == expected


def test_until_finds_a_layer_of_a_nested_network():
    inner = keras.Sequential([keras.Input([4]), keras.layers.Dense(4, name="first"),
                              keras.layers.Dense(4, name="second")])
    network = keras.Sequential([keras.Input([4]), inner, keras.layers.Dense(3)])
    freeze_layers(network, "until:first")
    assert [layer.trainable for layer in inner.layers] == [False, True]
    assert len(network.trainable_variables) == 4


@pytest.mark.parametrize("freeze, message", [
    ("until:stage9", "--freeze=until:stage9 .* no such layer.* stage3"),
    ("until:logits", "--freeze=until:logits leaves nothing to train")])
def test_unsuitable_layer_is_refused_in_one_line(freeze, message):
    with pytest.raises(UserError, match=message) as caught:
        small_cnn(freeze)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", [train_command, check])
def test_unknown_layer_is_refused_before_training(command, tmp_path, capsys):
    flags = ["--freeze=until:stage9", "--width=2", f"--output_dir={tmp_path / 'run'}"]
    assert command.main(["command", *flags]) == 2
    assert "--freeze=until:stage9" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_layer_that_keras_numbered_is_refused():
    name = small_cnn().layers[1].name
    assert name.startswith("conv2d")
    with pytest.raises(UserError, match="number differs between two networks"):
        network = small_cnn()
        freeze_layers(network, f"until:{network.layers[1].name}")


@pytest.mark.parametrize("statistics, settings", [
    ("own", dict(fast_weights="head")), ("averaged", dict(fast_weights="last_stage")),
    ("averaged", dict(num_synthetic=0)), ("own", dict(meta_order="full"))])
def test_frozen_body_is_bit_equal_after_training(statistics, settings):
    network = small_cnn("body")
    before = values(network)
    model = train(network, statistics=statistics, **settings)
    for trained in model.networks.values():
        after = dict(zip(before, values(trained).values()))
        difference = {path for path in before if (before[path] != after[path]).any()}
        assert {path.rpartition("/")[2] for path in difference} == {"kernel", "bias"}
        assert {path.split("/")[-2] for path in difference} == {"logits"}


@pytest.mark.parametrize("freeze, moved, statistics", [
    ("none", {"kernel", "bias", "gamma", "beta"}, "averaged"),
    ("until:stage3", {"kernel", "bias"}, "own")])
def test_frozen_batch_norm_keeps_its_statistics_and_trains_scale_and_offset(
        freeze, moved, statistics):
    network = small_cnn(freeze, batch_norm=True)
    before = values(network)
    model = train(network, statistics=statistics)
    for trained in model.networks.values():
        assert changed(before, dict(zip(before, values(trained).values()))) == moved


def test_without_freezing_the_statistics_change():
    network = small_cnn()
    before = values(network)
    train(network)
    assert {"moving_mean", "moving_variance"} <= changed(before, values(network))


def test_frozen_batch_norm_normalizes_alike_in_training_and_evaluation(tmp_path):
    network = small_cnn(batch_norm=True)
    np.testing.assert_array_equal(network(images(), training=True), network(images()))
    assert [np.abs(weight).sum() for weight in network.get_weights()] == [
        np.abs(weight).sum() for weight in small_cnn().get_weights()]
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images(), training=True), network(images()))


def test_second_derivative_through_frozen_batch_norm_equals_finite_differences():
    layer = mlnt_tf.FusedBatchNormalization(freeze_statistics=True)
    layer.build((None, 2, 2, 3))
    layer.set_weights([tf.constant(row) for row in ([.5, 2, 1], [.1, 0, -.2], [.3, -.1, 0.],
                                                    [2., 1, .5])])
    x = tf.random.stateless_normal([5, 2, 2, 3], [3, 4])

    def slope(scale):
        with tf.GradientTape() as tape:
            tape.watch(scale)
            loss = tf.reduce_sum(tf.math.softplus(layer(x * scale, training=True)) ** 2)
        return tape.gradient(loss, scale)

    scale = tf.constant(1.)
    with tf.GradientTape() as tape:
        tape.watch(scale)
        value = slope(scale)
    expected = (slope(scale + .01) - slope(scale - .01)) / .02
    assert float(tape.gradient(value, scale)) == pytest.approx(float(expected), rel=.01)


@pytest.mark.parametrize("settings, message", [
    (dict(freeze="head"), "--freeze=head is not known"),
    (dict(freeze="until:"), "--freeze=until: is not known"),
    (dict(freeze_batch_norm=True, sync_batch_norm=True), "--sync_batch_norm has no effect")])
def test_contradicting_flags_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)
