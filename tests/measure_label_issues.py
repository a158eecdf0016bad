"""Measures scores, flags and suggestions of label issues where the true labels are known.

    python tests/measure_label_issues.py FEATURES.npz --labels=given --data=clothing_mini

FEATURES.npz holds `features` [n, features], `split` [n], `true` [n] and given labels [n].
Rows of the split "train" or "noisy_train" are judged. All other rows measure the accuracy of the
classifiers. Methods of cleanlab are measured if it is installed.

Each seed draws a subset (--images), the initial weights, the folds and the injected noise.
Instead of a column, --labels accepts noise that is injected into the true labels: symmetric:0.5,
asymmetric:0.4 (pairs of CIFAR-10 with --pairs=cifar10), uniform:0.1 (never the true class) or
clean:0.
"""

import argparse
import csv
import pathlib
import time
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold

from mlnt_tf.config.data import Noise
from mlnt_tf.data import noise
from mlnt_tf.labels import issues, probe

try:
    import cleanlab
    from cleanlab.count import estimate_joint
    from cleanlab.filter import find_label_issues as cleanlab_issues
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    cleanlab = None

COLUMNS = ["data", "method", "seed", "average_precision", "f1", "precision", "recall",
           "suggestion_accuracy", "estimated_rate", "true_rate", "test_accuracy", "seconds",
           "processor"]
TRAINING_SPLITS = ("train", "noisy_train")
FOLDS = 5
CLEANLAB_SCORES = {"self confidence": ("self_confidence", False),
                   "normalized margin": ("normalized_margin", False),
                   "weighted entropy": ("confidence_weighted_entropy", False),
                   "adjusted self confidence": ("self_confidence", True),
                   "adjusted margin": ("normalized_margin", True)}


class Task:
    """Training images with given and true labels, and test images with true labels."""

    def __init__(self, table, labels, seed, num_images, pairs):
        split, true = table["split"], table["true"]
        is_train = np.isin(split, TRAINING_SPLITS)
        train = np.flatnonzero(is_train)
        if labels in table:
            given = table[labels]
        else:
            given = inject(labels, true, seed, pairs)
        if num_images is not None:
            order = np.random.default_rng(seed).permutation(len(train))
            train = np.sort(train[order[:num_images]])
        self.seed, self.num_classes = seed, int(true.max()) + 1
        self.features, self.given, self.true = table["features"][train], given[train], true[train]
        self.test_features, self.test_true = table["features"][~is_train], true[~is_train]
        self.wrong = self.given != self.true


def inject(name, true, seed, pairs):
    kind, _, rate = name.partition(":")
    num_classes = int(true.max()) + 1
    known = {"symmetric": "symmetric", "uniform": "symmetric", "asymmetric": "asymmetric",
             "clean": "none"}
    matrix = noise.transition_matrix(Noise(known[kind]), float(rate), num_classes, dataset=pairs,
                                     symmetric_includes_true=kind == "symmetric")
    return noise.corrupt_labels(true, np.arange(len(true)), matrix, seed=seed, sampling="bernoulli")


def measure(task):
    """Yields the row of each method, a dict of some COLUMNS."""
    start = time.perf_counter()
    fitted = probe.fit_probe(task.features, task.given, task.num_classes, seed=task.seed)
    fit_seconds = time.perf_counter() - start
    found = issues.find_label_issues(task.given, features=task.features, probe=fitted)
    seconds = time.perf_counter() - start
    rate, test_accuracy = found["is_label_issue"].mean(), accuracy(fitted.probabilities, task)
    yield row(task, "noise-corrected probe", found["label_score"], found["is_label_issue"],
              found["suggested_label"], rate, seconds, test_accuracy)
    yield p_given_row(task, "noise-corrected, in sample", fitted.probabilities(task.features),
                      fit_seconds, test_accuracy)

    start = time.perf_counter()
    projection = probe.fit_projection(task.features)
    plain = fit_cross_entropy(task, projection, task.features, task.given)
    in_sample = plain.probabilities(task.features)
    seconds = time.perf_counter() - start
    plain_accuracy = accuracy(plain.probabilities, task)
    source = "cross entropy, in sample"
    yield posterior_row(task, source, in_sample, seconds, plain_accuracy)
    yield p_given_row(task, source, in_sample, seconds, plain_accuracy)

    for name, fit in CLASSIFIERS.items():
        start = time.perf_counter()
        out_of_sample = cross_validate(task, projection, fit)
        seconds = time.perf_counter() - start
        predict = fit(task, projection, task.features, task.given).probabilities
        test_accuracy = accuracy(predict, task)
        source = f"{name}, 5-fold"
        yield posterior_row(task, source, out_of_sample, seconds, test_accuracy)
        yield p_given_row(task, source, out_of_sample, seconds, test_accuracy)
        yield from cleanlab_rows(task, source, out_of_sample, seconds, test_accuracy)

    ceiling = fit_cross_entropy(task, projection, task.features, task.true)
    yield {"method": "cross entropy on the true labels", "seed": task.seed,
           "test_accuracy": accuracy(ceiling.probabilities, task)}


