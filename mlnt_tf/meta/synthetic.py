"""Synthetic label noise: labels handed over from a near neighbour (paper section 3.1)."""

import tensorflow as tf


def transfer_count(batch, transfer_ratio):
    """rho: how many of `batch` samples take a neighbour's label (nearest whole number)."""
    return int(round(transfer_ratio * batch))


def transfer_labels(labels, neighbor_labels, count, *, seed, step, m, replica=0, replicas=1):
    """One synthetic label set: `count` samples drawn without replacement take the label of one of their neighbours.

    The labels handed over are the given ones, so a transfer never chains, and it may hand over the class that was
    there: `count` counts selections. The draw is a pure function of (seed, step, m): integers, ranked, since those
    are the same under XLA, in a graph and eagerly, which floats are not.

    Args:
      labels: int32 [batch], the given labels.
      neighbor_labels: int32 [batch, neighbors], the given labels of each sample's nearest neighbours.
      count: rho, a Python int, of the global batch.
      seed: a Python int.
      step, m: int scalars, Python's or TensorFlow's.
      replica, replicas: these are the samples of the replica-th of so many equal parts of the global batch, which the
        draw is over, so that it does not hang on their number.

    Returns:
      int32 [batch].
    """
    batch, neighbors = neighbor_labels.shape[0] or tf.shape(labels)[0], neighbor_labels.shape[1]
    key = tf.stack([tf.cast(seed, tf.int32), tf.cast(step, tf.int32)])
    key = tf.random.experimental.stateless_fold_in(key, tf.cast(m, tf.int32), alg="philox")
    draws = tf.random.stateless_uniform([2, batch * replicas], key, minval=None, maxval=None, dtype=tf.int32,
                                        alg="philox")
    ranks = tf.argsort(tf.argsort(draws[0], stable=True), stable=True)
    if replicas > 1:
        ranks, draws = ranks[replica * batch:][:batch], draws[:, replica * batch:][:, :batch]
    chosen = tf.gather(neighbor_labels, tf.math.floormod(draws[1], neighbors), axis=1, batch_dims=1)
    return tf.where(ranks < count, chosen, labels)
