"""T, p(given label | true label): counted or estimated."""

import numpy as np

ANCHOR_PERCENTILE = 97


def true_matrix(examples):
    """The matrix that the noise was drawn by, or the shares counted where all true labels are known, or None."""
    if examples.injected_matrix is not None:
        return examples.injected_matrix
    true, given, classes = examples.train.true_labels, examples.train.labels, len(examples.class_names)
    if (true < 0).any():
        return None
    counts = np.zeros([classes, classes])
    np.add.at(counts, (true, given), 1)
    counts[counts.sum(axis=1) == 0] = 1 / classes  # of a class that training lacks nothing is known
    return counts / counts.sum(axis=1, keepdims=True)


def estimate_by_anchors(probabilities):
    """Row i of T: the prediction for the image most surely of class i, outliers left out (Patrini et al. 2017).

    Args:
      probabilities: [n, classes], predictions on the training images.

    Returns:
      float64 [classes, classes], rows summing to 1.
    """
    rows = []
    for of_class in probabilities.T:
        below = of_class < np.percentile(of_class, ANCHOR_PERCENTILE, method="higher")
        rows.append(probabilities[np.where(below, of_class, -1.0 if below.any() else of_class).argmax()])
    matrix = np.array(rows, np.float64)
    return matrix / matrix.sum(axis=1, keepdims=True)
