"""How long the neighbours of a whole training set take, how much memory, and how many are right."""

import pathlib
import tempfile
import time

import numpy as np
from absl import logging

from mlnt_tf.hardware import host
from mlnt_tf.neighbors import find_neighbors
from mlnt_tf.neighbors.exact import exact_neighbors

CLUSTERS, INTRINSIC, SPREAD = 3000, 16, 1.0
NUM_NEIGHBORS = 10
EXACT_SAMPLE = 2000
HEADINGS = ("points", "features", "backend", "recall@10", "seconds", "exact s (extrapolated)", "x exact", "peak MB",
            "features MB")


def write_mixture(path, count, features, *, seed=0):
    """Points clustered as embeddings are: CLUSTERS Gaussians, each of INTRINSIC dimensions of its own, in a .npy file.

    Args:
      path: of the file, float32 [count, features].
    """
    points = np.lib.format.open_memmap(path, "w+", np.float32, (count, features))
    draws = np.random.default_rng(seed)
    centers = draws.normal(size=[CLUSTERS, features]).astype(np.float32)
    where = draws.integers(CLUSTERS, size=count)
    order = np.argsort(where, kind="stable")
    bounds = np.searchsorted(where[order], np.arange(CLUSTERS + 1))
    for cluster in range(CLUSTERS):
        rows = order[bounds[cluster]:bounds[cluster + 1]]
        basis = draws.normal(size=[INTRINSIC, features]).astype(np.float32) * SPREAD / INTRINSIC**.5
        points[rows] = centers[cluster] + draws.normal(size=[len(rows), INTRINSIC]).astype(np.float32) @ basis
    points.flush()


def measure(points, features):
    """One row: `points` features searched from a memory-mapped file, the table written beside it.

    Returns:
      the row, as the JSON has it; `exact_seconds` is extrapolated from EXACT_SAMPLE rows, `recall` is on 1,000.
    """
    logging.set_verbosity(logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "features.npy"
        write_mixture(path, points, features)
        mapped = np.load(path, mmap_mode="r")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak of memory from here on
        began = time.perf_counter()
        table = find_neighbors(mapped, num_neighbors=NUM_NEIGHBORS, path=path.with_name("neighbors.npy"))
        seconds = time.perf_counter() - began
        peak = host.peak_memory_mb()
        sample = np.linspace(0, points - 1, min(points, EXACT_SAMPLE)).astype(np.int64)
        began = time.perf_counter()
        exact_neighbors(mapped, sample, NUM_NEIGHBORS)
        exact = (time.perf_counter() - began) * points / len(sample)
    return {"points": points, "features": features, "backend": table.backend, "recall": table.recall,
            "seconds": seconds, "exact_seconds": exact, "ratio_to_exact": exact / seconds, "peak_memory_mb": peak,
            "features_mb": mapped.nbytes / 2**20}


def cells(row):
    """A row as the table prints it, under HEADINGS."""
    return (row["points"], row["features"], row["backend"], f"{row['recall']:.4f}", f"{row['seconds']:.1f}",
            f"{row['exact_seconds']:.0f}", f"{row['ratio_to_exact']:.1f}", f"{row['peak_memory_mb']:.0f}",
            f"{row['features_mb']:.0f}")
