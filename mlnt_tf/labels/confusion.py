"""The transition matrix T, p(given label | true label): counted or estimated. Pure NumPy.

T is float64 [classes, classes] with one row per true class. Rows sum to 1.
"""

import numpy as np

ANCHOR_PERCENTILE = 97  # As in the authors' code. Predictions at or above it count as outliers.


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
