"""Injected label noise: a transition matrix, and draws from it.

A draw depends only on the seed and the example's id, never on the order of reading.
"""

import pathlib
import re
import zipfile

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.config.data import MATRIX_PREFIX

# Pairs of CIFAR-10 (Patrini et al. 2017): truck to automobile, bird to airplane, deer to horse, and
# cat and dog to each other.
CIFAR10_PAIRS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
NOISE_SALT, VALIDATION_NOISE_SALT = 0x6E6F697365, 0x76616C6E
SUM_TOLERANCE = 1e-6  # by which the sum of a row in a matrix file may differ from 1


def transition_matrix(noise, rate, num_classes, *, symmetric_includes_true=True, dataset=None):
    """Returns the transition matrix T, p(given | true), of a source of noise.

    - "none": the identity I.
    - "symmetric": with probability r the label is redrawn over all classes, (1 - r) I + r / c, or
      only over the other classes.
    - "asymmetric": with probability r the label changes to the paired class. CIFAR-10 has pairs of
      its own. For other data sets, the pair of a class is the next class.
    - "matrix": T is read from a file.

    Args:
      noise: `mlnt_tf.config.Noise`, injected or of kind "none".
      rate: float, r.
      num_classes: int, c.
      symmetric_includes_true: whether symmetric noise may redraw the true label.
      dataset: str, the value of --dataset. "cifar10" and "tfds:cifar10", with or without a version,
        have the pairs of CIFAR-10.

    Returns:
      float64 [classes, classes], one row per true class.

    Raises:
      UserError: the file does not hold a transition matrix.
      ValueError: the noise is human, so that its matrix is not known.
    """
    identity = np.eye(num_classes)
    if noise.kind == "none":
        return identity
    if noise.kind == "symmetric" and symmetric_includes_true:
        return (1 - rate) * identity + rate / num_classes
    if noise.kind == "symmetric":
        return (1 - rate) * identity + rate / (num_classes - 1) * (1 - identity)
    if noise.kind == "asymmetric":
        matrix = identity
        for true, wrong in class_pairs(dataset, num_classes).items():
            matrix[true, true], matrix[true, wrong] = 1 - rate, rate
        return matrix
    if noise.kind == "matrix":
        return read_matrix(noise.path, num_classes)
    raise ValueError(f"only injected noise has a transition matrix. Received: {noise}")


def class_pairs(dataset, num_classes):
    """Returns {true class: the class it is confused with} of asymmetric noise."""
    if re.fullmatch("(tfds:)?cifar10([:/].*)?", dataset or ""):
        return CIFAR10_PAIRS
    return {label: (label + 1) % num_classes for label in range(num_classes)}


def read_matrix(path, num_classes, *, flag=None):
    """Reads a transition matrix from a file.

    Args:
      path: str, a .npy file, or a text file with one row per line. White space or commas separate
        the numbers.
      num_classes: int.
      flag: str, the flag and value that errors name. The default is --noise=matrix:PATH.

    Returns:
      float64 [classes, classes], one row per true class. Each row sums to 1.

    Raises:
      UserError: the file cannot be read, or does not hold a transition matrix.
    """
    flag = flag or f"--noise={MATRIX_PREFIX}{path}"
    try:
        matrix = _read_array(path, flag)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{flag} cannot be read ({' '.join(str(error).split())}). Write rows of "
                        "numbers in a .csv, .txt or .npy file.") from error
    if matrix.shape != (num_classes, num_classes):
        raise UserError(f"{flag} has shape {matrix.shape}. It must be square, {num_classes} by "
                        f"{num_classes} for the {num_classes} classes.")
    if not (matrix >= 0).all():
        raise UserError(f"{flag} has an entry that is below 0 or not a number. Every entry must be "
                        "a probability.")
    totals = matrix.sum(axis=1)
    for row, total in enumerate(totals):
        if abs(total - 1) > SUM_TOLERANCE:
            raise UserError(f"{flag}: row {row} sums to {total:g}. The probabilities of a row must "
                            "sum to 1.")
    # Even a sum within the tolerance would give a large class one example too many.
    return matrix / totals[:, None]


def _read_array(path, flag):
    """Reads the numbers of a matrix file: float64."""
    if pathlib.Path(path).suffix == ".npy":
        return np.asarray(np.load(path)).astype(np.float64, casting="same_kind")
    lines = pathlib.Path(path).read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
    rows = [[float(number) for number in line.split()] for line in lines if line.strip()]
    if len({len(row) for row in rows}) != 1:
        lengths = ", ".join(str(len(row)) for row in rows) or "no"
        raise UserError(f"{flag} is not a square matrix: it has rows of {lengths} numbers. Write "
                        "one row per true class.")
    return np.array(rows)


def uniform_draws(ids, *, seed, salt):
    """Draws one number in [0, 1) per id, as a function of the seed, the salt and the id.

    The number is the one at position `id` in the stream of a counter-based generator.

    Returns:
      float64 [n].
    """
    ids = np.asarray(ids)
    if not len(ids):
        return np.zeros(0)
    return np.random.Generator(np.random.Philox(key=[seed, salt])).random(int(ids.max()) + 1)[ids]


def corrupt_labels(labels, ids, matrix, *, seed, sampling, salt=NOISE_SALT):
    """Returns the given labels, drawn from the true ones.

    Args:
      labels: int [n], the true labels.
      ids: int64 [n].
      matrix: float64 [classes, classes], p(given | true).
      seed, salt: int, see `uniform_draws`.
      sampling: "bernoulli" draws each label independently. "exact" splits each class in the
        proportions of its row, by largest remainder, so that the fraction of wrong labels is that
        of the matrix. It depends on the rank of an id among all ids, so pass the complete data set.

    Returns:
      int32 [n].
    """
    draws = uniform_draws(ids, seed=seed, salt=salt)
    given = np.asarray(labels, np.int32).copy()
    for true in np.unique(labels):
        members = np.flatnonzero(labels == true)
        if sampling == "bernoulli":
            cumulative = np.cumsum(matrix[true])
            drawn = np.searchsorted(cumulative / cumulative[-1], draws[members], side="right")
            given[members] = np.minimum(drawn, len(matrix) - 1)
        else:
            ranked = members[np.lexsort((np.asarray(ids)[members], draws[members]))]
            counts = apportion(matrix[true], len(members))
            given[ranked] = np.repeat(np.arange(len(matrix)), counts)
    return given


def apportion(shares, count, *, ties=None):
    """Splits a count in the proportions of `shares`, by largest remainder.

    Args:
      shares: float [n], with the sum 1.
      count: int.
      ties: float [n]. Of equal remainders, the one with the smallest number is rounded up. None
        means that the first is.

    Returns:
      int64 [n], with the sum `count`.
    """
    exact = np.asarray(shares) * count
    counts = np.floor(exact + 1e-9).astype(np.int64)
    ties = np.arange(len(exact)) if ties is None else ties
    largest = np.lexsort((ties, -(exact - counts)))[:count - counts.sum()]
    counts[largest] += 1
    return counts


def realized_rate(true, given):
    """Returns the fraction of given labels that differ from the true ones.

    Examples with an unknown true label (-1) are left out. None if all are unknown.
    """
    known = np.asarray(true) >= 0
    if not known.any():
        return None
    return float(np.mean((np.asarray(true) != np.asarray(given))[known]))
