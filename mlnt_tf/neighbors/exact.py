"""Nearest neighbors by comparing all points."""

import numpy as np
import tensorflow as tf

from mlnt_tf.progress import Progress

POINTS_AT_ONCE = 2**16  # rows of the features in memory beside the index; what is mapped from a file is not read whole
DISTANCES_AT_ONCE = 2**25  # float32, some copies of them: below 1 GB however many points


def slices(count, size=POINTS_AT_ONCE):
    """Slices that cover 0 ... count - 1."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def exact_neighbors(features, rows, num_neighbors):
    """The nearest other rows of `rows` int64 [q], by full comparison: int32 [q, num_neighbors]."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)  # a common offset would drown the differences
    nearest = np.zeros([len(rows), num_neighbors], np.int32)
    smallest = np.full([len(rows), num_neighbors], np.inf, np.float32)
    progress = Progress(len(features) * len(rows))
    for piece in slices(len(features)):
        others = tf.constant(features[piece] - mean)
        squares = tf.reduce_sum(others**2, axis=1)
        numbers = np.arange(piece.start, piece.stop, dtype=np.int32)
        for block in slices(len(rows), max(DISTANCES_AT_ONCE // len(numbers), 1)):
            own = rows[block]
            # |a - b|^2 less |a|^2, which orders nothing
            distances = squares[None] - 2 * tf.matmul(features[own] - mean, others, transpose_b=True)
            here = np.flatnonzero((own >= piece.start) & (own < piece.stop))
            itself = np.stack([here, own[here] - piece.start], axis=1)
            distances = tf.tensor_scatter_nd_update(distances, itself, tf.fill([len(here)], np.inf))
            found = tf.math.top_k(-distances, min(num_neighbors, len(numbers)))
            together = np.concatenate([smallest[block], -found.values], axis=1)
            order = together.argsort(axis=1, kind="stable")[:, :num_neighbors]
            candidates = np.concatenate([nearest[block], numbers[found.indices]], axis=1)
            smallest[block] = np.take_along_axis(together, order, axis=1)
            nearest[block] = np.take_along_axis(candidates, order, axis=1)
            progress.add(len(own) * len(numbers))
    return nearest
