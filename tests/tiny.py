"""Networks small enough to compute by hand, and data that several tests share."""

import socket

import keras
import numpy as np
import tensorflow as tf


class OneWeight(keras.layers.Layer):
    """Logits (0, theta) for every image, so p(class 1) = sigmoid(theta)."""

    def build(self, shape):
        self.theta = self.add_weight(shape=(), initializer="zeros", name="theta")

    def call(self, images):
        ones = tf.ones([tf.shape(images)[0]])
        return tf.stack([0 * ones, self.theta * ones], axis=1)


def one_weight(theta):
    """Returns a network with the single weight `theta`."""
    network = keras.Sequential([keras.Input([1]), OneWeight()])
    network.layers[-1].theta.assign(theta)
    return network


def dense(seed=0, *, classes=3, activation="softplus", layer=None):
    """Returns a network that maps images [batch, 4] to logits [batch, classes].

    The default activation is smooth, so finite differences are accurate.

    Args:
      layer: Keras layer to insert after the first dense layer, or None.
    """
    keras.utils.set_random_seed(seed)
    layers = [keras.Input([4]), keras.layers.Dense(5)]
    if layer is not None:
        layers.append(layer)
    layers += [keras.layers.Activation(activation), keras.layers.Dense(classes)]
    return keras.Sequential(layers)


def batch(size=8, *, seed=0, classes=3, neighbors=3):
    """Returns a random batch for `dense` networks: a dict of tensors."""
    rng = np.random.default_rng(seed)
    return {"id": tf.range(size, dtype=tf.int64),
            "image": tf.constant(rng.normal(size=[size, 4]), tf.float32),
            "label": tf.constant(rng.integers(classes, size=size), tf.int32),
            "neighbor_labels": tf.constant(rng.integers(classes, size=[size, neighbors]),
                                           tf.int32)}


def dataset(steps, **kwargs):
    """Returns a data set of `steps` different batches. Step i is `batch(seed=i, **kwargs)`."""
    batches = [batch(seed=step, **kwargs) for step in range(steps)]
    stacked = {name: tf.stack([one[name] for one in batches]) for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


def weights(network):
    """Returns the trainable weights of a network: list of arrays."""
    return [variable.numpy() for variable in network.trainable_variables]


def assert_equal_weights(network, other, *, atol=0.0):
    """Asserts that the trainable weights of two networks differ by at most `atol`."""
    for actual, expected in zip(weights(network), weights(other), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def positioned(steps, **kwargs):
    """Returns `dataset` with the column "position", the row of each example."""
    def add_position(step, batch):
        size = len(batch["label"])
        return {**batch, "position": tf.cast(step, tf.int32) * size + tf.range(size)}

    return dataset(steps, **kwargs).enumerate().map(add_position)


def one_hot(dataset):
    """Returns the labels of a data set: float32 [n, 3]."""
    labels = np.concatenate([batch["label"] for batch in dataset])
    return np.eye(3, dtype=np.float32)[labels]


def free_ports(count):
    """Returns ports of this host on which no process listens: list of int."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
