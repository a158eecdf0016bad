"""Nearest neighbors within the whole training set, by Euclidean distance between features."""

import contextlib
import dataclasses
import mmap
import threading
import time

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError

BRUTE_FORCE_BELOW = 100_000  # points; exact, deterministic and done in seconds up to here
POINTS_AT_ONCE = 2**16  # rows of the features in memory beside the index; what is mapped from a file is not read whole
DISTANCES_AT_ONCE = 2**25  # float32, some copies of them: below 1 GB however many points
RECALL_SAMPLE = 1000
RECALL_WANTED = 0.98
TRAINING_SAMPLE = 100_000  # points that the leaves of a tree are learned from; ScaNN holds four copies of them
TELL_EVERY = 20.0  # seconds
FORGET_EVERY = 0.5  # seconds


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


def find_neighbors(features, *, num_neighbors=10, backend="auto", path=None):
    """The nearest other rows of each row.

    Args:
      features: float32 [n, d]; may be mapped from a file (`np.load(…, mmap_mode="r")`), of which pieces are read.
      num_neighbors: below n.
      backend: "scann", "exact", or "auto": ScaNN where it works.
      path: a .npy file to hold the table, which is mapped from it then; None means in memory.

    Returns:
      a NeighborTable.

    Raises:
      UserError: too many neighbors for n rows, features not finite, or ScaNN asked for and not usable.
    """
    with forgotten(features):
        return _find(np.ascontiguousarray(features, np.float32), num_neighbors, backend, path)


def _find(features, num_neighbors, backend, path):
    if num_neighbors >= len(features):
        raise UserError(f"--num_neighbors={num_neighbors} needs more than the {len(features)} examples there are: "
                        "lower it.")
    bad = 0
    for piece in pieces(len(features)):
        is_bad = ~np.isfinite(features[piece]).all(axis=1)
        bad += int(is_bad.sum())
    if bad:
        raise UserError(f"--neighbor_features of {bad} of {len(features)} examples are not finite: the network "
                        "they come from diverged; lower --learning_rate.")
    table = _new_table(len(features), num_neighbors, path)
    scann = usable_scann(backend)
    if scann is None:
        table[:] = exact_neighbors(features, np.arange(len(features)), num_neighbors)
        return NeighborTable(table, "exact", 1.0)
    return NeighborTable(table, "scann", fill_by_scann(scann, features, table))


def _new_table(rows, num_neighbors, path):
    """An uninitialized int32 [rows, num_neighbors] array, in memory or mapped from a new .npy file."""
    shape = (rows, num_neighbors)
    if path is None:
        return np.empty(shape, np.int32)
    return np.lib.format.open_memmap(path, "w+", np.int32, shape)


@contextlib.contextmanager
def forgotten(features):
    """While it is open, pages of a memory map do not stay resident once read: a whole copy is ScaNN's already.

    They count as this process's memory, and a read of a page that the system still caches is quick.
    """
    done = threading.Event()
    mapped = features
    while isinstance(mapped, np.ndarray):
        mapped = mapped.base
    if not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        yield
        return

    def forget():
        while not done.wait(FORGET_EVERY):
            mapped.madvise(mmap.MADV_DONTNEED)

    thread = threading.Thread(target=forget, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def pieces(count, size=POINTS_AT_ONCE):
    """Slices that cover 0 ... count - 1."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def exact_neighbors(features, rows, num_neighbors):
    """The nearest other rows of `rows` int64 [q], by full comparison: int32 [q, num_neighbors]."""
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)  # a common offset would drown the differences
    nearest = np.zeros([len(rows), num_neighbors], np.int32)
    smallest = np.full([len(rows), num_neighbors], np.inf, np.float32)
    progress = Progress(len(features) * len(rows))
    for piece in pieces(len(features)):
        others = tf.constant(features[piece] - mean)
        squares = tf.reduce_sum(others**2, axis=1)
        numbers = np.arange(piece.start, piece.stop, dtype=np.int32)
        for block in pieces(len(rows), max(DISTANCES_AT_ONCE // len(numbers), 1)):
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


def fill_by_scann(scann, features, table):
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
    for piece in pieces(len(features), 20_000):
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
        table[whole] = without_itself(found[whole].astype(np.int64), rows[whole])
    if not whole.all():
        table[~whole] = exact_neighbors(features, rows[~whole], num_neighbors)
    return table


class Progress:
    """Logs how far a long search has come, and how long it will take."""

    def __init__(self, total):
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self.told = self.began

    def add(self, count):
        self.done += count
        now = time.monotonic()
        if now - self.told > TELL_EVERY:
            self.told = now
            share = self.done / self.total
            remaining = (now - self.began) * (1 - share) / share
            logging.info("neighbors: %.0f %%, about %.0f s to go", 100 * share, remaining)


def without_itself(found, rows):
    """[q, k + 1] of `rows` [q] to int32 [q, k]: drops each row's own number, or its last if crowded out."""
    itself = found == rows[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(len(found), -1).astype(np.int32)


def recall(found, expected):
    """Share of the expected neighbors [q, k] among the found."""
    return float((found[:, :, None] == expected[:, None, :]).any(axis=1).mean())
