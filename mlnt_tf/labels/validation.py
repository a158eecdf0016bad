"""One place that validates labels, probabilities and features. Pure NumPy."""

import numpy as np

SUM_TOLERANCE = 1e-3  # A softmax in bfloat16 or float16, stored as float32, is off by less.


def check_labels(labels, num_classes=None):
    """Returns the labels as int64 [n].

    Args:
      labels: integers [n], n at least 1.
      num_classes: int, or None to accept any label from 0 on.

    Raises:
      ValueError: the labels are not integers, not one-dimensional or outside 0 … num_classes - 1.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError("labels must be a non-empty one-dimensional array of integers. "
                         f"Received: shape {labels.shape}, dtype {labels.dtype}")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (num_classes is not None and highest >= num_classes):
        allowed = "0 … classes - 1" if num_classes is None else f"0 … {num_classes - 1}"
        raise ValueError(f"labels must lie in {allowed}. "
                         f"Received: labels from {lowest} to {highest}")
    return labels.astype(np.int64, copy=False)


def check_probabilities(probabilities):
    """Returns the probabilities as float32 or float64 [n, classes].

    Raises:
      ValueError: the array is empty or not two-dimensional with at least 2 columns, a value is
        negative or not finite, or a row does not sum to 1.
    """
    probabilities = np.asarray(probabilities)
    floating = np.issubdtype(probabilities.dtype, np.floating)
    shaped = probabilities.ndim == 2 and len(probabilities) and probabilities.shape[1] >= 2
    if not shaped or not floating:
        raise ValueError("probabilities must be floats of shape [n, classes] with n >= 1 and "
                         "at least 2 classes. "
                         f"Received: shape {probabilities.shape}, dtype {probabilities.dtype}")
    if probabilities.dtype == np.float16:
        probabilities = probabilities.astype(np.float32)
    _check_finite("probabilities", probabilities)
    row, column = np.unravel_index(probabilities.argmin(), probabilities.shape)
    if probabilities[row, column] < 0:
        raise ValueError("probabilities must not be negative. Are these logits? "
                         f"Received: {probabilities[row, column]} in row {row}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    worst = np.abs(sums - 1).argmax()
    if abs(sums[worst] - 1) > SUM_TOLERANCE:
        raise ValueError("Each row of probabilities must sum to 1. "
                         f"Received: row {worst} with the sum {sums[worst]:.6g}")
    return probabilities


def check_labels_and_probabilities(labels, probabilities):
    """Returns both arrays, as `check_labels` and `check_probabilities` do.

    Raises:
      ValueError: one of the arrays is invalid, or their lengths differ.
    """
    probabilities = check_probabilities(probabilities)
    labels = check_labels(labels, probabilities.shape[1])
    _check_lengths("labels", labels, "probabilities", probabilities)
    return labels, probabilities


def check_features(features, labels=None):
    """Returns the features as float32 [n, features].

    Args:
      features: numbers [n, features].
      labels: [n], compared by length if given.

    Raises:
      ValueError: the array is not two-dimensional, is empty, has a value that is not finite, or has
        another length than the labels.
    """
    features = np.asarray(features)
    numeric = np.issubdtype(features.dtype, np.number)
    if features.ndim != 2 or not features.size or not numeric:
        raise ValueError("features must be numbers of shape [n, features]. "
                         f"Received: shape {features.shape}, dtype {features.dtype}")
    features = features.astype(np.float32, copy=False)
    _check_finite("features", features)
    if labels is not None:
        _check_lengths("labels", labels, "features", features)
    return features


def _check_finite(name, values):
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise ValueError(f"{name} must be finite. Received: {len(rows)} rows with NaN or infinity, "
                         f"the first is row {rows[0]}")


def _check_lengths(name, values, other_name, others):
    if len(values) != len(others):
        raise ValueError(f"{name} and {other_name} must have the same length. "
                         f"Received: {len(values)} {name}, {len(others)} {other_name}")
