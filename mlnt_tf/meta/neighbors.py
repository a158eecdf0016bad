"""Nearest neighbours within the whole training set, by Euclidean distance between features."""

import dataclasses

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError

BRUTE_FORCE_BELOW = 100_000  # points; exact, deterministic and done in seconds up to here
DISTANCES_AT_ONCE = 2**25  # float32, some copies of them: below 1 GB however many points
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
        logging.log_first_n(logging.WARNING, "ScaNN does not load here (%s): exact search takes its place.", 1, reason)
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
      UserError: too many neighbours for n rows, features not finite, or ScaNN asked for and not usable.
    """
    features = np.ascontiguousarray(features, np.float32)
    if num_neighbors >= len(features):
        raise UserError(f"--num_neighbors={num_neighbors} needs more than the {len(features)} examples there are: "
                        "lower it.")
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise UserError(f"--neighbor_features of {bad} of {len(features)} examples are not finite: the network "
                        "they come from diverged; lower --learning_rate.")
    scann = usable_scann(backend)
    if scann is None:
        return NeighborTable(exact_neighbors(features, np.arange(len(features)), num_neighbors), "exact", 1.0)
    table = scann_neighbors(scann, features, num_neighbors)
    sample = np.linspace(0, len(features) - 1, min(len(features), RECALL_SAMPLE)).astype(np.int64)
    return NeighborTable(table, "scann", recall(table[sample], exact_neighbors(features, sample, num_neighbors)))


def exact_neighbors(features, rows, num_neighbors):
    """The nearest other rows of `rows` int64 [q], by full comparison: int32 [q, num_neighbors]."""
    everything = tf.constant(features - features.mean(axis=0))  # a common offset would drown the differences
    at_once = max(DISTANCES_AT_ONCE // len(features), 1)
    squares = tf.reduce_sum(everything**2, axis=1)
    found = []
    for start in range(0, len(rows), at_once):
        own = tf.constant(rows[start:start + at_once])
        # |a - b|^2 less |a|^2, which orders nothing
        distances = squares[None] - 2 * tf.matmul(tf.gather(everything, own), everything, transpose_b=True)
        itself = tf.stack([tf.range(len(own), dtype=tf.int64), tf.cast(own, tf.int64)], axis=1)
        distances = tf.tensor_scatter_nd_update(distances, itself, tf.fill([len(own)], np.inf))
        found.append(tf.math.top_k(-distances, num_neighbors).indices.numpy())
    return np.concatenate(found).astype(np.int32)


def scann_neighbors(scann, features, num_neighbors):
    """The same from a ScaNN index, exact below 100,000 rows; a row is left out by its number, not by its rank.

    Above, leaves are scored exactly: asymmetric hashing was slower and found .37 of the neighbours in 45,000 rows
    of 10 clusters, 10 wide, where exact scores found all.
    """
    wanted = num_neighbors + 1
    builder = scann.builder(features, wanted, "squared_l2").score_brute_force()
    if len(features) >= BRUTE_FORCE_BELOW:
        leaves = int(np.sqrt(len(features)))
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=max(leaves // 10, 30),
                               training_sample_size=min(len(features), 250_000))
    index = builder.build()
    table = np.empty([len(features), num_neighbors], np.int32)
    for start in range(0, len(features), 50_000):
        rows = np.arange(start, min(start + 50_000, len(features)))
        found, distances = index.search_batched_parallel(features[rows])
        # Leaves with too few points give fewer columns, or rows that end in zeros at distance NaN.
        whole = np.isfinite(distances).all(axis=1) & (found.shape[1] == wanted)
        if whole.any():
            table[rows[whole]] = without_itself(found[whole].astype(np.int64), rows[whole])
        if not whole.all():
            table[rows[~whole]] = exact_neighbors(features, rows[~whole], num_neighbors)
    return table


def without_itself(found, rows):
    """[q, k + 1] of `rows` [q] to int32 [q, k]: drops each row's own number, or its last if crowded out."""
    itself = found == rows[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(len(found), -1).astype(np.int32)


def recall(found, expected):
    """Share of the expected neighbours [q, k] among the found."""
    return float((found[:, :, None] == expected[:, None, :]).any(axis=1).mean())
