"""How much label noise depends on the classes, and the matrix T that fits it. Pure NumPy.

A confident joint counts the classifier's confusions as noise. Where wrong labels are few and
uniformly random, its off-diagonal entries are mostly such confusions, and a score that believes
them takes wrong labels for plausible ones. Symmetric noise is then the better model. Where each
class has one typical wrong label, the maximum-likelihood T is better than both, because it has no
shrinkage.
"""

import numpy as np

from mlnt_tf.labels import confusion

STEPS = 30  # of expectation maximization
SAMPLE = 50_000  # Rows that the fit reads at most. They are evenly spaced.
# Chi-square per degree of freedom at which noise counts as uniform, and as structured.
UNIFORM_BELOW, STRUCTURED_ABOVE = 1.5, 4.5
# Concentration at which T is the confident joint's alone, and the maximum-likelihood one alone.
SPREAD_BELOW, CONCENTRATED_ABOVE = 0.6, 0.8


def matrix_for_score(labels, probabilities, matrix):
    """Returns T for the posterior of the true label, float64 [classes, classes].

    T is a mean of three matrices: symmetric noise, the given estimate, and the maximum-likelihood
    estimate. The weights follow from `dependence` of the last. They were chosen on ten label sets
    with three seeds each, and confirmed on others: configs/results/label_issues.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes], M, the mean of a prediction and its neighbors'.
      matrix: float [classes, classes], an estimate of T, such as the half-shrunk confident joint.
    """
    symmetric = confusion.symmetric_matrix(len(matrix), matrix.diagonal().mean())
    fitted, counts = fit_matrix(labels, probabilities, (matrix + symmetric) / 2)
    ratio, concentration = dependence(counts)
    structured = _ramp(ratio, UNIFORM_BELOW, STRUCTURED_ABOVE)
    concentrated = _ramp(concentration, SPREAD_BELOW, CONCENTRATED_ABOVE)
    spread = structured * matrix + (1 - structured) * symmetric
    return concentrated * fitted + (1 - concentrated) * spread


def fit_matrix(labels, probabilities, matrix):
    """Fits T by expectation maximization, with p(true label) fixed to the probabilities.

    Because the probabilities are soft, the classifier's confusions are not counted as noise.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes].
      matrix: float [classes, classes], the initial T. An entry of 0 stays 0.

    Returns:
      (T, counts): float64 [classes, classes]. The counts are the expected number of rows by true
      and given label. The row of a class without counts keeps its initial values.
    """
    rows = np.unique(np.linspace(0, len(labels) - 1, SAMPLE).astype(np.int64))
    labels, probabilities = labels[rows], np.asarray(probabilities[rows], np.float64)
    matrix = np.asarray(matrix, np.float64)
    counts = np.zeros_like(matrix)
    for _ in range(STEPS):
        posterior = probabilities * matrix.T[labels]
        sums = posterior.sum(axis=1, keepdims=True)
        posterior = np.divide(posterior, sums, out=posterior, where=sums > 0)
        for label in range(len(matrix)):
            counts[:, label] = posterior[labels == label].sum(axis=0)
        totals = counts.sum(axis=1, keepdims=True)
        matrix = np.divide(counts, totals, out=matrix.copy(), where=totals > 0)
    return matrix, counts


def dependence(counts):
    """Measures how far wrong labels are from uniform over the other classes.

    Args:
      counts: float [classes, classes], expected counts by true and given label.

    Returns:
      (ratio, concentration): the chi-square statistic of the off-diagonal counts per degree of
      freedom, about 1 for uniform noise, and the effect size in 0 … 1, which is 1 if each class has
      a single wrong label. Both are 0 with two classes, where noise has no such structure.
    """
    classes = len(counts)
    others = counts[~np.eye(classes, dtype=bool)].reshape(classes, classes - 1)
    sums = others.sum(axis=1, keepdims=True)
    seen = sums[:, 0] > 0
    degrees = seen.sum() * (classes - 2)
    if not degrees:
        return 0.0, 0.0
    expected = sums[seen] / (classes - 1)
    chi_square = ((others[seen] - expected) ** 2 / expected).sum()
    concentration = max(chi_square - degrees, 0) / (sums.sum() * (classes - 2))
    return chi_square / degrees, min(concentration, 1.0)


def _ramp(value, low, high):
    return float(np.clip((value - low) / (high - low), 0, 1))
