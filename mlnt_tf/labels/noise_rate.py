"""How many labels are wrong: an estimate, and the rate found by an audit. Pure NumPy."""

import math

from mlnt_tf.labels import confusion

Z = 1.959964  # A 95 % interval.
# Where the truth was known, the estimate exceeded it by −0.01 to 0.12 (results/label_issues).
TOO_HIGH, TOO_LOW = 0.12, 0.01
MAX_PAIRS = 20
CLEAN_FLAGGED = "7 to 11 %"  # Of correct labels, where no label is wrong.
CAVEAT = ("The estimate counts errors of the classifier as wrong labels. On data without wrong "
          f"labels it is {CLEAN_FLAGGED}. Read it as the share that is worth a look, or audit a "
          "random sample: python -m mlnt_tf.review RUN --audit=100.")


def estimate_label_noise(labels, probabilities, class_names):
    """Estimates the rate and the pattern of wrong labels from the confident joint.

    Args:
      labels: int [n], given labels.
      probabilities: float [n, classes], averaged over the neighbors.
      class_names: sequence of str, in the order of the labels.

    Returns:
      dict that JSON can represent:
        images: int, n.
        estimated_rate: float in 0 … 1, the share of labels that look wrong.
        interval: [low, high], the sampling error at 95 %, widened by the measured bias of the
          estimate.
        per_class: dict of class name to the estimated share of wrong labels among those given the
          class, None if it has no confident image.
        matrix: list of lists, p(given | true), one row per true class.
        confused_pairs: list of {"true", "given", "count"}, the most frequent first.
        class_names: list of str.
        caveat: str.
    """
    joint = confusion.confident_joint(labels, probabilities)
    rate = confusion.noise_rate(joint)
    low, high = wilson_interval(rate * len(labels), len(labels))
    calibrated = confusion.calibrate_joint(joint, labels)
    by_class = confusion.noise_rate_by_class(joint)
    return {
        "images": len(labels),
        "estimated_rate": rate,
        "interval": [max(low - TOO_HIGH, 0.0), min(high + TOO_LOW, 1.0)],
        "per_class": {name: None if math.isnan(share) else float(share)
                      for name, share in zip(class_names, by_class)},
        "matrix": confusion.transition_matrix(calibrated).tolist(),
        "confused_pairs": [
            {"true": class_names[true], "given": class_names[given], "count": round(count)}
            for true, given, count in confusion.confused_pairs(calibrated)[:MAX_PAIRS]],
        "class_names": list(class_names),
        "caveat": CAVEAT}


def wilson_interval(successes, count):
    """Returns (low, high), the Wilson score interval of a rate at 95 %.

    Args:
      successes: float in 0 … count.
      count: int, at least 1.
    """
    rate = successes / count
    center = rate + Z**2 / (2 * count)
    half = Z * math.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max((center - half) / scale, 0.0), min((center + half) / scale, 1.0)
