"""Writes clothing_mini as two tables for --dataset=csv, with given and with true labels.

    python tests/clothing_tables.py DIR TRUTH OUTPUT

DIR holds clothing_mini, TRUTH its true labels. The 3,321 images of the noisy list train, and all
1,640 images with a clean label test. Not a test.
"""

import csv
import pathlib
import sys


def read_labels(path):
    """Returns {path of an image: label as text} of a file of "path label" lines."""
    lines = path.read_text().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if line)


def main():
    data, truth, output = map(pathlib.Path, sys.argv[1:])
    names = data.joinpath("category_names_eng.txt").read_text().split("\n")
    clean = read_labels(data / "clean_label_kv.txt")
    train = data.joinpath("noisy_train_key_list.txt").read_text().split()
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "images").exists():
        (output / "images").symlink_to((data / "images").resolve())
    labels = {"noisy": read_labels(data / "noisy_label_kv.txt"),
              "true": read_labels(truth / "noisy_train_true_label_kv.txt")}
    for name, of_image in labels.items():
        with open(output / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split"])
            writer.writerows([path, names[int(of_image[path])], "train"] for path in train)
            writer.writerows([path, names[int(label)], "test"] for path, label in clean.items())


if __name__ == "__main__":
    main()
