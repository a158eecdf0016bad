"""Nearest neighbors within the whole training set, by Euclidean distance between features."""

import contextlib
import dataclasses
import mmap
import threading

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.neighbors.exact import exact_neighbors, slices
from mlnt_tf.neighbors.scann import fill_with_scann, usable_scann

RELEASE_INTERVAL = 0.5  # seconds


@dataclasses.dataclass(frozen=True)
class NeighborTable:
    """`indices` int32 [n, num_neighbors], rows of the features, nearest first, never the row itself; the `backend`
    that found them; their `recall` against exact search, on a sample of up to 1,000 rows."""

    indices: np.ndarray
    backend: str
    recall: float


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
    with release_pages(features):
        return _find(np.ascontiguousarray(features, np.float32), num_neighbors, backend, path)


def _find(features, num_neighbors, backend, path):
    if num_neighbors >= len(features):
        raise UserError(f"--num_neighbors={num_neighbors} needs more than the {len(features)} examples there are: "
                        "lower it.")
    bad = 0
    for piece in slices(len(features)):
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
    return NeighborTable(table, "scann", fill_with_scann(scann, features, table))


def _new_table(rows, num_neighbors, path):
    """An uninitialized int32 [rows, num_neighbors] array, in memory or mapped from a new .npy file."""
    shape = (rows, num_neighbors)
    if path is None:
        return np.empty(shape, np.int32)
    return np.lib.format.open_memmap(path, "w+", np.int32, shape)


@contextlib.contextmanager
def release_pages(features):
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
        while not done.wait(RELEASE_INTERVAL):
            mapped.madvise(mmap.MADV_DONTNEED)

    thread = threading.Thread(target=forget, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
