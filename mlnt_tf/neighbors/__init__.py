"""Nearest neighbors within the training set, by Euclidean distance between features."""

import contextlib
import dataclasses
import mmap
import threading

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.files.disk import create_memory_map
from mlnt_tf.neighbors.exact import exact_neighbors, slices
from mlnt_tf.neighbors.scann import fill_with_scann, usable_scann

RELEASE_INTERVAL = 0.5  # Seconds between two releases of memory-mapped pages.


@dataclasses.dataclass(frozen=True)
class NeighborTable:
    """The nearest neighbors of every example.

    Attributes:
      indices: int32 [n, num_neighbors], the rows of the neighbors, nearest first. A row is never
        its own neighbor.
      backend: str, "exact" or "scann".
      recall: float in [0, 1], the fraction of the exact neighbors that were found, measured on up
        to 1,000 rows.
    """

    indices: np.ndarray
    backend: str
    recall: float


def find_neighbors(features, *, num_neighbors=10, backend="auto", path=None):
    """Finds the nearest neighbors of each row among all other rows.

    Args:
      features: float32 [n, features]. A memory map (`np.load(…, mmap_mode="r")`) is read in parts.
      num_neighbors: int below n.
      backend: "scann", "exact", or "auto", which is ScaNN if it can be loaded.
      path: str or path of a .npy file. The table is written to it and memory-mapped. None keeps
        the table in memory.

    Returns:
      A `NeighborTable`.

    Raises:
      UserError: there are too few rows, features are not finite, or backend="scann" and ScaNN
        cannot be loaded.
    """
    with release_pages(features):
        features = np.ascontiguousarray(features, np.float32)
        _check_features(features, num_neighbors)
        table = _new_table(len(features), num_neighbors, path)
        scann = usable_scann(backend)
        if scann is None:
            table[:] = exact_neighbors(features, np.arange(len(features)), num_neighbors)
            return NeighborTable(table, "exact", recall=1.0)
        return NeighborTable(table, "scann", recall=fill_with_scann(scann, features, table))


def _check_features(features, num_neighbors):
    """Raises UserError if there are too few rows or values that are not finite."""
    if num_neighbors >= len(features):
        raise UserError(f"--num_neighbors={num_neighbors} needs more than {num_neighbors} "
                        f"examples, but there are {len(features)}. Lower --num_neighbors.")
    num_bad = 0
    for rows in slices(len(features)):
        is_bad = ~np.isfinite(features[rows]).all(axis=1)
        num_bad += int(is_bad.sum())
    if num_bad:
        raise UserError(f"Features of {num_bad} of {len(features)} examples are NaN or infinite. "
                        "If the features are your own, correct them. If a network computed them, "
                        "its training diverged: train again with a lower --learning_rate and "
                        "another --output_dir.")


def _new_table(rows, num_neighbors, path):
    """An uninitialized int32 [rows, num_neighbors] array, in memory or mapped from a .npy file."""
    shape = (rows, num_neighbors)
    if path is None:
        return np.empty(shape, np.int32)
    return create_memory_map(path, shape, np.int32)


@contextlib.contextmanager
def release_pages(features):
    """Context manager that releases the pages of a memory map soon after they are read.

    Pages count as this process's memory as long as they are resident, and ScaNN has a complete copy
    of the features anyway. Reading a page again is cheap while the system caches the file. Other
    arrays are left alone.
    """
    mapping = features
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        yield
        return
    done = threading.Event()

    def release():
        while not done.wait(RELEASE_INTERVAL):
            mapping.madvise(mmap.MADV_DONTNEED)

    thread = threading.Thread(target=release, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
