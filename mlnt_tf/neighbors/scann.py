"""Nearest neighbors by ScaNN."""

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.neighbors.exact import exact_neighbors, slices
from mlnt_tf.progress import Progress

BRUTE_FORCE_BELOW = 100_000  # points; exact, deterministic and done in seconds up to here
RECALL_SAMPLE = 1000
RECALL_WANTED = 0.98
TRAINING_SAMPLE = 100_000  # points that the leaves of a tree are learned from; ScaNN holds four copies of them


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


def fill_with_scann(scann, features, table):
    """Fills `table` [n, num_neighbors] from a ScaNN index, exact below 100,000 rows; its recall against exact search.

    Above, the index is a tree whose leaves are scored exactly: asymmetric hashing was slower and found .37 of the
    neighbors in 45,000 rows of 10 clusters, 10 wide, where exact scores found all. As many leaves are searched as it
    takes for RECALL_WANTED on a sample, a quarter of them at most. A row is left out by its number, not by its rank.
    """
    wanted = table.shape[1] + 1
    sample = np.linspace(0, len(features) - 1, min(len(features), RECALL_SAMPLE)).astype(np.int64)
    expected = exact_neighbors(features, sample, table.shape[1])
    builder = scann.builder(features, wanted, "squared_l2").score_brute_force()
    leaves = 0
    if len(features) >= BRUTE_FORCE_BELOW:
        leaves = int(np.sqrt(len(features)))
    if leaves:
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=max(leaves // 4, 1),
                               training_sample_size=min(len(features), TRAINING_SAMPLE))
        logging.info("neighbors: building a tree of %d leaves for %d points", leaves, len(features))
    index = builder.build()
    searched = min(8, leaves) or None
    while True:
        reached = recall(_search(index, features, sample, table.shape[1], searched), expected)
        if not leaves or reached >= RECALL_WANTED or 2 * searched > leaves / 4:
            break
        searched *= 2
    if leaves:
        logging.info("neighbors: searching %d of %d leaves, recall %.4f on a sample", searched, leaves, reached)
    progress = Progress(len(features))
    for piece in slices(len(features), 20_000):
        table[piece] = _search(index, features, np.arange(piece.start, piece.stop), table.shape[1], searched)
        progress.add(piece.stop - piece.start)
    return recall(table[sample], expected)


def _search(index, features, rows, num_neighbors, leaves):
    """[q] rows to their neighbors int32 [q, num_neighbors]."""
    settings = {}
    if leaves is not None:
        settings["leaves_to_search"] = leaves
    found, distances = index.search_batched_parallel(features[rows], **settings)
    table = np.empty([len(rows), num_neighbors], np.int32)
    # Leaves with too few points give fewer columns, or rows that end in zeros at distance NaN.
    whole = np.isfinite(distances).all(axis=1) & (found.shape[1] == num_neighbors + 1)
    if whole.any():
        table[whole] = drop_self(found[whole].astype(np.int64), rows[whole])
    if not whole.all():
        table[~whole] = exact_neighbors(features, rows[~whole], num_neighbors)
    return table


def drop_self(found, rows):
    """[q, k + 1] of `rows` [q] to int32 [q, k]: drops each row's own number, or its last if crowded out."""
    itself = found == rows[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(len(found), -1).astype(np.int32)


def recall(found, expected):
    """Share of the expected neighbors [q, k] among the found."""
    return float((found[:, :, None] == expected[:, None, :]).any(axis=1).mean())
