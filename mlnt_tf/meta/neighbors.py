"""Nearest neighbours within the whole training set, by Euclidean distance between features."""

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError

BRUTE_FORCE_BELOW = 20_000  # points; ScaNN's partitioning wins nothing under it
QUERIES_AT_ONCE = 1024
RECALL_SAMPLE = 1000


@dataclasses.dataclass(frozen=True)
class NeighborTable:
    """`indices` int32 [n, num_neighbors], rows of the features, nearest first, never the row itself; the `backend`
    that found them; their `recall` against exact search, on a sample of up to 1,000 rows."""

    indices: np.ndarray
    backend: str
    recall: float


def load_scann():
    """ScaNN's builder module. Its op library fits one TensorFlow minor, so its import can fail in many ways."""
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind


def usable_scann(backend):
    """ScaNN's builder module, or None where exact search takes its place.

    Raises:
      UserError: ScaNN is asked for and does not load.
    """
    if backend == "exact":
        return None
    try:
        return load_scann()
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if backend == "scann":
            raise UserError(f"--neighbor_backend=scann: ScaNN does not load here ({reason}); install the version "
                            "built for this TensorFlow, or take --neighbor_backend=exact.") from error
        logging.warning("ScaNN does not load here (%s): exact search takes its place.", reason)
        return None


def find_neighbors(features, *, num_neighbors=10, backend="auto"):
    """The nearest other rows of each row.

    Args:
      features: float32 [n, d].
      num_neighbors: below n.
      backend: "scann", "exact", or "auto": ScaNN where it works.

    Returns:
      a NeighborTable.

    Raises:
      UserError: too many neighbours for n rows, or ScaNN asked for and not usable.
    """
    features = np.ascontiguousarray(features, np.float32)
    if num_neighbors >= len(features):
        raise UserError(f"--num_neighbors={num_neighbors} needs more than the {len(features)} examples there are: "
                        "lower it.")
    scann = usable_scann(backend)
    if scann is None:
        return NeighborTable(exact_neighbors(features, np.arange(len(features)), num_neighbors), "exact", 1.0)
    table = scann_neighbors(scann, features, num_neighbors)
    sample = np.linspace(0, len(features) - 1, min(len(features), RECALL_SAMPLE)).astype(np.int64)
    return NeighborTable(table, "scann", recall(table[sample], exact_neighbors(features, sample, num_neighbors)))


def exact_neighbors(features, rows, num_neighbors):
    """The nearest other rows of `rows` int64 [q], by full comparison: int32 [q, num_neighbors]."""
    everything = tf.constant(features)
    squares = tf.reduce_sum(everything**2, axis=1)
    found = []
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        own = tf.constant(rows[start:start + QUERIES_AT_ONCE])
        # |a - b|^2 less |a|^2, which orders nothing
        distances = squares[None] - 2 * tf.matmul(tf.gather(everything, own), everything, transpose_b=True)
        itself = tf.stack([tf.range(len(own), dtype=tf.int64), tf.cast(own, tf.int64)], axis=1)
        distances = tf.tensor_scatter_nd_update(distances, itself, tf.fill([len(own)], np.inf))
        found.append(tf.math.top_k(-distances, num_neighbors).indices.numpy())
    return np.concatenate(found).astype(np.int32)


def scann_neighbors(scann, features, num_neighbors):
    """The same from a ScaNN index, exact below 20,000 rows; a row is left out by its number, not by its rank."""
    wanted = num_neighbors + 1
    builder = scann.builder(features, wanted, "squared_l2")
    if len(features) < BRUTE_FORCE_BELOW:
        builder = builder.score_brute_force()
    else:
        leaves = int(np.sqrt(len(features)))
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=max(leaves // 10, 30),
                               training_sample_size=min(len(features), 250_000))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(10 * wanted)
    index = builder.build()
    chunks = [index.search_batched_parallel(features[start:start + 50_000])[0]
              for start in range(0, len(features), 50_000)]
    return without_itself(np.concatenate(chunks).astype(np.int64))


def without_itself(found):
    """[n, k + 1] to int32 [n, k]: drops each row's own number, or its last where duplicates crowded it out."""
    itself = found == np.arange(len(found))[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(len(found), -1).astype(np.int32)


def recall(found, expected):
    """Share of the expected neighbours [q, k] among the found."""
    return float((found[:, :, None] == expected[:, None, :]).any(axis=1).mean())
