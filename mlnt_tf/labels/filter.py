"""The mentor's filter (paper section 3.3): the examples of the classification loss. Pure NumPy."""

import numpy as np

MIXTURE_POINTS = 10_001
ONE_GROUP_RANGE = 0.1  # Probabilities within so small a range are not two groups.


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


def resolve_tau(tau, probability_of_given):
    """Returns the threshold as a float. "auto" is `two_group_threshold` of the probabilities."""
    return two_group_threshold(probability_of_given) if tau == "auto" else tau


def two_group_threshold(probability_of_given):
    """Returns the probability that separates trusted from distrusted labels, a float.

    A mixture of two normal distributions is fitted to the probabilities, and the threshold is where
    the group with the higher mean becomes the more likely one. If all probabilities are alike,
    there is one group, and the threshold 0 selects every example.

    Args:
      probability_of_given: float32 [n], the mentor's probability of each given label.
    """
    from sklearn.mixture import GaussianMixture

    # A million probabilities are as well described by their quantiles.
    count = min(len(probability_of_given), MIXTURE_POINTS)
    points = np.quantile(probability_of_given.astype(np.float64), np.linspace(0, 1, count))
    if points[-1] - points[0] < ONE_GROUP_RANGE:
        return 0.0
    mixture = GaussianMixture(2, means_init=points[[0, -1], None], reg_covar=1e-4, max_iter=500,
                              random_state=0).fit(points[:, None])
    low, high = np.argsort(mixture.means_[:, 0])
    between = np.linspace(mixture.means_[low, 0], mixture.means_[high, 0], 1001)
    is_trusted = mixture.predict_proba(between[:, None])[:, high] > 0.5
    return float(between[is_trusted.argmax()])


def filter_statistics(selected, given, true):
    """Counts the selected examples and compares them with the true labels, where those are known.

    Args:
      selected: bool [n].
      given: int32 [n], the given labels, or repaired ones in their place.
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
