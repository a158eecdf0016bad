"""The transition matrix T, p(given label | true label): counted or estimated. Pure NumPy.

T is float64 [classes, classes] with one row per true class. Rows sum to 1.
"""

import numpy as np

from mlnt_tf.labels.validation import check_labels, check_labels_and_probabilities

ANCHOR_PERCENTILE = 97  # As in the authors' code. Predictions at or above it count as outliers.
CONFIDENT_TOLERANCE = 1e-6  # The mean of equal values can exceed them by a rounding error.


def true_matrix(true_labels, given_labels, num_classes):
    """Returns T as counted from the labels, or None if a true label is unknown.

    The row of a class without examples is uniform, because nothing is known about it.

    Args:
      true_labels: int [n], -1 where unknown.
      given_labels: int [n].
      num_classes: int.
    """
    if (true_labels < 0).any():
        return None
    counts = np.zeros([num_classes, num_classes])
    np.add.at(counts, (true_labels, given_labels), 1)
    counts[counts.sum(axis=1) == 0] = 1 / num_classes
    return counts / counts.sum(axis=1, keepdims=True)


def estimate_by_anchors(probabilities):
    """Estimates T from the anchor of each class (Patrini et al., CVPR 2017).

    The anchor of class i is the image with the largest predicted probability of i strictly below
    the 97th percentile of that class, which leaves out outliers. The prediction for it is row i.

    Args:
      probabilities: float [n, classes], predictions of a network trained on the given labels.

    Returns:
      float64 [classes, classes].
    """
    rows = []
    for column in probabilities.T:
        candidates = column < np.percentile(column, ANCHOR_PERCENTILE, method="higher")
        if not candidates.any():  # All predictions are equal.
            candidates[:] = True
        anchor = np.where(candidates, column, -1.0).argmax()
        rows.append(probabilities[anchor])
    matrix = np.array(rows, np.float64)
    return matrix / matrix.sum(axis=1, keepdims=True)


def confident_joint(labels, probabilities):
    """Counts confident examples by likely true class and given label (Northcutt et al. 2021).

    The threshold of class k is the mean probability of k over the examples with the given label k.
    An example counts for the most likely class among those that reach their threshold, or not at
    all. A class without given labels has no threshold and is never counted.

    The counts are not calibrated: see `calibrate_joint`.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes], rows summing to 1. Out-of-sample predictions are best; the
        noise-corrected probe is regularized enough for predictions in sample.

    Returns:
      int64 [classes, classes], indexed [true, given]. The sum is at most n.

    Raises:
      ValueError: the labels or probabilities are invalid.
    """
    labels, probabilities = check_labels_and_probabilities(labels, probabilities)
    num_classes = probabilities.shape[1]
    confident = probabilities >= _confident_thresholds(labels, probabilities) - CONFIDENT_TOLERANCE
    counted = confident.any(axis=1)
    likely = np.where(confident, probabilities, -1)[counted].argmax(axis=1)
    pairs = likely * num_classes + labels[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def _confident_thresholds(labels, probabilities):
    """Returns float64 [classes], the mean probability of each given label, infinite if absent."""
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    of_given = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=of_given, minlength=len(counts))
    return np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)


def calibrate_joint(joint, labels):
    """Rescales each given label of a confident joint to its number of examples.

    A given label that occurs but has no confident example counts as correct.

    Args:
      joint: [classes, classes], counts indexed [true, given].
      labels: int [n], all given labels.

    Returns:
      float64 [classes, classes] with the sum n. Column j sums to the number of labels j.
    """
    labels = check_labels(labels, len(joint))
    joint = np.array(joint, np.float64)
    missing = joint.sum(axis=0) == 0
    joint[missing, missing] = 1
    return joint * np.bincount(labels, minlength=len(joint)) / joint.sum(axis=0)


def transition_matrix(joint):
    """Returns T[i, j] = p(given j | true i), the joint with its rows normalized.

    A class without counts takes the row of `symmetric_matrix` with the mean diagonal of the others.

    Args:
      joint: [classes, classes], counts indexed [true, given], calibrated or not.

    Returns:
      float64 [classes, classes], rows summing to 1.
    """
    joint = np.asarray(joint, np.float64)
    sums = joint.sum(axis=1)
    seen = sums > 0
    if not seen.any():
        return np.eye(len(joint))
    normalized = joint[seen] / sums[seen, None]
    matrix = symmetric_matrix(len(joint), (joint.diagonal()[seen] / sums[seen]).mean())
    matrix[seen] = normalized
    return matrix


def symmetric_matrix(num_classes, diagonal):
    """Returns float64 [classes, classes] with one value on the diagonal and one elsewhere.

    Args:
      num_classes: int, at least 2.
      diagonal: float in 0 … 1, the probability of a correct label. The rows sum to 1.
    """
    others = (1 - diagonal) / (num_classes - 1)
    return np.full([num_classes, num_classes], others) + (diagonal - others) * np.eye(num_classes)


def half_shrunk(matrix):
    """Returns the mean of T and the matrix of symmetric noise with the same mean diagonal.

    A confident joint of few examples has rows with large sampling errors, and zeros that would
    forbid a pair of classes. Shrinkage halves the first and removes the second.

    Args:
      matrix: float [classes, classes], rows summing to 1.
    """
    return (matrix + symmetric_matrix(len(matrix), matrix.diagonal().mean())) / 2


def estimate_by_confident_joint(labels, probabilities):
    """Estimates T as the half-shrunk, row-normalized confident joint.

    Args and errors are those of `confident_joint`.

    Returns:
      float64 [classes, classes], rows summing to 1.
    """
    return half_shrunk(transition_matrix(confident_joint(labels, probabilities)))


def noise_rate(joint):
    """Returns the share of a joint that is off its diagonal, 0.0 if the joint is empty.

    The classifier's errors count as noise, so the share is usually too high.
    """
    total = np.sum(joint)
    return float(1 - np.trace(joint) / total) if total else 0.0


def noise_rate_by_class(joint):
    """Returns float64 [classes], the wrong share of each given label, NaN without counts."""
    joint = np.asarray(joint, np.float64)
    sums = joint.sum(axis=0)
    correct = np.divide(joint.diagonal(), sums, out=np.full(len(joint), np.nan), where=sums > 0)
    return 1 - correct


def confused_pairs(joint):
    """Lists the pairs of different classes with counts, the most frequent first.

    Args:
      joint: [classes, classes], indexed [true, given].

    Returns:
      list of (true, given, count). Ties keep the order of the classes.
    """
    joint = np.array(joint)
    np.fill_diagonal(joint, 0)
    pairs = [(int(true), int(given), joint[true, given].item())
             for true, given in zip(*np.nonzero(joint))]
    return sorted(pairs, key=lambda pair: -pair[2])
