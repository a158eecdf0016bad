"""Measures what correcting labels by suggestions alone gains: training, relabel --auto, training.

    python tests/measure_relabel.py --data=pets --output=table.csv --train \\
        --dataset=folder --data_dir=~/pets --image_size=64
    python tests/measure_relabel.py --data=clothing_mini --output=table.csv \\
        --features=clothing_mini.npz --labels=given

With --train, the remaining arguments are flags of `python -m mlnt_tf.train`, and both trainings are
complete runs. With --features, the noise-corrected probe stands for the training; see
tests/measure_label_issues.py for the file.

One row per seed and threshold: the test accuracy before and after, the number of labels that were
replaced, and of these the share whose new label is the true one.
"""

import argparse
import csv
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import numpy as np

from measure_label_issues import Task, cell
from mlnt_tf.labels import issues, probe

COLUMNS = ["data", "classifier", "seed", "auto", "first_accuracy", "second_accuracy", "replaced",
           "images", "replaced_right", "wrong_before", "wrong_after"]


def probe_twice(task, threshold):
    """Returns a row for the noise-corrected probe before and after suggestions are taken."""
    fitted = fit(task, task.given)
    found = issues.find_label_issues(task.given, features=task.features, probe=fitted)
    replaced = found["suggestion_score"] > threshold
    labels = np.where(replaced, found["suggested_label"], task.given)
    return row(task.true, task.given, labels, replaced, first=accuracy(fitted, task),
               second=accuracy(fit(task, labels), task)) | {"classifier": "noise-corrected probe"}


def fit(task, labels):
    return probe.fit_probe(task.features, labels, task.num_classes, seed=task.seed)


def accuracy(fitted, task):
    return (fitted.probabilities(task.test_features).argmax(axis=1) == task.test_true).mean()


def train_twice(flags, threshold, directory):
    """Returns a row for two trainings, by the commands that a user types."""
    first, second, table = (directory / name for name in ("first", "second", "labels.csv"))
    command("train", *flags, f"--output_dir={first}")
    output = command("relabel", first, f"--auto={threshold}", f"--output={table}")
    suggested = shlex.split(output.strip().splitlines()[-1])  # The command that relabel names.
    command("train", *suggested[3:], f"--output_dir={second}")
    with open(table, newline="", encoding="utf-8") as file:
        replaced = np.array([cells["verdict"] == "auto" for cells in csv.DictReader(file)])
    results = [json.loads((path / "results.json").read_text()) for path in (first, second)]
    return {"classifier": results[0]["method"], "replaced": int(replaced.sum()),
            "images": len(replaced), "first_accuracy": results[0]["test_accuracy"],
            "second_accuracy": results[1]["test_accuracy"]}


def command(name, *arguments):
    """Runs a command of the package. Returns what it prints."""
    process = subprocess.run([sys.executable, "-m", f"mlnt_tf.{name}", *map(str, arguments)],
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def row(true, given, labels, replaced, *, first, second):
    right = (labels == true)[replaced].mean() if replaced.any() else np.nan
    return {"first_accuracy": first, "second_accuracy": second, "replaced": int(replaced.sum()),
            "images": len(true), "replaced_right": right, "wrong_before": (given != true).mean(),
            "wrong_after": (labels != true).mean()}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="name in the table")
    parser.add_argument("--features", type=pathlib.Path, metavar="FEATURES.npz")
    parser.add_argument("--labels", nargs="+", default=["given"], help="columns, or noise")
    parser.add_argument("--images", type=int, help="size of the subset that each seed draws")
    parser.add_argument("--pairs", help="data set whose class pairs asymmetric noise uses")
    parser.add_argument("--auto", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="CSV to append to")
    parser.add_argument("--train", nargs=argparse.REMAINDER, help="flags of both trainings")
    arguments = parser.parse_args(argv)
    is_new = not arguments.output.exists()
    with arguments.output.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for found in measure(arguments):
            writer.writerow({name: cell(value) for name, value in found.items()})
            print(*map(cell, found.values()), sep="  ", flush=True)


def measure(arguments):
    """Yields one row per label set, seed and threshold."""
    for labels in arguments.labels:
        for seed in range(arguments.seeds):
            for threshold in arguments.auto:
                head = {"data": arguments.data, "seed": seed, "auto": threshold}
                if arguments.train is not None:
                    with tempfile.TemporaryDirectory() as directory:
                        yield head | train_twice([*arguments.train, f"--seed={seed}"], threshold,
                                                 pathlib.Path(directory))
                    continue
                with np.load(arguments.features) as stored:
                    task = Task(dict(stored), labels, seed, arguments.images, arguments.pairs)
                yield head | {"data": f"{arguments.data} {labels}"} | probe_twice(task, threshold)


if __name__ == "__main__":
    main()
