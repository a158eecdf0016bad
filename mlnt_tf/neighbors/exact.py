"""Nearest neighbors by comparing all pairs of rows."""

import numpy as np
import tensorflow as tf

from mlnt_tf.progress import Progress

# Rows of a memory-mapped file that are read at a time.
ROWS_AT_ONCE = 2**16
# Float32 distances in memory. With their copies they need less than 1 GB, whatever the data.
DISTANCES_AT_ONCE = 2**25


def slices(count, size=ROWS_AT_ONCE):
    """Returns slices of at most `size` rows that cover 0 … count - 1."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def exact_neighbors(features, rows, num_neighbors):
    """Finds the nearest other rows of some rows by exact search.

    Args:
      features: float32 [n, features].
      rows: int64 [q], the rows whose neighbors are needed.
      num_neighbors: int below n.

    Returns:
      int32 [q, num_neighbors], nearest first.
    """
    # In float32, a common offset of all features would cancel the differences between them.
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    nearest = np.zeros([len(rows), num_neighbors], np.int32)
    smallest = np.full([len(rows), num_neighbors], np.inf, np.float32)
    progress = Progress(len(features) * len(rows))
    for candidates in slices(len(features)):
        others = tf.constant(features[candidates] - mean)
        squares = tf.reduce_sum(others**2, axis=1)
        indices = np.arange(candidates.start, candidates.stop, dtype=np.int32)
        for block in slices(len(rows), max(DISTANCES_AT_ONCE // len(indices), 1)):
            queries = rows[block]
            # |a - b|^2 without |a|^2, which does not change the order.
            products = tf.matmul(features[queries] - mean, others, transpose_b=True)
            distances = _exclude_self(squares[None] - 2 * products, queries, candidates)
            top = tf.math.top_k(-distances, min(num_neighbors, len(indices)))
            merged = np.concatenate([smallest[block], -top.values], axis=1)
            merged_indices = np.concatenate([nearest[block], indices[top.indices]], axis=1)
            order = merged.argsort(axis=1, kind="stable")[:, :num_neighbors]
            smallest[block] = np.take_along_axis(merged, order, axis=1)
            nearest[block] = np.take_along_axis(merged_indices, order, axis=1)
            progress.add(len(queries) * len(indices))
            progress.log_if_due("neighbor search")
    return nearest


def _exclude_self(distances, queries, candidates):
    """Sets the distance of each query to itself to infinity.

    Args:
      distances: float32 [q, candidates].
      queries: int64 [q].
      candidates: slice, the rows of the columns.
    """
    is_candidate = (queries >= candidates.start) & (queries < candidates.stop)
    rows = np.flatnonzero(is_candidate)
    positions = np.stack([rows, queries[rows] - candidates.start], axis=1)
    return tf.tensor_scatter_nd_update(distances, positions, tf.fill([len(rows)], np.inf))
