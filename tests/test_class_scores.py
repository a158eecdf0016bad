"""Accuracy per class."""

import numpy as np

from mlnt_tf.experiment.class_scores import class_accuracies, find_never_predicted

NAMES = ("cat", "dog", "newt")
LABELS = np.array([0, 0, 0, 0, 1])


def test_accuracy_of_each_class_and_their_mean():
    scores = class_accuracies(LABELS, np.array([0, 0, 0, 1, 1]), NAMES)
    assert [entry["accuracy"] for entry in scores["classes"]] == [.75, 1, None]
    assert [entry["examples"] for entry in scores["classes"]] == [4, 1, 0]
    assert [entry["predicted"] for entry in scores["classes"]] == [3, 2, 0]
    assert scores["macro_accuracy"] == .875


def test_class_that_is_never_predicted_is_found_if_it_has_images():
    assert find_never_predicted(LABELS, np.zeros(5, int), NAMES) == ["dog"]
    assert find_never_predicted(LABELS, LABELS, NAMES) == []