def posterior_row(task, source, probabilities, seconds, test_accuracy):
    start = time.perf_counter()
    found = issues.find_label_issues(task.given, probabilities, task.features)
    elapsed = seconds + time.perf_counter() - start
    return row(task, f"posterior ({source})", found["label_score"], found["is_label_issue"],
               found["suggested_label"], found["is_label_issue"].mean(), elapsed, test_accuracy)


def p_given_row(task, source, probabilities, seconds, test_accuracy):
    """Returns the row of the plain probability of the given label; disagreements are flagged."""
    score = probabilities[np.arange(len(task.given)), task.given]
    disagree = probabilities.argmax(axis=1) != task.given
    return row(task, f"p(given) ({source})", score, disagree,
               most_likely_other(task, probabilities), disagree.mean(), seconds, test_accuracy)


def cleanlab_rows(task, source, probabilities, seconds, test_accuracy):
    """Yields one row per score of cleanlab, all with the flags of its default filter."""
    if cleanlab is None:
        return
    start = time.perf_counter()
    flags = cleanlab_issues(task.given, probabilities, n_jobs=1)
    joint = estimate_joint(task.given, probabilities)
    elapsed = seconds + time.perf_counter() - start
    for name, (method, adjust) in CLEANLAB_SCORES.items():
        score = get_label_quality_scores(task.given, probabilities, method=method,
                                         adjust_pred_probs=adjust)
        yield row(task, f"cleanlab {name} ({source})", score, flags,
                  most_likely_other(task, probabilities), 1 - np.trace(joint), elapsed,
                  test_accuracy)


def fit_cross_entropy(task, projection, features, labels):
    return probe.fit_cross_entropy_probe(features, labels, task.num_classes, seed=task.seed,
                                         projection=projection)


def fit_noise_corrected(task, projection, features, labels):
    return probe.fit_probe(features, labels, task.num_classes, seed=task.seed,
                           projection=projection)


class LogisticProbe:
    """Logistic regression with scikit-learn's defaults on projected rows of norm 1."""

    def __init__(self, task, projection, features, labels):
        self.num_classes, self.projection = task.num_classes, projection
        self.model = LogisticRegression(max_iter=1000).fit(self.inputs(features), labels)

    def inputs(self, features):
        return self.projection.project(self.projection.standardize(features)) / probe.ROW_NORM

    def probabilities(self, features):
        probabilities = np.zeros([len(features), self.num_classes])
        probabilities[:, self.model.classes_] = self.model.predict_proba(self.inputs(features))
        return probabilities


CLASSIFIERS = {"cross entropy": fit_cross_entropy, "noise-corrected": fit_noise_corrected,
               "logistic": LogisticProbe}


def cross_validate(task, projection, fit):
    """Returns out-of-sample probabilities, [n, classes]."""
    probabilities = np.empty([len(task.given), task.num_classes])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=task.seed)
    for train, held_out in folds.split(task.features, task.given):
        fitted = fit(task, projection, task.features[train], task.given[train])
        probabilities[held_out] = fitted.probabilities(task.features[held_out])
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def most_likely_other(task, probabilities):
    return issues.suggest_labels(task.given, probabilities, probabilities)


def accuracy(predict, task):
    return (predict(task.test_features).argmax(axis=1) == task.test_true).mean()


def row(task, method, score, flags, suggested, rate, seconds, test_accuracy):
    wrong, any_wrong, found = task.wrong, task.wrong.any(), (flags & task.wrong).sum()
    precision = found / flags.sum() if flags.any() else np.nan
    recall = found / wrong.sum() if any_wrong else np.nan
    return {"method": method, "seed": task.seed,
            "average_precision": average_precision_score(wrong, -score) if any_wrong else np.nan,
            "f1": 2 * found / (flags.sum() + wrong.sum()), "precision": precision, "recall": recall,
            "suggestion_accuracy": (suggested == task.true)[wrong].mean() if any_wrong else np.nan,
            "estimated_rate": rate, "true_rate": wrong.mean(), "test_accuracy": test_accuracy,
            "seconds": seconds}


def cell(value):
    """Returns the text of a value: four decimals, empty where a figure is undefined."""
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.4f}"


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=pathlib.Path, metavar="FEATURES.npz")
    parser.add_argument("--labels", nargs="+", required=True, help="columns, or noise to inject")
    parser.add_argument("--data", required=True, help="name in the table; the labels follow it")
    parser.add_argument("--images", type=int, help="size of the subset that each seed draws")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", help="data set whose class pairs asymmetric noise uses")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="CSV to append to")
    arguments = parser.parse_args()
    with np.load(arguments.path) as stored:
        table = dict(stored)

    is_new = not arguments.output.exists()
    with arguments.output.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for labels in arguments.labels:
            data = f"{arguments.data} {labels}"
            if arguments.images:
                data += f" {arguments.images}"
            for seed in range(arguments.seeds):
                task = Task(table, labels, seed, arguments.images, arguments.pairs)
                for result in measure(task):
                    cells = {name: cell(value) for name, value in result.items()}
                    writer.writerow({"data": data, "processor": processor()} | cells)
                    print(data, *cells.values(), sep="  ", flush=True)
                file.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)
    main()
