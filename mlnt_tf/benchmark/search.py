"""Time, memory and recall of the neighbor search over a complete training set."""

import pathlib
import tempfile
import time

import numpy as np
from absl import logging

from mlnt_tf.hardware import host
from mlnt_tf.neighbors import find_neighbors
from mlnt_tf.neighbors.exact import exact_neighbors

CLUSTERS = 3000
INTRINSIC = 16  # Dimensions of each cluster.
SPREAD = 1.0  # Standard deviation within a cluster, over all its dimensions.
NUM_NEIGHBORS = 10
EXACT_SAMPLE = 2000  # Rows of the timed exact search.
HEADINGS = ("points", "features", "backend", "recall@10", "seconds", "exact s (extrapolated)",
            "x exact", "peak MB", "features MB")


def write_mixture(path, count, features, *, seed=0):
    """Writes points that are clustered like embeddings to a .npy file.

    They come from CLUSTERS Gaussians. Each varies in its own INTRINSIC dimensions.

    Args:
      path: str or path of the file, float32 [count, features].
      count: int, the number of points.
      features: int, the number of dimensions.
      seed: int.
    """
    points = np.lib.format.open_memmap(path, "w+", np.float32, (count, features))
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=[CLUSTERS, features]).astype(np.float32)
    clusters = rng.integers(CLUSTERS, size=count)
    order = np.argsort(clusters, kind="stable")
    bounds = np.searchsorted(clusters[order], np.arange(CLUSTERS + 1))
    for cluster in range(CLUSTERS):
        rows = order[bounds[cluster]:bounds[cluster + 1]]
        basis = rng.normal(size=[INTRINSIC, features]).astype(np.float32) * SPREAD / INTRINSIC**.5
        coordinates = rng.normal(size=[len(rows), INTRINSIC]).astype(np.float32)
        points[rows] = centers[cluster] + coordinates @ basis
    points.flush()


def measure(points, features):
    """Measures the search for the neighbors of memory-mapped points.

    Args:
      points: int, the number of points.
      features: int, the number of dimensions.

    Returns:
      dict, a row of the table and of the JSON file. "exact_seconds" is extrapolated from
      EXACT_SAMPLE points, "recall" is measured on 1,000 points.
    """
    logging.set_verbosity(logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "features.npy"
        write_mixture(path, points, features)
        mapped = np.load(path, mmap_mode="r")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak memory.
        start_time = time.perf_counter()
        table = find_neighbors(mapped, num_neighbors=NUM_NEIGHBORS,
                               path=path.with_name("neighbors.npy"))
        seconds = time.perf_counter() - start_time
        peak_memory_mb = host.peak_memory_mb()
        sample = np.linspace(0, points - 1, min(points, EXACT_SAMPLE)).astype(np.int64)
        start_time = time.perf_counter()
        exact_neighbors(mapped, sample, NUM_NEIGHBORS)
        exact_seconds = (time.perf_counter() - start_time) * points / len(sample)
    return {"points": points, "features": features, "backend": table.backend,
            "recall": table.recall, "seconds": seconds, "exact_seconds": exact_seconds,
            "ratio_to_exact": exact_seconds / seconds, "peak_memory_mb": peak_memory_mb,
            "features_mb": mapped.nbytes / 2**20}


def cells(row):
    """Returns a row of `measure` as text, in the order of HEADINGS."""
    return (row["points"], row["features"], row["backend"], f"{row['recall']:.4f}",
            f"{row['seconds']:.1f}", f"{row['exact_seconds']:.0f}", f"{row['ratio_to_exact']:.1f}",
            f"{row['peak_memory_mb']:.0f}", f"{row['features_mb']:.0f}")
