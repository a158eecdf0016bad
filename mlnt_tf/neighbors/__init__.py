"""Nearest neighbors within the training set, by Euclidean distance between features."""

import contextlib
import dataclasses
import mmap
import os
import threading

import numpy as np

from mlnt_tf.files.disk import create_memory_map
from mlnt_tf.neighbors.exact import exact_neighbors, slices
from mlnt_tf.neighbors.scann import fill_with_scann, usable_scann

BACKENDS = ("auto", "exact", "scann")
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


def find_neighbors(features: np.ndarray, *, num_neighbors: int = 10, backend: str = "auto",
                   path: str | os.PathLike | None = None) -> NeighborTable:
    """Finds the nearest neighbors of each row among all other rows.

    Source: section 3.2 of the paper, over the complete data set instead of a batch.

    Args:
      features: float32 [n, features]. A memory map (`np.load(…, mmap_mode="r")`) is read in parts.
      num_neighbors: int, at least 1 and below n.
      backend: "scann", "exact", or "auto", which is ScaNN if it can be loaded.
      path: str or path of a .npy file. The table is written to it and memory-mapped. None keeps
        the table in memory.

    Returns:
      A `NeighborTable`.

    Raises:
      ValueError: the features are not two-dimensional, are not finite or have too few rows, or
        ScaNN cannot be loaded although backend="scann".

    Example:

    ```python
    features = np.random.rand(20, 4)
    table = mlnt_tf.find_neighbors(features, num_neighbors=3, backend="exact")
    table.indices[0]  # the rows that are nearest to row 0, nearest first
    assert table.indices.shape == (20, 3)
    ```
    """
    _check_arguments(features, num_neighbors, backend)
    with release_pages(features):
        features = np.ascontiguousarray(features, np.float32)
        _check_finite(features)
        table = _new_table(len(features), num_neighbors, path)
        scann = usable_scann(backend)
        if scann is None:
            table[:] = exact_neighbors(features, np.arange(len(features)), num_neighbors)
            return NeighborTable(table, "exact", recall=1.0)
        return NeighborTable(table, "scann", recall=fill_with_scann(scann, features, table))


def _check_arguments(features, num_neighbors, backend):
    """Raises ValueError for arguments that cannot be searched with."""
    shape = np.shape(features)
    if len(shape) != 2 or 0 in shape:
        raise ValueError("features must have the shape [n, features], with one row per example. "
                         "Flatten images with images.reshape(len(images), -1). "
                         f"Received: shape {shape}")
    is_integer = isinstance(num_neighbors, (int, np.integer))
    if not is_integer or not 1 <= num_neighbors < shape[0]:
        raise ValueError("num_neighbors must be an integer of at least 1 and below the number of "
                         f"rows. Received: num_neighbors={num_neighbors} with {shape[0]} rows")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}. "
                         f"Received: backend={backend!r}")


def _check_finite(features):
    """Raises ValueError if values are not finite."""
    num_bad = 0
    for rows in slices(len(features)):
        is_bad = ~np.isfinite(features[rows]).all(axis=1)
        num_bad += int(is_bad.sum())
    if num_bad:
        raise ValueError("features must be finite. "
                         f"Received: NaN or infinite values in {num_bad} of {len(features)} rows")


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
