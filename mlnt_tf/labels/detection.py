"""How well wrong labels are found, compared with the true ones. Pure NumPy."""

import numpy as np
from scipy.stats import rankdata

FIRST = (10, 50, 100, 250)  # Lengths of the list's beginning whose precision is reported.


def detection_statistics(columns, true_labels, rows=None):
    """Compares label issues with the true labels.

    Args:
      columns: dict of arrays [n], see `issues.find_label_issues`.
      true_labels: int [n], -1 where unknown. Images without a true label are left out.
      rows: bool [n], the images to compare, or None for all.

    Returns:
      dict, or None if no true label is known. A figure that is undefined, such as the AUROC where
      no label is wrong, is None.
        examples, wrong, flagged: int, numbers of images, wrong labels and label issues.
        auroc, average_precision: float, of 1 - label_score for wrong labels.
        precision, recall: float, of is_label_issue for wrong labels.
        suggestion_accuracy: float, the share of wrong labels whose suggested label is the true one.
        precision_of_first: dict of the number of most suspicious images, as str, to the share of
          wrong labels among them.
    """
    known = true_labels >= 0
    if rows is not None:
        known = known & rows
    if not known.any():
        return None
    given, true = columns["given_label"][known], true_labels[known]
    scores, flags = columns["label_score"][known], columns["is_label_issue"][known]
    wrong = given != true
    ranked = wrong[np.argsort(scores, kind="stable")]
    return {
        "examples": int(known.sum()), "wrong": int(wrong.sum()), "flagged": int(flags.sum()),
        "auroc": auroc(wrong, -scores), "average_precision": average_precision(wrong, -scores),
        "precision": _mean(wrong[flags]), "recall": _mean(flags[wrong]),
        "suggestion_accuracy": _mean((columns["suggested_label"][known] == true)[wrong]),
        "precision_of_first": {str(count): _mean(ranked[:count])
                               for count in FIRST if count <= len(ranked)}}


def auroc(positive, scores):
    """Returns the probability that a positive scores above a negative, ties counting half.

    Args:
      positive: bool [n].
      scores: float [n], higher for positives.

    Returns:
      float, or None unless there are both positives and negatives.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return None
    rank_sum = rankdata(scores)[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(rank_sum / (num_positive * num_negative))


def average_precision(positive, scores):
    """Returns Σ (R_k − R_{k−1}) P_k over the distinct scores, as scikit-learn defines it.

    Args:
      positive: bool [n].
      scores: float [n], higher for positives.

    Returns:
      float, or None if there are no positives.
    """
    if not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # Last row of a tie.
    hits = np.cumsum(positive[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / positive.sum())


def _mean(values):
    return float(values.mean()) if len(values) else None
