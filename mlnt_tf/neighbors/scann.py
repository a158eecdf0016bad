"""Nearest neighbors with ScaNN."""

import numpy as np
from absl import logging

from mlnt_tf.neighbors.exact import exact_neighbors, slices
from mlnt_tf.progress import Progress

# With fewer rows, ScaNN compares all pairs: exact, deterministic, and done in seconds.
BRUTE_FORCE_BELOW = 100_000
RECALL_SAMPLE = 1000  # Rows on which the recall is measured.
TARGET_RECALL = 0.98
# Rows on which the tree is trained. ScaNN holds four copies of them.
TRAINING_SAMPLE = 100_000
ROWS_PER_SEARCH = 20_000


def load_scann():
    """Imports ScaNN's builder module.

    ScaNN's library of ops fits a single minor version of TensorFlow, so the import can raise many
    types of exceptions.
    """
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind


def usable_scann(backend):
    """Returns ScaNN's builder module, or None if exact search is to be used.

    Args:
      backend: "scann", "exact" or "auto".

    Raises:
      ValueError: backend="scann" and ScaNN cannot be loaded.
    """
    if backend == "exact":
        return None
    try:
        return load_scann()
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if backend == "scann":
            raise ValueError("ScaNN cannot be loaded. Install the version for this TensorFlow, or "
                             f"use the exact search. Received: backend='scann' ({reason})"
                             ) from error
        logging.log_first_n(logging.WARNING, "ScaNN cannot be loaded (%s). Using exact search.", 1,
                            reason)
        return None


def fill_with_scann(scann, features, table):
    """Fills a table with the neighbors that ScaNN finds.

    From BRUTE_FORCE_BELOW rows on, the index is a tree whose leaves are scored exactly. Asymmetric
    hashing was slower, and found 37 % of the neighbors in 45,000 rows of 10 clusters with 10
    dimensions, where exact scores found all of them. The number of leaves to search is doubled
    until the recall on a sample reaches TARGET_RECALL, up to a quarter of the leaves.

    Args:
      scann: from `usable_scann`.
      features: float32 [n, features].
      table: int32 [n, num_neighbors], filled in place.

    Returns:
      float, the recall on a sample of up to RECALL_SAMPLE rows.
    """
    count, num_neighbors = table.shape
    sample = np.linspace(0, count - 1, min(count, RECALL_SAMPLE)).astype(np.int64)
    expected = exact_neighbors(features, sample, num_neighbors)
    num_leaves = int(np.sqrt(count)) if count >= BRUTE_FORCE_BELOW else 0
    index = _build_index(scann, features, num_neighbors, num_leaves)
    searched_leaves = None
    if num_leaves:
        searched_leaves = min(8, num_leaves)
        while True:
            neighbors = _search(index, features, sample, num_neighbors, searched_leaves)
            sample_recall = recall(neighbors, expected)
            if sample_recall >= TARGET_RECALL or 2 * searched_leaves > num_leaves / 4:
                break
            searched_leaves *= 2
        logging.info("neighbor search: searching %d of %d leaves, recall %.4f on a sample",
                     searched_leaves, num_leaves, sample_recall)
    progress = Progress(count)
    for rows in slices(count, ROWS_PER_SEARCH):
        queries = np.arange(rows.start, rows.stop)
        table[rows] = _search(index, features, queries, num_neighbors, searched_leaves)
        progress.add(len(queries))
        progress.log_if_due("neighbor search")
    return recall(table[sample], expected)


def _build_index(scann, features, num_neighbors, num_leaves):
    """A ScaNN index with exact scores; `num_leaves` of 0 means no tree."""
    # One more, because each row is its own nearest neighbor.
    builder = scann.builder(features, num_neighbors + 1, "squared_l2").score_brute_force()
    if num_leaves:
        logging.info("neighbor search: building a tree of %d leaves for %d examples", num_leaves,
                     len(features))
        builder = builder.tree(num_leaves=num_leaves,
                               num_leaves_to_search=max(num_leaves // 4, 1),
                               training_sample_size=min(len(features), TRAINING_SAMPLE))
    return builder.build()


def _search(index, features, rows, num_neighbors, searched_leaves):
    """Returns the neighbors of `rows` (int64 [q]): int32 [q, num_neighbors].

    Rows that ScaNN leaves incomplete are searched exactly.
    """
    settings = {}
    if searched_leaves is not None:
        settings["leaves_to_search"] = searched_leaves
    neighbors, distances = index.search_batched_parallel(features[rows], **settings)
    # Leaves with too few rows give fewer columns, or rows that end in zeros with distance NaN.
    has_all_columns = neighbors.shape[1] == num_neighbors + 1
    is_complete = np.isfinite(distances).all(axis=1) & has_all_columns
    table = np.empty([len(rows), num_neighbors], np.int32)
    if is_complete.any():
        complete = neighbors[is_complete].astype(np.int64)
        table[is_complete] = drop_self(complete, rows[is_complete])
    if not is_complete.all():
        table[~is_complete] = exact_neighbors(features, rows[~is_complete], num_neighbors)
    return table


def drop_self(neighbors, rows):
    """Removes each row from its own list of neighbors.

    A row is recognized by its index, because duplicates can come before it. If a row is not in its
    list, because duplicates displaced it, the last neighbor is dropped.

    Args:
      neighbors: int64 [q, k + 1].
      rows: int64 [q].

    Returns:
      int32 [q, k].
    """
    is_dropped = neighbors == rows[:, None]
    is_dropped[~is_dropped.any(axis=1), -1] = True
    return neighbors[~is_dropped].reshape(len(neighbors), -1).astype(np.int32)


def recall(neighbors, expected):
    """Returns the fraction of the expected neighbors [q, k] that are in `neighbors` [q, k]."""
    return float((neighbors[:, :, None] == expected[:, None, :]).any(axis=1).mean())
