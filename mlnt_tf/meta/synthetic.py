"""Synthetic label noise: labels transferred from near neighbors (paper section 3.2)."""

import tensorflow as tf


def transfer_count(batch, transfer_ratio):
    """rho: the number of examples of a batch that take a neighbor's label, rounded to nearest.

    Args:
      batch: int of Python or, for a size that is only known at run time, of TensorFlow.
      transfer_ratio: rho / batch, a float.
    """
    if tf.is_tensor(batch):  # In float64 and half to even, like Python.
        return tf.cast(tf.round(transfer_ratio * tf.cast(batch, tf.float64)), tf.int32)
    return int(round(transfer_ratio * batch))


def transfer_labels(labels, neighbor_labels, count, *, seed, step, m, replica=0, replicas=1):
    """Draws one synthetic label set: `count` examples take the label of one of their neighbors.

    The examples are drawn without replacement. The transferred labels are the given ones, so a
    transfer never chains. A neighbor can have the example's own label: `count` counts selections.

    The draw is a pure function of (seed, step, m). It ranks random integers, which are the same
    eagerly, in a graph and under XLA. Random floats are not.

    Args:
      labels: int32 [batch], the given labels.
      neighbor_labels: int32 [batch, neighbors], the given labels of each example's neighbors.
      count: rho of the global batch, an int of Python or TensorFlow.
      seed: a Python int.
      step, m: int scalars of Python or TensorFlow.
      replica, replicas: the examples are the replica-th of `replicas` equal parts of the global
        batch. The draw covers the global batch, so it does not depend on their number.

    Returns:
      int32 [batch].
    """
    batch = neighbor_labels.shape[0]
    if batch is None:
        batch = tf.shape(labels)[0]
    neighbors = neighbor_labels.shape[1]
    if neighbors is None:
        neighbors = tf.shape(neighbor_labels)[1]
    key = tf.stack([tf.cast(seed, tf.int32), tf.cast(step, tf.int32)])
    key = tf.random.experimental.stateless_fold_in(key, tf.cast(m, tf.int32), alg="philox")
    order, choice = tf.unstack(tf.random.stateless_uniform(
        [2, batch * replicas], key, minval=None, maxval=None, dtype=tf.int32, alg="philox"))
    ranks = tf.argsort(tf.argsort(order, stable=True), stable=True)
    if replicas > 1:
        start = replica * batch
        ranks = ranks[start:][:batch]
        choice = choice[start:][:batch]
    column = tf.math.floormod(choice, neighbors)
    transferred = tf.gather(neighbor_labels, column, axis=1, batch_dims=1)
    return tf.where(ranks < count, transferred, labels)


def expected_labels(labels, neighbor_labels, count, *, num_classes, replicas=1):
    """The mean of the label sets that `transfer_labels` draws, as soft labels.

    Y_bar = (1 - rho/k) Y + (rho/k) * (mean one-hot label of the neighbors). The gradient of cross
    entropy is linear in the labels. The gradient at Y_bar is therefore the expectation of the M
    inner gradients, and one inner step on Y_bar stands for M = infinity to first order in alpha.
    The paper has no such option.

    Args:
      labels: int32 [batch], the given labels.
      neighbor_labels: int32 [batch, neighbors], the given labels of each example's neighbors.
      count: rho of the global batch, an int of Python or TensorFlow.
      num_classes: int.
      replicas: the examples are one of this number of equal parts of the global batch.

    Returns:
      float32 [batch, classes], rows that sum to 1.
    """
    if tf.is_tensor(count):  # The batch size is only known at run time.
        transferred = tf.cast(count / tf.shape(labels)[0] / replicas, tf.float32)
    else:
        transferred = count / (labels.shape[0] * replicas)
    given = tf.one_hot(labels, num_classes)
    of_neighbors = tf.reduce_mean(tf.one_hot(neighbor_labels, num_classes), axis=1)
    return (1 - transferred) * given + transferred * of_neighbors
