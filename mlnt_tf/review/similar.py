"""Nearest neighbors and duplicates among the judged images. Pure NumPy, in blocks of rows."""

import collections

import numpy as np

NUM_NEIGHBORS = 5
# Below this cosine distance of standardized features, two images count as near duplicates. Of
# photographs of 128 pixels, 90 % of the copies with other brightness are below it, and half of the
# mirrored copies and of those without a margin of 4 %. Of pairs of different photographs, 1 in
# 2,000 is.
NEAR_DISTANCE = 0.12
MAX_COMPARED = 10_000  # Up to this many images, each is compared with each.
BLOCK_ROWS = 4096
ROWS_AT_ONCE = 2048


def standardization(features):
    """Returns the mean and the deviation of each feature, float32 [features], read in blocks.

    A constant feature has the deviation 1.

    Args:
      features: [n, features], possibly a memory map.
    """
    total = np.zeros(features.shape[1])
    for start in range(0, len(features), BLOCK_ROWS):
        total += features[start:start + BLOCK_ROWS].sum(axis=0, dtype=np.float64)
    mean = total / len(features)
    squares = np.zeros(features.shape[1])
    for start in range(0, len(features), BLOCK_ROWS):
        squares += ((features[start:start + BLOCK_ROWS] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / len(features))
    deviation[deviation == 0] = 1
    return mean.astype(np.float32), deviation.astype(np.float32)


def nearest_rows(features, rows, num_neighbors=NUM_NEIGHBORS):
    """Finds the nearest other rows by cosine similarity of standardized features.

    Args:
      features: [n, features], possibly a memory map; n is at least 2.
      rows: int [m], the rows whose neighbors are wanted.
      num_neighbors: int, at most n − 1 are returned.

    Returns:
      (neighbors int64, cosine distances float32), both [m, num_neighbors], the nearest first.
    """
    rows = np.asarray(rows, np.int64)
    num_neighbors = min(num_neighbors, len(features) - 1)
    mean, deviation = standardization(features)
    neighbors = np.full([len(rows), num_neighbors], -1, np.int64)
    similarities = np.full([len(rows), num_neighbors], -np.inf, np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chunk = slice(start, start + ROWS_AT_ONCE)
        queries = _unit((features[rows[chunk]] - mean) / deviation)
        for first in range(0, len(features), BLOCK_ROWS):
            block = _unit((features[first:first + BLOCK_ROWS] - mean) / deviation)
            found = queries @ block.T
            found[rows[chunk, None] == np.arange(first, first + len(block))] = -np.inf
            neighbors[chunk], similarities[chunk] = _merge(
                neighbors[chunk], similarities[chunk], found, first)
    return neighbors, 1 - similarities


def _unit(features):
    """Returns the rows scaled to norm 1. A row of zeros stays zero."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(norms > 0, norms, 1)).astype(np.float32)


def _merge(neighbors, similarities, found, first):
    """Returns the best of the earlier neighbors and those of a block that starts at `first`."""
    count = min(neighbors.shape[1], found.shape[1])
    best = np.argpartition(found, -count, axis=1)[:, -count:]
    candidates = np.concatenate([neighbors, best + first], axis=1)
    values = np.concatenate([similarities, np.take_along_axis(found, best, axis=1)], axis=1)
    order = np.lexsort([candidates, -values], axis=1)[:, :neighbors.shape[1]]  # Ties: by row.
    return (np.take_along_axis(candidates, order, axis=1),
            np.take_along_axis(values, order, axis=1))


def near_duplicates(rows, neighbors, distances, threshold=NEAR_DISTANCE):
    """Groups images that are nearer than the threshold, directly or through others.

    Args:
      rows: int [m], the rows that `neighbors` belongs to.
      neighbors, distances: see `nearest_rows`.
      threshold: float.

    Returns:
      list of lists of rows, ascending.
    """
    parents = {}

    def root(row):
        while parents.setdefault(row, row) != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for place, column in zip(*np.nonzero(distances < threshold)):
        parents[root(int(neighbors[place, column]))] = root(int(rows[place]))
    groups = collections.defaultdict(list)
    for row in sorted(parents):
        groups[root(row)].append(row)
    return list(groups.values())


def conflicting_duplicates(digests, labels):
    """Groups images of equal content that have different given labels.

    Args:
      digests: list of int [n], or None where the content is unknown.
      labels: int [n], given labels.

    Returns:
      list of lists of rows, ascending.
    """
    rows_of = collections.defaultdict(list)
    for row, digest in enumerate(digests):
        if digest is not None:
            rows_of[digest].append(row)
    return [rows for rows in rows_of.values()
            if len(rows) > 1 and len(set(labels[rows].tolist())) > 1]
