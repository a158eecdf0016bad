"""Synthetic label noise: a transition matrix, and draws that hang on (seed, example id), never on reading order."""

import pathlib
import re
import zipfile

import numpy as np

from mlnt_tf.config import UserError

# CIFAR-10 (Patrini et al. 2017): truck to automobile, bird to airplane, deer to horse, cat and dog to each other.
CIFAR10_PAIRS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
NOISE_SALT, VALIDATION_NOISE_SALT = 0x6E6F697365, 0x76616C6E


def is_ours(noise):
    """Whether a kind of noise is drawn here, not brought by the data."""
    return noise in ("symmetric", "asymmetric") or noise.startswith("matrix:")


def transition_matrix(noise, rate, num_classes, *, symmetric_includes_true=True, dataset=None):
    """p(given | true) of a kind of noise.

    Args:
      noise: "none"; "symmetric", redrawn over all classes with probability r, (1 - r) I + r / c, or over the other
        classes alone; "asymmetric", CIFAR-10's pairs, elsewhere each class to the next; or "matrix:FILE".
      rate: r.
      num_classes: c.
      symmetric_includes_true: whether a redrawn label may be the true one.
      dataset: "cifar10", "tfds:cifar10" and its versions too, has pairs of its own.

    Returns:
      float64 [classes, classes], a row for each true class.

    Raises:
      UserError: a matrix file that is not one.
    """
    identity = np.eye(num_classes)
    if noise == "none":
        return identity
    if noise == "symmetric":
        if symmetric_includes_true:
            return (1 - rate) * identity + rate / num_classes
        return (1 - rate) * identity + rate / (num_classes - 1) * (1 - identity)
    if noise == "asymmetric":
        has_pairs = re.fullmatch("(tfds:)?cifar10([:/].*)?", dataset or "")
        pairs = CIFAR10_PAIRS if has_pairs else {i: (i + 1) % num_classes for i in range(num_classes)}
        for true, wrong in pairs.items():
            identity[true, true], identity[true, wrong] = 1 - rate, rate
        return identity
    return read_matrix(noise.removeprefix("matrix:"), num_classes)


def read_matrix(path, num_classes, *, flag=None):
    """A transition matrix from a .npy, .csv (commas) or .txt (white space or commas) file; see `transition_matrix`.

    `flag` is what an error names, --noise=matrix:FILE unless given.
    """
    flag = flag or f"--noise=matrix:{path}"
    try:
        if pathlib.Path(path).suffix == ".npy":
            matrix = np.asarray(np.load(path)).astype(np.float64, casting="same_kind")
        else:
            lines = pathlib.Path(path).read_text(encoding="utf-8-sig").replace(",", " ").splitlines()
            rows = [[float(number) for number in line.split()] for line in lines if line.strip()]
            if len({len(row) for row in rows}) != 1:
                raise UserError(f"{flag}: rows of {', '.join(str(len(row)) for row in rows) or 'no'} numbers are not "
                                "a square matrix; write one row for each true class.")
            matrix = np.array(rows)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{flag} cannot be read ({' '.join(str(error).split())}): write rows of numbers in a "
                        ".csv, .txt or .npy file.") from error
    if matrix.shape != (num_classes, num_classes):
        raise UserError(f"{flag} has shape {matrix.shape}: it must be square, {num_classes} by {num_classes} for the "
                        f"{num_classes} classes.")
    if not (matrix >= 0).all():
        raise UserError(f"{flag} has an entry below 0 or not a number: every entry is a probability.")
    totals = matrix.sum(axis=1)
    for row, total in enumerate(totals):
        if abs(total - 1) > 1e-6:
            raise UserError(f"{flag}: row {row} sums to {total:g}; the probabilities of a row must sum to 1.")
    return matrix / totals[:, None]  # an excess within the tolerance is a whole sample too many in a large class


def uniform(ids, *, seed, salt):
    """A number in [0, 1) for each id: a function of (seed, salt, id) alone; float64 [n].

    The stream of a counter-based generator is read at position id.
    """
    ids = np.asarray(ids)
    if not len(ids):
        return np.zeros(0)
    return np.random.Generator(np.random.Philox(key=[seed, salt])).random(int(ids.max()) + 1)[ids]


def corrupt(labels, ids, matrix, *, seed, sampling, salt=NOISE_SALT):
    """The given labels.

    Args:
      labels: int [n], true.
      ids: int64 [n].
      matrix: float64 [classes, classes], p(given | true).
      seed, salt: of the draws.
      sampling: "bernoulli" draws each label on its own; "exact" splits each class in the row's proportions (largest
        remainder), so that the share of wrong labels is what the matrix says: give it all the examples there are,
        since an id's rank among them counts.

    Returns:
      int32 [n].
    """
    draws = uniform(ids, seed=seed, salt=salt)
    given = np.asarray(labels, np.int32).copy()
    for true in np.unique(labels):
        members = np.flatnonzero(labels == true)
        cumulative = np.cumsum(matrix[true])
        if sampling == "bernoulli":
            drawn = np.searchsorted(cumulative / cumulative[-1], draws[members], side="right")
            given[members] = np.minimum(drawn, len(matrix) - 1)
        else:
            ranked = members[np.lexsort((np.asarray(ids)[members], draws[members]))]
            given[ranked] = np.repeat(np.arange(len(matrix)), apportion(matrix[true], len(members)))
    return given


def apportion(shares, count):
    """`count` split by `shares` (sum 1) into whole numbers, the rest to the largest remainders: int64 like shares."""
    exact = np.asarray(shares) * count
    whole = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(-(exact - whole), kind="stable")[:count - whole.sum()]
    whole[largest] += 1
    return whole


def realized_rate(true, given):
    """Share of labels that differ from the true ones; of those known (not -1), None where none is."""
    known = np.asarray(true) >= 0
    return float(np.mean((np.asarray(true) != np.asarray(given))[known])) if known.any() else None
