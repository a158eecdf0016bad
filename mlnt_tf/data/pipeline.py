"""tf.data: order, filter, normalize, augment, batch, neighbours.

Order and draws are pure functions of (seed, epoch, position), so that any step of any epoch can be had again. A position is
a row of the training split and of every array aligned with it.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from mlnt_tf.config import UserError

PADDING = 4  # pixels on each edge, before the random crop
CACHE_BELOW = 2**29  # bytes of evaluation images kept in memory, normalized


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """Scales to [0, 1] and subtracts `mean_image`, float32 [height, width, channels] (as Tanaka et al. 2018)."""

    mean_image: np.ndarray

    @classmethod
    def fit(cls, images):
        """The mean of uint8 images [n, height, width, channels]."""
        total = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in np.array_split(images, len(images) // 4096 + 1))
        return cls((total / len(images) / 255).astype(np.float32))

    def __call__(self, images):
        """Images [..., height, width, channels] in 0 to 255, of any type, to float32."""
        return tf.cast(images, tf.float32) / 255.0 - self.mean_image


def augment(image, key):
    """Pads a normalized image by 4 zeros, crops at random, flips with probability one half.

    Args:
      image: float32 [height, width, channels].
      key: int [2], the seed of the draws.

    Returns:
      as `image`.
    """
    draws = tf.random.stateless_uniform([3], key, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    top, left = (tf.math.floormod(draws[axis], 2 * PADDING + 1) for axis in range(2))
    padded = tf.pad(image, [[PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    height, width, channels = image.shape
    cropped = tf.slice(padded, [top, left, 0], [height, width, channels])
    return tf.where(tf.math.floormod(draws[2], 2) == 0, cropped, tf.reverse(cropped, axis=[1]))


def permutation(count, *, seed, epoch, repeat, stream=0):
    """0 ... count - 1 in an order that (seed, stream, epoch, repeat) alone decide: int64 [count]."""
    return tf.argsort(tf.random.stateless_uniform([count], key_of(seed, stream, epoch, repeat), minval=None,
                                                  maxval=None, dtype=tf.int32, alg="philox"), stable=True)


def key_of(seed, *parts):
    key = tf.constant([seed, 0], tf.int32)
    for part in parts:
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(part, tf.int32), alg="philox")
    return key


def batch_neighbor_labels(features, positions, labels, num_neighbors):
    """The labels of each sample's nearest others in the batch, by exact Euclidean distance (the paper's scope).

    Args:
      features: float32 [batch, d].
      positions: int [batch]; a sample is left out of its own neighbours by position, not by rank.
      labels: int32 [batch].
      num_neighbors: below the batch size.

    Returns:
      int32 [batch, num_neighbors], nearest first.
    """
    features = features - tf.reduce_mean(features, axis=0)  # far from the origin the squares would cancel to noise
    squares = tf.reduce_sum(features**2, axis=1)
    distances = squares[:, None] + squares[None] - 2 * tf.matmul(features, features, transpose_b=True)
    itself = positions[:, None] == positions[None]
    nearest = tf.math.top_k(-tf.where(itself, np.float32(np.inf), distances), num_neighbors).indices
    return tf.gather(labels, nearest)


def training_batches(split, given, normalizer, *, batch_size, steps_per_epoch, epochs, first_epoch=0, first_step=0,
                     seed, augmented, probability=None, threshold=None, neighbors=None, features=None,
                     num_neighbors=10, stream=0):
    """Batches of {"id", "image", "label", "true_label"} and, for the meta loss, "neighbor_labels".

    An epoch is steps_per_epoch batches from one permutation after another, as many as it takes.

    Args:
      split: the training examples.
      given: int32 [n], their labels.
      normalizer: uint8 images to the network's input.
      first_epoch, first_step: where to begin; epochs counts from 0 all the same.
      augmented: whether to crop and flip.
      probability, threshold: keep only positions whose probability float32 [n] lies strictly above the threshold.
      neighbors: int32 [n, num_neighbors], positions; or
      features: float32 [n, d], to search within each batch.
      stream: streams of one run draw apart.

    Returns:
      a data set of (epochs - first_epoch) * steps_per_epoch - first_step batches: id int64 [batch], image float32
      [batch, height, width, channels], label, true_label int32 [batch], neighbor_labels int32 [batch, num_neighbors].

    Raises:
      UserError: nothing lies above the threshold.
    """
    # Compared once: NumPy and TensorFlow round a float64 threshold differently, and a filter that keeps nothing
    # never ends.
    kept = None if probability is None else np.asarray(probability) > threshold
    if kept is not None and not kept.any():
        raise UserError(f"--tau={threshold} keeps none of the {len(split)} training examples: lower --tau.")
    images, labels, true_labels, ids = (tf.constant(array) for array in (split.images, given, split.labels, split.ids))

    def epoch_of(epoch):
        def one_pass(repeat):
            order = tf.data.Dataset.from_tensor_slices(
                permutation(len(split), seed=seed, epoch=epoch, repeat=repeat, stream=stream))
            return order.map(lambda position: (epoch, repeat, position))

        positions = tf.data.Dataset.range(2**31 - 1).flat_map(one_pass)
        if kept is not None:
            positions = positions.filter(lambda epoch, repeat, position: trusted[position])
        passed = tf.where(epoch == first_epoch, np.int64(first_step * batch_size), 0)
        return positions.take(steps_per_epoch * batch_size).skip(passed)

    def load(epoch, repeat, position):
        image = normalizer(images[position])
        if augmented:
            image = augment(image, key_of(seed, stream, epoch, repeat, position))
        return position, {"id": ids[position], "image": image, "label": labels[position],
                          "true_label": true_labels[position]}

    def add_neighbors(positions, batch):
        if neighbors is not None:
            batch["neighbor_labels"] = tf.gather(labels, tf.gather(neighbors, positions))
        elif features is not None:
            batch["neighbor_labels"] = batch_neighbor_labels(
                tf.gather(features, positions), positions, batch["label"], num_neighbors)
        return batch

    trusted = None if kept is None else tf.constant(kept)
    features = None if features is None else tf.constant(features)
    neighbors = None if neighbors is None else tf.constant(neighbors)
    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_of)
    batches = batches.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    batches = batches.map(add_neighbors, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.prefetch(4)
    if first_step:  # `fit` counts the batches passed over too, and would end early if it knew how many come
        return batches
    return batches.apply(tf.data.experimental.assert_cardinality((epochs - first_epoch) * steps_per_epoch))


def two_streams(meta, classification):
    """{"meta": batch, "classification": batch}: the two updates of a step see data of their own (section 3.3)."""
    return tf.data.Dataset.zip({"meta": meta, "classification": classification})


def evaluation_batches(split, labels, normalizer, *, batch_size, multiple=1):
    """Every example once, in order, un-augmented: batches of {"id", "image", "label"}, the last one smaller.

    It is filled up to a multiple of `multiple`, for replicas to share, with black images of id and label -1.
    """
    def fill_up(batch):
        missing = tf.math.floormod(-tf.shape(batch["label"])[0], multiple)
        return {name: tf.pad(value, [[0, missing]] + [[0, 0]] * (len(value.shape) - 1),
                             constant_values=tf.cast(0 if name == "image" else -1, value.dtype))
                for name, value in batch.items()}

    batches = tf.data.Dataset.from_tensor_slices({"id": split.ids, "image": split.images, "label": labels})
    batches = batches.batch(batch_size).map(lambda batch: {**batch, "image": normalizer(batch["image"])},
                                            num_parallel_calls=tf.data.AUTOTUNE)
    if multiple > 1:
        batches = batches.map(fill_up, num_parallel_calls=tf.data.AUTOTUNE)
    return (batches.cache() if 4 * split.images.size < CACHE_BELOW else batches).prefetch(2)
