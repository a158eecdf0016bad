"""The script that measures training, relabel --auto and training again, at a small size."""

import csv

import numpy as np
import pytest
from sklearn.datasets import load_digits

import measure_relabel
from pictures import tree
from test_check_label_issues import png


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_suggestions_correct_labels_of_separable_features(tmp_path):
    draws = np.random.default_rng(0)
    true = draws.integers(3, size=600)
    given = np.where(draws.random(600) < .2, (true + 1) % 3, true)
    features = draws.normal(size=[600, 16]) + 2 * draws.normal(size=[3, 16])[true]
    split = np.repeat(["train", "test"], 300)
    np.savez(tmp_path / "blobs.npz", features=features, true=true, given=given, split=split)
    measure_relabel.main(["--data=blobs", f"--features={tmp_path / 'blobs.npz'}", "--seeds=1",
                          "--auto", ".8", f"--output={tmp_path / 'table.csv'}"])
    [row] = read(tmp_path / "table.csv")
    assert row["data"] == "blobs given" and float(row["replaced_right"]) > .9
    assert float(row["wrong_after"]) < .3 * float(row["wrong_before"])


@pytest.mark.slow
def test_noisy_folder_is_trained_relabeled_and_trained_again(tmp_path):
    digits = load_digits(n_class=3)
    files = {f"{'abc'[(label + (row % 9 == 0)) % 3]}/{row}.png": png(image * 16) for row, (
        image, label) in enumerate(zip(digits.images[:150], digits.target))}
    folder = tree(tmp_path / "a folder", files)
    measure_relabel.main([
        "--data=digits", "--seeds=1", "--auto", "0", f"--output={tmp_path / 'table.csv'}",
        "--train", "--dataset=folder", f"--data_dir={folder}", "--image_size=16",
        "--method=cross_entropy", "--epochs=2", "--batch_size=16", "--width=2"])
    [row] = read(tmp_path / "table.csv")
    assert row["images"] == row["replaced"] == "150"  # Every suggestion has a score above 0.
    assert 0 <= float(row["first_accuracy"]) <= 1 and 0 <= float(row["second_accuracy"]) <= 1
