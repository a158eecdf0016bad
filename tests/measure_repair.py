"""Trains variants of synthetic labels and label repair on the digits, next to nearest neighbors.

    python tests/measure_repair.py --output=configs/results/repair_digits/table.csv

A row is one seed of one variant under one noise. Accuracies are those of the exported network at
its best validated epoch, and of the last stage's network of the same name at its last epoch, in
percent. A finished run in --runs is not trained again.
"""

import argparse
import csv
import dataclasses
import pathlib

from sklearn.neighbors import KNeighborsClassifier

from mlnt_tf.config import Config
from mlnt_tf.data.load import load_examples

COLUMNS = ["noise", "variant", "seed", "best", "last", "kept", "changed", "kept_correct",
           "label_recall", "seconds"]
NOISES = {"symmetric 0.5": dict(noise="symmetric", noise_rate=0.5),
          "asymmetric 0.4": dict(noise="asymmetric", noise_rate=0.4)}
NEIGHBORS = 20  # of the reference without any network
EXPECTED, MIXUP = dict(synthetic="expected"), dict(mixup=4.0, min_per_class=10)
VARIANTS = {
    "mean teacher, filter": dict(method="mean_teacher"),
    "M = 2, filter": dict(num_synthetic=2),
    "expected, filter": EXPECTED,
    "expected, agree and mixup": EXPECTED | MIXUP | dict(label_repair="agree"),
    "expected, votes and mixup": EXPECTED | MIXUP | dict(label_repair="votes"),
    "expected, posterior and mixup": EXPECTED | MIXUP | dict(label_repair="posterior")}


def nearest_neighbors(config):
    """Returns the test accuracy of nearest neighbors on raw pixels, with the given labels."""
    examples = load_examples(config)
    train, test = examples.train, examples.test
    classifier = KNeighborsClassifier(NEIGHBORS)
    classifier.fit(train.images.array.reshape(len(train), -1), train.labels)
    return classifier.score(test.images.array.reshape(len(test), -1), test.labels)


def measure(config):
    """Trains a run, or reads it if it has finished. Returns the columns of its row."""
    from mlnt_tf import runner

    results = runner.run(config)
    last = results["iterations"][-1]
    return {"best": percent(results["best_accuracy"]), "last": percent(results["last_accuracy"]),
            "kept": last["kept"], "changed": last["changed"],
            "kept_correct": percent(last["filter_precision"]),
            "label_recall": percent(last["label_recall"]), "seconds": round(results["seconds"])}


def percent(fraction):
    return round(100 * fraction, 1)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each iteration")
    parser.add_argument("--runs", default="runs/repair_digits", help="directory of the runs")
    parser.add_argument("--output", help="path of the table", required=True)
    options = parser.parse_args(argv)
    rows = []
    for seed in options.seeds:
        for noise, settings in NOISES.items():
            base = Config(seed=seed, iterations=2, epochs=options.epochs, **settings)
            row = {"noise": noise, "seed": seed}
            rows.append(row | {"variant": f"{NEIGHBORS} nearest neighbors on raw pixels",
                               "best": percent(nearest_neighbors(base))})
            for variant, changes in VARIANTS.items():
                name = f"{noise} {variant} {seed}".replace(",", "").replace(" ", "_")
                output_dir = str(pathlib.Path(options.runs) / name)
                config = dataclasses.replace(base, output_dir=output_dir, **changes)
                rows.append(row | {"variant": variant} | measure(config))
                write(options.output, rows)


def write(path, rows):
    """Writes the rows, those of one noise and variant next to each other."""
    order = {noise: place for place, noise in enumerate(NOISES)}
    variants = {variant: place for place, variant in enumerate(VARIANTS)}
    rows = sorted(rows, key=lambda row: (order[row["noise"]], variants.get(row["variant"], -1)))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
