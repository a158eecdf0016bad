"""tf.data: order, filter, preprocess, augment, batch, neighbours.

Order and draws are pure functions of (seed, epoch, position), so that any step of any epoch can be had again. A position is
a row of the training split and of every array aligned with it.
"""

import numpy as np
import tensorflow as tf

from mlnt_tf.data.images.storage import without_autotuner
from mlnt_tf.data.targets import Targets

CACHE_BELOW = 2**29  # bytes of evaluation images kept in memory, normalized


def fold_key(seed, *parts):
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


def training_batches(split, preprocess, *, batch_size, steps_per_epoch, epochs, first_epoch=0, first_step=0, seed,
                     augmented, targets=None, neighbors=None, features=None, num_neighbors=10, stream=0, worker=(0, 1)):
    """Batches of {"id", "position", "image", "label"}, "probabilities" and "weight" where the targets have them, for
    the meta loss "neighbor_labels", and "true_label" where all are known.

    An epoch is steps_per_epoch batches from one pass after another, as many as it takes.

    Args:
      split: the training examples.
      preprocess: a `Preprocess`.
      first_epoch, first_step: where to begin; epochs counts from 0 all the same.
      augmented: whether to crop and flip.
      targets: a `Targets`; None means the given labels of the split, every example. What it does not select is
        filtered out before its image is read.
      neighbors: int32 [n, num_neighbors], positions; or
      features: float32 [n, d], to search within each batch.
      stream: streams of one run draw apart.
      worker: (index, of how many), of which each decodes its own slice of every batch; the batch size is the global one.

    Returns:
      a data set of (epochs - first_epoch) * steps_per_epoch - first_step batches: id int64 [batch], image float32
      [batch, height, width, channels], position, label, true_label int32 [batch], probabilities float32 [batch,
      classes], weight float32 [batch], neighbor_labels int32 [batch, num_neighbors].

    Raises:
      ValueError: the workers do not divide the batch, or features are to be searched within a part of one.
    """
    index, workers = worker
    if batch_size % workers or (workers > 1 and features is not None):
        raise ValueError("workers must divide the batch size, and take neighbors, not features. Received: "
                         f"{workers} workers, batch_size={batch_size}")
    targets = targets or Targets.given(split)
    columns = {"id": split.ids, **targets.columns()}
    if (split.true_labels >= 0).all():
        columns["true_label"] = split.true_labels
    columns = {name: tf.constant(column) for name, column in columns.items()}
    selected = None if targets.selected is None else tf.constant(targets.selected)
    neighbors = None if neighbors is None else tf.constant(neighbors)
    features_of = None if features is None else row_reader(features)

    def epoch_of(epoch):
        def one_pass(repeat):
            examples = split.images.one_pass(fold_key(seed, stream, epoch, repeat), selected)
            return examples.map(lambda position, handle: (epoch, repeat, position, handle))

        examples = tf.data.Dataset.range(2**31 - 1).flat_map(one_pass).take(steps_per_epoch * batch_size)
        examples = examples.skip(tf.where(epoch == first_epoch, np.int64(first_step * batch_size), 0))
        if workers == 1:
            return examples
        mine = examples.enumerate().filter(lambda count, _: count % batch_size // (batch_size // workers) == index)
        return mine.map(lambda _, example: example)

    def load(epoch, repeat, position, handle):
        image = split.images.pixels(handle)
        image = (preprocess.augmented(image, fold_key(seed, stream, epoch, repeat, position)) if augmented
                 else preprocess(image))
        return position, {"position": tf.cast(position, tf.int32), "image": image,
                          **{name: column[position] for name, column in columns.items()}}

    def add_neighbors(positions, batch):
        if neighbors is not None:
            batch["neighbor_labels"] = tf.gather(columns["label"], tf.gather(neighbors, positions))
        elif features_of is not None:
            batch["neighbor_labels"] = batch_neighbor_labels(
                features_of(positions), positions, batch["label"], num_neighbors)
        return batch

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(epoch_of)
    batches = batches.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(
        batch_size // workers, drop_remainder=True)
    batches = batches.map(add_neighbors, num_parallel_calls=tf.data.AUTOTUNE)
    batches = without_autotuner(batches.prefetch(4))
    if first_step:  # `fit` counts the batches passed over too, and would end early if it knew how many come
        return batches
    return batches.apply(tf.data.experimental.assert_cardinality((epochs - first_epoch) * steps_per_epoch))


def row_reader(array):
    """A function of positions int32 [batch] to those rows of float32 [n, d]: from memory or, of a memory map, from disk."""
    if not isinstance(array, np.memmap):
        table = tf.constant(array)
        return lambda positions: tf.gather(table, positions)

    def read(positions):  # Python once a batch
        rows = tf.numpy_function(lambda positions: np.asarray(array[positions]), [positions], tf.float32)
        return tf.ensure_shape(rows, [positions.shape[0], array.shape[1]])

    return read


def two_streams(meta, classification):
    """{"meta": batch, "classification": batch}: the two updates of a step see data of their own (section 3.3)."""
    return tf.data.Dataset.zip({"meta": meta, "classification": classification})


def evaluation_batches(split, preprocess, *, batch_size, multiple=1):
    """Every example once, in order, un-augmented: batches of {"id", "image", "label"}, the last one smaller.

    It is filled up to a multiple of `multiple`, for replicas to share, with black images of id and label -1.
    """
    def fill_up(batch):
        missing = tf.math.floormod(-tf.shape(batch["label"])[0], multiple)
        return {name: tf.pad(value, [[0, missing]] + [[0, 0]] * (len(value.shape) - 1),
                             constant_values=tf.cast(0 if name == "image" else -1, value.dtype))
                for name, value in batch.items()}

    ids, labels = tf.constant(split.ids), tf.constant(split.labels)

    def load(position, handle):
        return {"id": ids[position], "image": preprocess(split.images.pixels(handle)), "label": labels[position]}

    batches = split.images.in_order().map(load, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.batch(batch_size).apply(tf.data.experimental.assert_cardinality(-(-len(split) // batch_size)))
    if multiple > 1:
        batches = batches.map(fill_up, num_parallel_calls=tf.data.AUTOTUNE)
    cached = 4 * len(split) * np.prod(preprocess.shape) < CACHE_BELOW
    return without_autotuner((batches.cache() if cached else batches).prefetch(2))
