"""Measures how many of the first n suspects are really wrong, next to cleanlab. Not a test.

    python tests/measure_first_suspects.py FEATURES.npz --data=clothing_mini --labels=given \
        --output=configs/results/first_suspects/table.csv

FEATURES.npz and --labels are those of measure_label_issues.py. cleanlab, which must be installed,
scores out-of-fold predictions of a linear probe on the same features.
"""

import argparse
import csv
import pathlib

import numpy as np
from cleanlab.rank import get_label_quality_scores
from measure_label_issues import (
    CLEANLAB_SCORES,
    Task,
    cross_validate,
    fit_cross_entropy,
)

from mlnt_tf.labels import issues, probe

COLUMNS = ["data", "method", "seed", "n", "precision"]
COUNTS = (25, 50, 100, 150, 250, 400, 600, 800, 1000)


def scores(task):
    """Yields (name of the method, label scores [n], low for a suspicious label)."""
    fitted = probe.fit_probe(task.features, task.given, task.num_classes, seed=task.seed)
    found = issues.find_label_issues(task.given, features=task.features, probe=fitted)
    yield "mlnt_tf", found["label_score"]
    projection = probe.fit_projection(task.features)
    probabilities = cross_validate(task, projection, fit_cross_entropy)
    for name, (method, adjust) in CLEANLAB_SCORES.items():
        yield f"cleanlab {name}", get_label_quality_scores(
            task.given, probabilities, method=method, adjust_pred_probs=adjust)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=pathlib.Path, metavar="FEATURES.npz")
    parser.add_argument("--data", required=True, help="name in the table; the labels follow it")
    parser.add_argument("--labels", required=True, help="a column of given labels")
    parser.add_argument("--images", type=int, help="size of the subset that each seed draws")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="CSV to append to")
    options = parser.parse_args()
    with np.load(options.path) as stored:
        table = dict(stored)
    is_new = not options.output.exists()
    with options.output.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        for seed in range(options.seeds):
            task = Task(table, options.labels, seed, options.images, None)
            for method, score in scores(task):
                wrong = task.wrong[np.argsort(score, kind="stable")]
                writer.writerows((f"{options.data} {options.labels}", method, seed, count,
                                  f"{wrong[:count].mean():.4f}") for count in COUNTS)


if __name__ == "__main__":
    main()
