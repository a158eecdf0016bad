"""Adds the labels of precomputed neighbors to a data set of single examples."""

import numpy as np
import tensorflow as tf


def with_neighbors(examples: tf.data.Dataset, labels: np.ndarray, table) -> tf.data.Dataset:
    """Adds to each example the given labels of its neighbors in the complete data set.

    Call it before `shuffle` and `batch`: the i-th example gets the i-th row of the table. Source:
    section 3.2 of the paper, with neighbors of the complete set in place of those of the batch.

    Args:
      examples: tf.data.Dataset of single examples in the order of `labels`: (image, label), image
        alone, or a dict with "image".
      labels: int [n], the given labels.
      table: the `NeighborTable` of `mlnt_tf.find_neighbors`, or int [n, num_neighbors].

    Returns:
      tf.data.Dataset of dicts: "image", "label" int32 [], "neighbor_labels" int32 [num_neighbors],
      and the further columns of a dict.

    Raises:
      ValueError: the table and the labels do not fit each other.
      tf.errors.InvalidArgumentError: while iterating, the examples are not in the order of labels.

    Example:

    ```python
    features, labels = np.random.rand(20, 4).astype("float32"), np.arange(20) % 3
    table = mlnt_tf.find_neighbors(features, num_neighbors=2, backend="exact")
    examples = tf.data.Dataset.from_tensor_slices((features, labels))
    batches = mlnt_tf.with_neighbors(examples, labels, table).shuffle(20).batch(10)
    ```
    """
    labels = np.asarray(labels)
    given = tf.constant(labels, tf.int32)
    neighbor_labels = tf.constant(labels_of_neighbors(labels, table))

    def add(index, example):
        parts = example if isinstance(example, tuple) else (example,)
        columns = dict(parts[0]) if isinstance(parts[0], dict) else {"image": parts[0]}
        label = columns.get("label", parts[1] if len(parts) > 1 else None)
        if len(parts) > 2:
            columns["weight"] = parts[2]
        if label is not None:
            tf.debugging.assert_equal(
                tf.cast(label, tf.int32), given[index],
                "The examples of with_neighbors must be in the order of labels.")
        return {**columns, "label": given[index], "neighbor_labels": neighbor_labels[index]}

    return examples.enumerate().map(add, num_parallel_calls=tf.data.AUTOTUNE)


def labels_of_neighbors(labels, table):
    """Returns the given labels of each example's neighbors, int32 [n, num_neighbors].

    Args:
      labels: int [n].
      table: `NeighborTable`, or int [n, num_neighbors].

    Raises:
      ValueError: the table and the labels do not fit each other.
    """
    indices = np.asarray(getattr(table, "indices", table))
    is_table = indices.ndim == 2 and indices.dtype.kind in "iu" and indices.size
    if not is_table or labels.shape != indices.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError("neighbors must be the result of mlnt_tf.find_neighbors for the examples "
                         f"of these labels. Received: neighbors of shape {indices.shape}, labels "
                         f"of shape {labels.shape}, dtype {labels.dtype}")
    if indices.min() < 0 or indices.max() >= len(labels):
        raise ValueError(f"neighbors must lie in 0 to {len(labels) - 1}. "
                         f"Received: {indices.min()} to {indices.max()}")
    return labels.astype(np.int32)[indices]
