"""Label issues: how suspicious each given label is, and which label fits better. Pure NumPy.

Two recipes share the score. One takes features of a pretrained network, from which the
noise-corrected probe predicts. The other takes the outputs of a run's own network. In both, M is
the mean of an image's prediction and its neighbors', and H[t] ∝ M[t] T[t, given] is the posterior
of the true label. H is not a calibrated probability.
"""

import numpy as np

from mlnt_tf.labels import confusion, structure
from mlnt_tf.labels.probe import fit_probe
from mlnt_tf.labels.validation import check_features, check_labels, check_labels_and_probabilities

PROBE_NEIGHBORS = 20
POSTERIOR_NEIGHBORS = 50
SIMILARITIES_AT_ONCE = 2**25  # 128 MB of float32, and some copies.


def find_label_issues(labels, probabilities=None, features=None, *, num_classes=None, probe=None,
                      neighbors=None, groups=None, seed=0) -> dict[str, np.ndarray]:
    """Scores every given label, suggests another one, and flags the most suspicious.

    The inputs select the recipe:
    - Features alone: the noise-corrected probe predicts. M averages 20 neighbors by cosine of the
      standardized features.
    - Probabilities and features: M averages 50 neighbors by cosine of the features.
    - Probabilities alone: M is the probabilities. The columns that need neighbors are NaN.

    A score is not a calibrated probability. On clean data 7 to 11 % of the labels are flagged.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes], predictions of the caller's own network. Out-of-sample
        predictions are best, but those of a validated checkpoint that has not memorized the
        labels work.
      features: [n, features], not augmented, in evaluation mode.
      num_classes: int; by default the columns of `probabilities`, or the largest label plus 1.
      probe: Probe that predicts instead of one fitted on all rows, for example one fitted on the
        training images alone. Only with features and without probabilities.
      neighbors: (rows, similarities) as `nearest_by_cosine` returns them, to search only once.
        Replaces the features if probabilities are given. Not with a probe.
      groups: [n], such as the names of splits. T and the share of flagged labels are estimated for
        each group, because its labels may come from another place. By default all are one group.
      seed: int, seed of the probe.

    Returns:
      dict of arrays in the order of the input, named as cleanlab names them where it has a name:
        given_label: int64 [n].
        predicted_label: int64 [n], the most probable class.
        label_score: float [n] in 0 … 1, low is suspicious: (H[given] − max H[other] + 1) / 2.
        is_label_issue: bool [n], the lowest scores. Their share is `estimate_noise_rate`.
        suggested_label: int64 [n], the most likely class other than the given one.
        suggestion_score: float [n] in 0 … 1, H[suggested] / (H[suggested] + H[given]).
        neighbor_agreement: float [n] in 0 … 1, share of neighbors with the same given label.
        outlier_score: float [n] in 0 … 1, low is unusual: exp(−mean cosine distance).

    Raises:
      ValueError: an input is invalid, or neither probabilities nor features were given.

    Example:

    ```python
    labels = np.arange(30) % 3
    probabilities = np.full([30, 3], 0.1) + 0.7 * np.eye(3)[labels]
    issues = mlnt_tf.find_label_issues(labels, probabilities)
    most_suspicious_first = issues["label_score"].argsort()
    ```
    """
    _check_sources(probabilities, features, probe, num_classes)
    labels = check_labels(labels, num_classes)
    if features is not None:
        features = check_features(features, labels)
    if probabilities is None:
        num_classes = num_classes or int(labels.max()) + 1
        probe = probe or fit_probe(features, labels, num_classes, seed=seed)
        probabilities = probe.probabilities(features)
        neighbors = nearest_by_cosine(probe.projection.standardize(features), PROBE_NEIGHBORS)
        return issues_of_predictions(labels, probabilities, neighbors, groups=groups,
                                     is_corrected=True)
    labels, probabilities = check_labels_and_probabilities(labels, probabilities)
    if neighbors is None and features is not None:
        neighbors = nearest_by_cosine(features, POSTERIOR_NEIGHBORS)
    return issues_of_predictions(labels, probabilities, neighbors, groups=groups)


