"""The tf.data input pipeline: order, selection, preprocessing, augmentation, batches, neighbors.

Order and augmentation are pure functions of the seed, the epoch and the position, so a resumed run
can start at any step of any epoch. A position is a row of the training split, and of every array
that has one row per training example.
"""

import numpy as np
import tensorflow as tf

from mlnt_tf.data.images.storage import without_autotuner
from mlnt_tf.data.targets import Targets

# Bytes of preprocessed evaluation images. A smaller data set is kept in memory.
CACHE_BELOW = 2**29


def fold_key(seed, *parts):
    """Returns a key for stateless random numbers, int32 [2], from a seed and further integers."""
    key = tf.constant([seed, 0], tf.int32)
    for part in parts:
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(part, tf.int32), alg="philox")
    return key


def batch_neighbor_labels(features, positions, labels, num_neighbors):
    """Returns the labels of each example's nearest neighbors in the batch, the paper's scope.

    The search is exact, by Euclidean distance.

    Args:
      features: float32 [batch, features].
      positions: int [batch]. Rows with equal positions are the same example and not neighbors.
        Equal images at different positions are neighbors.
      labels: int32 [batch].
      num_neighbors: int, less than the batch size.

    Returns:
      int32 [batch, num_neighbors], nearest first.
    """
    # Far from the origin, the rounding error of the squares would exceed the distances.
    features = features - tf.reduce_mean(features, axis=0)
    squares = tf.reduce_sum(features**2, axis=1)
    products = tf.matmul(features, features, transpose_b=True)
    distances = squares[:, None] + squares[None] - 2 * products
    is_self = positions[:, None] == positions[None]
    distances = tf.where(is_self, np.float32(np.inf), distances)
    nearest = tf.math.top_k(-distances, num_neighbors).indices
    return tf.gather(labels, nearest)


