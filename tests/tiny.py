"""Networks small enough to solve by hand, and what else tests share."""

import socket

import keras
import numpy as np
import tensorflow as tf


class OneWeight(keras.layers.Layer):
    """Logits (0, theta) for every image: P(1) = sigmoid(theta)."""

    def build(self, shape):
        self.theta = self.add_weight(shape=(), initializer="zeros", name="theta")

    def call(self, images):
        ones = tf.ones([tf.shape(images)[0]])
        return tf.stack([0 * ones, self.theta * ones], axis=1)


def one_weight(theta):
    network = keras.Sequential([keras.Input([1]), OneWeight()])
    network.layers[-1].theta.assign(theta)
    return network


def dense(seed=0, *, classes=3, activation="softplus", layer=None):
    """Images [batch, 4] to logits; smooth, so that finite differences hold."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input([4]), keras.layers.Dense(5)] + ([layer] if layer is not None else [])
    return keras.Sequential([*layers, keras.layers.Activation(activation), keras.layers.Dense(classes)])


def batch(size=8, *, seed=0, classes=3, neighbors=3):
    draws = np.random.default_rng(seed)
    return {"id": tf.range(size, dtype=tf.int64),
            "image": tf.constant(draws.normal(size=[size, 4]), tf.float32),
            "label": tf.constant(draws.integers(classes, size=size), tf.int32),
            "neighbor_labels": tf.constant(draws.integers(classes, size=[size, neighbors]), tf.int32)}


def dataset(steps, **kwargs):
    """`steps` different batches, in order."""
    batches = [batch(seed=step, **kwargs) for step in range(steps)]
    stacked = {name: tf.stack([one[name] for one in batches]) for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


def weights(network):
    return [variable.numpy() for variable in network.trainable_variables]


def positioned(steps, **kwargs):
    """The same batches, with the row of each example."""
    def add(step, batch):
        count = len(batch["label"])
        return {**batch, "position": tf.cast(step, tf.int32) * count + tf.range(count)}

    return dataset(steps, **kwargs).enumerate().map(add)


def one_hot(dataset):
    """Its labels: float32 [n, 3]."""
    return np.eye(3, dtype=np.float32)[np.concatenate([batch["label"] for batch in dataset])]


def free_ports(count):
    """Ports of this host that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