def _check_sources(probabilities, features, probe, num_classes):
    if probabilities is None and features is None:
        raise ValueError("find_label_issues needs probabilities, features or both. "
                         "Received: probabilities=None, features=None")
    if probe is not None and (probabilities is not None or features is None):
        raise ValueError("A probe predicts from features, so probabilities must be None. "
                         f"Received: probe, probabilities={_shape(probabilities)}, "
                         f"features={_shape(features)}")
    if num_classes is not None and probabilities is not None:
        if np.shape(probabilities)[-1:] != (num_classes,):
            raise ValueError("probabilities must have num_classes columns. Received: "
                             f"num_classes={num_classes}, probabilities={_shape(probabilities)}")


def issues_of_predictions(labels, probabilities, neighbors=None, *, groups=None,
                          is_corrected=False):
    """Scores given labels from predictions and neighbors; see `find_label_issues`.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes].
      neighbors: (rows, similarities) of `nearest_by_cosine`, or None.
      groups: see `find_label_issues`.
      is_corrected: bool, whether the predictions are those of the noise-corrected probe. T is then
        estimated from them and adapted to the noise by `structure.matrix_for_score`. Otherwise T
        is estimated from M, because predictions of a network may be overfitted to wrong labels.

    Returns:
      dict of arrays, the columns of `find_label_issues`.
    """
    smoothed, unknown = probabilities, np.full(len(labels), np.nan)
    columns = {"neighbor_agreement": unknown, "outlier_score": unknown.copy()}
    if neighbors is not None:
        smoothed = smooth_over_neighbors(probabilities, neighbors[0])
        columns = {"neighbor_agreement": neighbor_agreement(labels, neighbors[0]),
                   "outlier_score": outlier_score(neighbors[1])}
    groups = np.zeros(len(labels), int) if groups is None else np.asarray(groups)
    found = None
    for group in np.unique(groups):
        rows = groups == group
        source = probabilities if is_corrected else smoothed
        matrix = confusion.estimate_by_confident_joint(labels[rows], source[rows])
        if is_corrected:
            matrix = structure.matrix_for_score(labels[rows], smoothed[rows], matrix)
        part = _columns(labels[rows], probabilities[rows], smoothed[rows], matrix)
        if found is None:
            found = {name: np.empty(len(labels), values.dtype) for name, values in part.items()}
        for name, values in part.items():
            found[name][rows] = values
    return found | columns


def _columns(labels, probabilities, smoothed, matrix):
    """Returns the columns of `find_label_issues` that need no neighbors."""
    posterior = posterior_of_true_label(labels, smoothed, add_pseudo_counts(matrix, len(labels)))
    suggested = suggest_labels(labels, posterior, smoothed)
    label_score = (score_labels(labels, posterior) + 1) / 2
    return {"given_label": labels,
            "predicted_label": probabilities.argmax(axis=1),
            "label_score": label_score,
            "is_label_issue": flag_lowest(label_score, estimate_noise_rate(labels, smoothed)),
            "suggested_label": suggested,
            "suggestion_score": score_suggestions(labels, suggested, posterior)}