def training_batches(split, preprocess, *, batch_size, steps_per_epoch, epochs, first_epoch=0,
                     first_step=0, seed, augmented, targets=None, neighbors=None, features=None,
                     num_neighbors=10, mixup=None, stream=0, worker=(0, 1)):
    """Returns the training batches of all epochs as one data set.

    An epoch is `steps_per_epoch` batches. It passes over the data as often as needed, each time in
    a new order.

    Args:
      split: `Split`, the training examples.
      preprocess: `Preprocess`.
      batch_size: int, the global batch size.
      steps_per_epoch: int.
      epochs: int, the epoch at which to end (exclusive).
      first_epoch, first_step: int, where to start. Epochs are counted from 0.
      seed: int.
      augmented: bool, whether to crop and flip the images at random.
      targets: `Targets`. None means every example with its given label. Examples that are not
        selected are left out before their images are read.
      neighbors: int32 [n, num_neighbors], the positions of each example's neighbors, or None.
      features: float32 [n, features], to search the neighbors within each batch, or None.
      num_neighbors: int, for the search within each batch.
      mixup: `Mixup`, or None for unmixed images. The labels are then soft.
      stream: int. Two streams of one run have different orders and augmentation.
      worker: (index, number of workers). A worker receives its own slice of every batch and decodes
        only the images of this slice.

    Returns:
      tf.data.Dataset of (epochs - first_epoch) * steps_per_epoch - first_step batches. A batch is a
      dict of

        id               int64 [batch]
        position         int32 [batch]
        image            float32 [batch, height, width, channels]
        label            int32 [batch]
        true_label       int32 [batch], if all true labels are known
        probabilities    float32 [batch, classes], if the targets have them, or with mixup
        weight           float32 [batch], if the targets have them
        neighbor_labels  int32 [batch, num_neighbors], with `neighbors` or `features`

    Raises:
      ValueError: the batch size is not divisible by the number of workers, or several workers
        would each search neighbors within a part of the batch.
    """
    worker_index, num_workers = worker
    if batch_size % num_workers:
        raise ValueError(f"batch_size={batch_size} must be divisible by the {num_workers} workers.")
    if num_workers > 1 and features is not None:
        raise ValueError("features cannot be searched within a worker's slice. Pass neighbors, or "
                         f"worker=(0, 1). Received: worker={worker}")
    targets = targets or Targets.given(split)
    columns = _columns_of_all_examples(split, targets)
    selected = None if targets.selected is None else tf.constant(targets.selected)
    add_neighbors = _neighbor_lookup(columns["label"], neighbors, features, num_neighbors)

    def examples_of_epoch(epoch):
        def examples_of_pass(repeat):
            examples = split.images.shuffled(fold_key(seed, stream, epoch, repeat), selected)
            # `pixels` loads the image of a handle.
            return examples.map(lambda position, handle: (epoch, repeat, position, handle))

        # Endless passes, each with its own key.
        examples = tf.data.Dataset.range(2**31 - 1).flat_map(examples_of_pass)
        examples = examples.take(steps_per_epoch * batch_size)
        skipped = tf.where(epoch == first_epoch, np.int64(first_step * batch_size), 0)
        examples = examples.skip(skipped)
        if num_workers == 1:
            return examples
        return _slice_of_worker(examples, worker_index, batch_size, batch_size // num_workers)

    def load(epoch, repeat, position, handle):
        image = split.images.pixels(handle)
        if augmented:
            image = preprocess.augment(image, fold_key(seed, stream, epoch, repeat, position))
        else:
            image = preprocess(image)
        example = {name: column[position] for name, column in columns.items()}
        example["position"] = tf.cast(position, tf.int32)
        example["image"] = image
        if mixup:
            example["mixup_weight"] = mixup.draw(fold_key(seed, stream, epoch, repeat, position))
        return position, example

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(examples_of_epoch)
    batches = batches.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.batch(batch_size // num_workers, drop_remainder=True)
    batches = batches.map(add_neighbors, num_parallel_calls=tf.data.AUTOTUNE)
    if mixup:
        batches = batches.map(mixup.mix_pairs, num_parallel_calls=tf.data.AUTOTUNE)
    batches = without_autotuner(batches.prefetch(4))
    if first_step:
        # `fit` also counts the skipped batches. With a known cardinality it would end too early.
        return batches
    cardinality = (epochs - first_epoch) * steps_per_epoch
    return batches.apply(tf.data.experimental.assert_cardinality(cardinality))


def _columns_of_all_examples(split, targets):
    """Returns the columns that every batch contains, as constants with one row per example."""
    columns = {"id": split.ids, **targets.columns()}
    if (split.true_labels >= 0).all():
        columns["true_label"] = split.true_labels
    return {name: tf.constant(column) for name, column in columns.items()}


def _slice_of_worker(examples, worker_index, batch_size, slice_size):
    """Returns the examples that are in one worker's slice of each global batch."""
    numbered = examples.enumerate()
    own = numbered.filter(lambda number, _: number % batch_size // slice_size == worker_index)
    return own.map(lambda _, example: example)


def _neighbor_lookup(labels, neighbors, features, num_neighbors):
    """Returns a function of positions [batch] and a batch that adds "neighbor_labels" to it.

    The function returns the batch unchanged if there are neither neighbors nor features.
    """
    if neighbors is not None:
        neighbors = tf.constant(neighbors)

        def gather(positions, batch):
            neighbor_labels = tf.gather(labels, tf.gather(neighbors, positions))
            return {**batch, "neighbor_labels": neighbor_labels}

        return gather
    if features is not None:
        read_rows = _row_reader(features)

        def search(positions, batch):
            neighbor_labels = batch_neighbor_labels(
                read_rows(positions), positions, batch["label"], num_neighbors)
            return {**batch, "neighbor_labels": neighbor_labels}

        return search
    return lambda positions, batch: batch


def _row_reader(array):
    """Returns a function of positions int32 [batch] to these rows of a float32 array [n, features].

    The rows come from memory or, if the array is a memory map, from disk.
    """
    if not isinstance(array, np.memmap):
        table = tf.constant(array)
        return lambda positions: tf.gather(table, positions)

    def read_rows(positions):
        # Unlike the rest of the pipeline, this runs Python code, once per batch.
        rows = tf.numpy_function(
            lambda positions: np.asarray(array[positions]), [positions], tf.float32)
        return tf.ensure_shape(rows, [positions.shape[0], array.shape[1]])

    return read_rows


def two_streams(meta, classification):
    """Zips the data sets of the two updates of a step, which use separate batches (section 3.3).

    Args:
      meta, classification: tf.data.Dataset, see `training_batches`.

    Returns:
      tf.data.Dataset of {"meta": batch, "classification": batch}.
    """
    return tf.data.Dataset.zip({"meta": meta, "classification": classification})


def evaluation_batches(split, preprocess, *, batch_size, multiple=1):
    """Returns every example once, in order and without augmentation.

    Args:
      split: `Split`.
      preprocess: `Preprocess`.
      batch_size: int.
      multiple: int. The last batch is padded to a multiple of this number, so that replicas can
        share it. Padding has black images, and -1 as id and label.

    Returns:
      tf.data.Dataset of dicts: "id" int64 [batch], "image" float32 [batch, height, width,
      channels], "label" int32 [batch]. The last batch may be smaller.
    """
    ids, labels = tf.constant(split.ids), tf.constant(split.labels)

    def load(position, handle):
        image = preprocess(split.images.pixels(handle))
        return {"id": ids[position], "image": image, "label": labels[position]}

    examples = split.images.in_order().map(load, num_parallel_calls=tf.data.AUTOTUNE)
    num_batches = -(-len(split) // batch_size)
    batches = examples.batch(batch_size).apply(
        tf.data.experimental.assert_cardinality(num_batches))
    if multiple > 1:
        batches = batches.map(
            lambda batch: _pad_batch(batch, multiple), num_parallel_calls=tf.data.AUTOTUNE)
    image_bytes = 4 * len(split) * np.prod(preprocess.shape)
    if image_bytes < CACHE_BELOW:
        batches = batches.cache()
    return without_autotuner(batches.prefetch(2))


def _pad_batch(batch, multiple):
    """Pads the columns of a batch to a multiple of a number: images with 0, the others with -1."""
    missing = tf.math.floormod(-tf.shape(batch["label"])[0], multiple)
    padded = {}
    for name, column in batch.items():
        paddings = [[0, missing]] + [[0, 0]] * (len(column.shape) - 1)
        value = tf.cast(0 if name == "image" else -1, column.dtype)
        padded[name] = tf.pad(column, paddings, constant_values=value)
    return padded
