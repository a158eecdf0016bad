"""The mentor's filter (paper section 3.3): which examples the classification loss keeps. Pure NumPy."""

import numpy as np
from absl import logging


def probability_of_labels(labels, probabilities):
    """Returns the probability of each example's label, float32 [n].

    Args:
      labels: int32 [n].
      probabilities: float32 [n, classes].
    """
    return probabilities[np.arange(len(labels)), labels]


def keep_trusted(probability_of_given, tau):
    """Returns bool [n]: the probability of the given label is strictly above tau (paper section 3.3)."""
    return probability_of_given > tau


def filter_statistics(kept, given, true):
    """Counts the kept examples and compares them with the true labels, where those are known.

    Args:
      kept: bool [n].
      given, true: int32 [n]; a true label is -1 where it is unknown.

    Returns:
      {"kept": int, "filter_precision": clean fraction of the kept examples, "filter_recall": kept fraction of the clean
      examples}. A fraction of nothing is None.
    """
    clean = given == true
    kept_and_known = kept & (true >= 0)
    return {"kept": int(kept.sum()),
            "filter_precision": float(clean[kept_and_known].mean()) if kept_and_known.any() else None,
            "filter_recall": float(kept[clean].mean()) if clean.any() else None}


def warn_of_empty_classes(kept, given, class_names, *, flag):
    """Logs a warning that names every class of which the filter keeps no example.

    Args:
      kept: bool [n].
      given: int32 [n].
      class_names: str, in the order of the labels.
      flag: str, the flag that made the selection.
    """
    available = np.bincount(given, minlength=len(class_names))
    remaining = np.bincount(given[kept], minlength=len(class_names))
    empty = [f"{name} (0 of {available[label]})" for label, name in enumerate(class_names) if not remaining[label]]
    if empty:
        logging.warning("%s leaves no example of %s. Examples kept per class: %s. Lower it to keep them.",
                        flag, ", ".join(empty), remaining.tolist())
