"""The mentor's filter (paper section 3.3): the examples of the classification loss. Pure NumPy."""

import numpy as np


def probability_of_labels(labels, probabilities):
    """Returns the probability of each example's label, float32 [n].

    Args:
      labels: int32 [n].
      probabilities: float32 [n, classes].
    """
    return probabilities[np.arange(len(labels)), labels]


def select_trusted(probability_of_given, tau):
    """Returns bool [n], whether the probability of the given label is strictly above tau.

    Args:
      probability_of_given: float32 [n], the mentor's probability of each given label.
      tau: float, the threshold.
    """
    return probability_of_given > tau


def filter_statistics(selected, given, true):
    """Counts the selected examples and compares them with the true labels, where those are known.

    Args:
      selected: bool [n].
      given: int32 [n], the given labels.
      true: int32 [n], the true labels, -1 where unknown.

    Returns:
      dict of "kept" (int, the number of selected examples), "filter_precision" (float, the fraction
      of them whose given label is correct) and "filter_recall" (float, the fraction of the examples
      with a correct given label that are selected). A fraction of no examples is None.
    """
    correct = given == true
    selected_and_known = selected & (true >= 0)
    precision = float(correct[selected_and_known].mean()) if selected_and_known.any() else None
    recall = float(selected[correct].mean()) if correct.any() else None
    return {"kept": int(selected.sum()), "filter_precision": precision, "filter_recall": recall}


def empty_classes(selected, given, num_classes):
    """Returns the classes of which no example is selected, int64 [m], in ascending order.

    Args:
      selected: bool [n].
      given: int32 [n], the given labels.
      num_classes: int.
    """
    return np.flatnonzero(np.bincount(given[selected], minlength=num_classes) == 0)