def nearest_by_cosine(features, num_neighbors):
    """Finds the nearest other rows by cosine similarity, by full comparison in blocks.

    Args:
      features: [n, features], n at least 2. A row of zeros has similarity 0 to every row.
      num_neighbors: int, at most n − 1 are returned.

    Returns:
      (neighbors, similarities): int64 and float32 [n, num_neighbors], the most similar first.
    """
    features = check_features(features)
    count = len(features)
    if count < 2:
        raise ValueError(f"Neighbors need at least 2 rows. Received: {count} rows")
    num_neighbors = min(num_neighbors, count - 1)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(norms > 0, norms, 1)
    neighbors = np.empty([count, num_neighbors], np.int64)
    nearest = np.empty([count, num_neighbors], np.float32)
    block = max(SIMILARITIES_AT_ONCE // count, 1)
    for start in range(0, count, block):
        rows = np.arange(start, min(start + block, count))
        similarities = unit[rows] @ unit.T
        similarities[np.arange(len(rows)), rows] = -np.inf
        candidates = similarities.argpartition(-num_neighbors, axis=1)[:, -num_neighbors:]
        found = np.take_along_axis(similarities, candidates, axis=1)
        order = np.lexsort([candidates, -found], axis=1)  # Ties are ordered by row.
        neighbors[rows] = np.take_along_axis(candidates, order, axis=1)
        nearest[rows] = np.take_along_axis(found, order, axis=1)
    return neighbors, nearest


def smooth_over_neighbors(probabilities, neighbors):
    """Returns M, the mean of each row's probabilities and the mean of its neighbors'.

    Args:
      probabilities: float [n, classes].
      neighbors: int [n, num_neighbors].
    """
    total = np.zeros_like(probabilities)
    for column in neighbors.T:  # One column at a time, to not copy n × num_neighbors × classes.
        total += probabilities[column]
    return (probabilities + total / neighbors.shape[1]) / 2


def add_pseudo_counts(matrix, count):
    """Returns T as if one more example of each true class had been labeled at random.

    Where few labels are wrong, T can be estimated as the identity. Its zeros would make every given
    label certain, so that all scores would be 1. The measured average precision changes by at most
    0.0005.

    Args:
      matrix: float [classes, classes], rows sum to 1.
      count: int, the number of examples that T was estimated from.
    """
    classes = len(matrix)
    weight = classes / (count + classes)
    return (1 - weight) * matrix + weight / classes


def posterior_of_true_label(labels, probabilities, matrix):
    """Returns H, float64 [n, classes], with H[t] proportional to probabilities[t] T[t, given].

    A row without any such product equals its probabilities.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes], p(true label) from the image, without its label.
      matrix: float [classes, classes], T[i, j] = p(given j | true i).
    """
    labels, probabilities = check_labels_and_probabilities(labels, probabilities)
    products = probabilities * np.asarray(matrix, np.float64).T[labels]
    impossible = products.sum(axis=1) == 0
    products[impossible] = probabilities[impossible]
    return products / products.sum(axis=1, keepdims=True)


def score_labels(labels, posterior):
    """Returns float64 [n] in −1 … 1, H[given] minus the largest of the others."""
    rows = np.arange(len(labels))
    others = posterior.copy()
    others[rows, labels] = -np.inf
    return posterior[rows, labels] - others.max(axis=1)


def suggest_labels(labels, posterior, probabilities):
    """Returns int64 [n], the most likely class other than the given one.

    Ties, for example where H of all others is 0, are decided by the probabilities.

    Args:
      labels: int [n], given labels.
      posterior, probabilities: float [n, classes].
    """
    others = posterior.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    tied = others == others.max(axis=1, keepdims=True)
    return np.where(tied, probabilities, -1).argmax(axis=1)


def score_suggestions(labels, suggested, posterior):
    """Returns float64 [n] in 0 … 1, H[suggested] / (H[suggested] + H[given])."""
    rows = np.arange(len(labels))
    of_suggested, of_given = posterior[rows, suggested], posterior[rows, labels]
    return of_suggested / (of_suggested + of_given)


def estimate_noise_rate(labels, probabilities):
    """Returns the off-diagonal share of the confident joint, which is the share that is flagged.

    The classifier's errors count as noise. Measured error: −1 to +3 points on CIFAR-10N, +6 on
    clothing_mini, +7 to +12 with few or no wrong labels.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes], averaged over the neighbors by `smooth_over_neighbors`.
    """
    return confusion.noise_rate(confusion.confident_joint(labels, probabilities))


def flag_lowest(scores, share):
    """Returns bool [n], the rounded share with the lowest scores. Ties flag the earlier rows."""
    flags = np.zeros(len(scores), bool)
    flags[np.argsort(scores, kind="stable")[:round(share * len(scores))]] = True
    return flags


def neighbor_agreement(labels, neighbors):
    """Returns float64 [n], the share of the neighbors with the same given label.

    Args:
      labels: int [n], given labels.
      neighbors: int [n, num_neighbors].
    """
    return (labels[neighbors] == labels[:, None]).mean(axis=1)


def outlier_score(similarities):
    """Returns float [n] in 0 … 1, exp(−mean cosine distance) to the neighbors; low is unusual.

    Args:
      similarities: float [n, num_neighbors], cosine similarities.
    """
    return np.minimum(np.exp(similarities.mean(axis=1) - 1), 1)


def _shape(values):
    return None if values is None else f"shape {np.shape(values)}"
