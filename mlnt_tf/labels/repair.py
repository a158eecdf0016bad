"""Label repair: which labels the classification loss uses, and which examples. Pure NumPy.

Each rule takes the predictions of a trained network, the mentor, for the examples that the network
was trained on. `by_filter` is the paper's (section 3.3). The others are options of this project.
"""

import dataclasses

import numpy as np

from mlnt_tf.labels import confusion
from mlnt_tf.labels.filter import filter_statistics, probability_of_labels, select_trusted
from mlnt_tf.labels.issues import (
    POSTERIOR_NEIGHBORS,
    add_pseudo_counts,
    posterior_of_true_label,
    smooth_over_neighbors,
)

VOTES_CONFIDENCE = 0.9  # SSR's released threshold for CIFAR-10.
VOTES_NEIGHBORS = 200  # SSR's k, the example itself included.
# SSR's k is a twenty-fifth of CIFAR-10's class size. More neighbors than a fifth of a class would
# mostly belong to other classes.
NEIGHBORS_PER_CLASS_SIZE = 0.2
MIN_NEIGHBORS = 10


@dataclasses.dataclass(frozen=True)
class Repaired:
    """Labels and a selection for n examples.

    Attributes:
      labels: int32 [n].
      selected: bool [n], the examples to train on.
      trust: float [n], how far each label is trusted. Only the order matters.
    """

    labels: np.ndarray
    selected: np.ndarray
    trust: np.ndarray


def by_filter(given, probabilities, *, tau):
    """Keeps the given labels whose probability is strictly above tau.

    Args:
      given: int32 [n], the given labels.
      probabilities: float32 [n, classes], the mentor's predictions.
      tau: float.

    Returns:
      `Repaired`. A label is trusted by its probability.
    """
    trust = probability_of_labels(given, probabilities)
    return Repaired(given, select_trusted(trust, tau), trust)


def by_agreement(given, probabilities):
    """Keeps the given labels that the mentor predicts. Args and returns: see `by_filter`."""
    trust = probability_of_labels(given, probabilities)
    return Repaired(given, probabilities.argmax(axis=1) == given, trust)


def by_votes(given, probabilities, neighbors, *, confidence=VOTES_CONFIDENCE):
    """The selection of SSR (Feng et al., BMVC 2022): confident predictions, then a vote.

    A prediction above `confidence` replaces the given label. The example and its neighbors then
    vote with these labels. The votes of a class are divided by its frequency. An example is kept if
    no class has more votes than its own label.

    Args:
      given: int32 [n], the given labels.
      probabilities: float32 [n, classes], the mentor's predictions.
      neighbors: int [n, num_neighbors], the rows of the nearest other examples.
      confidence: float, SSR's theta_r.

    Returns:
      `Repaired`. A label is trusted by its votes relative to the class with the most.
    """
    labels = np.where(probabilities.max(axis=1) > confidence, probabilities.argmax(axis=1), given)
    labels = labels.astype(np.int32)
    num_classes = probabilities.shape[1]
    votes = count_votes(labels, neighbors, num_classes)
    votes[np.arange(len(labels)), labels] += 1  # The example's own vote.
    frequencies = np.bincount(labels, minlength=num_classes) / len(labels)
    votes = votes / np.maximum(frequencies, 1 / len(labels))
    return _winners(labels, votes)


def by_posterior(given, probabilities, neighbors):
    """Takes the most likely true class, and keeps it if it has the most votes of the neighbors.

    The mentor's prediction is averaged with those of the neighbors (M). T is the half-shrunk
    confident joint of M, and H[t] ∝ M[t] T[t, given] (see `labels/issues.py`).

    Args:
      given, probabilities, neighbors: see `by_votes`.

    Returns:
      `Repaired`. A label is trusted by H.
    """
    smoothed = smooth_over_neighbors(probabilities, neighbors)
    matrix = confusion.estimate_by_confident_joint(given, smoothed)
    posterior = posterior_of_true_label(given, smoothed, add_pseudo_counts(matrix, len(given)))
    labels = posterior.argmax(axis=1).astype(np.int32)
    votes = count_votes(labels, neighbors, probabilities.shape[1])
    return dataclasses.replace(_winners(labels, votes),
                               trust=probability_of_labels(labels, posterior))


def num_neighbors(kind, num_examples, num_classes):
    """Returns the number of neighbors that a rule asks for, int, or 0 if it needs none.

    It is the published number, but at most a fifth of the mean class size.

    Args:
      kind: "filter", "agree", "votes" or "posterior".
      num_examples, num_classes: int.
    """
    published = {"votes": VOTES_NEIGHBORS - 1, "posterior": POSTERIOR_NEIGHBORS}.get(kind, 0)
    limit = round(NEIGHBORS_PER_CLASS_SIZE * num_examples / num_classes)
    return min(published, max(limit, MIN_NEIGHBORS), num_examples - 1)


def count_votes(labels, neighbors, num_classes):
    """Returns float64 [n, classes], the number of each example's neighbors with each label.

    Args:
      labels: int [n].
      neighbors: int [n, num_neighbors].
      num_classes: int.
    """
    votes = np.zeros([len(labels), num_classes])
    rows = np.arange(len(labels))
    for column in np.asarray(neighbors).T:
        votes[rows, labels[column]] += 1
    return votes


def _winners(labels, votes):
    """Returns `Repaired` that keeps the labels with the most votes. Ties are kept."""
    own, most = votes[np.arange(len(labels)), labels], votes.max(axis=1)
    return Repaired(labels, own >= most, own / np.maximum(most, np.finfo(float).tiny))


def keep_most_trusted(repaired, minimum, num_classes):
    """Returns `Repaired` in which each class keeps at least a minimum of its examples.

    A class with fewer selected examples adds its most trusted ones, ties in the order of the rows.

    Args:
      repaired: `Repaired`.
      minimum: int. A class with fewer examples keeps all of them.
      num_classes: int.
    """
    selected = repaired.selected.copy()
    for label in range(num_classes):
        members = np.flatnonzero(repaired.labels == label)
        missing = minimum - selected[members].sum()
        if missing > 0:
            others = members[~selected[members]]
            order = np.argsort(-repaired.trust[others], kind="stable")
            selected[others[order[:missing]]] = True
    return dataclasses.replace(repaired, selected=selected)


def repair_statistics(repaired, given, true):
    """Counts what a rule kept, changed and dropped, and compares it with known true labels.

    Args:
      repaired: `Repaired`.
      given: int32 [n], the given labels.
      true: int32 [n], the true labels, -1 where unknown.

    Returns:
      dict of `filter_statistics` for the repaired labels, and of "changed" and "dropped" (int:
      examples selected with another label than the given one, and not selected),
      "changed_precision" (float, the fraction of the changed labels that are correct) and
      "label_recall" (float, the fraction of all examples that are selected with a correct label).
      A fraction of no examples is None.
    """
    selected, known = repaired.selected, true >= 0
    correct = repaired.labels == true
    changed = selected & (repaired.labels != given)
    return {**filter_statistics(selected, repaired.labels, true),
            "changed": int(changed.sum()),
            "dropped": int((~selected).sum()),
            "changed_precision": _fraction(correct, changed & known),
            "label_recall": _fraction(selected & correct, known)}


def _fraction(condition, members):
    """Returns the fraction of the members that meet a condition, None without members."""
    return float(condition[members].mean()) if members.any() else None
