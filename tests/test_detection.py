"""Figures of detection and of the noise rate, by hand."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mlnt_tf.labels import detection, noise_rate

COLUMNS = {"given_label": np.array([0, 1, 2, 0]), "label_score": np.array([.1, .2, .3, .9]),
           "is_label_issue": np.array([True, True, False, False]),
           "suggested_label": np.array([1, 0, 1, 2])}
TRUE = np.array([1, 1, 0, 0])  # The first and the third label are wrong.


def test_detection_by_hand():
    found = detection.detection_statistics(COLUMNS, TRUE)
    assert found["examples"] == 4 and found["wrong"] == 2 and found["flagged"] == 2
    assert found["auroc"] == .75  # The third is behind the second, a correct one.
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["precision"] == found["recall"] == found["suggestion_accuracy"] == .5
    assert found["precision_of_first"] == {}


def test_precision_of_the_first():
    columns = {"given_label": np.zeros(60, int), "label_score": np.arange(60) / 60,
               "is_label_issue": np.zeros(60, bool), "suggested_label": np.ones(60, int)}
    found = detection.detection_statistics(columns, np.repeat([1, 0], [20, 40]))
    assert found["precision_of_first"] == {"10": 1.0, "50": .4}
    assert found["precision"] is None and found["recall"] == 0


def test_images_without_a_true_label_are_left_out():
    assert detection.detection_statistics(COLUMNS, np.full(4, -1)) is None
    assert detection.detection_statistics(COLUMNS, np.array([1, -1, -1, 0]))["examples"] == 2


def test_rows_select_a_split():
    found = detection.detection_statistics(COLUMNS, TRUE, np.array([False, True, False, True]))
    assert found["wrong"] == 0 and found["auroc"] is None and found["recall"] is None


def test_auroc_and_average_precision_are_those_of_scikit_learn():
    draws = np.random.default_rng(0)
    positive, scores = draws.random(200) < .3, draws.integers(20, size=200) / 20
    assert detection.auroc(positive, scores) == pytest.approx(roc_auc_score(positive, scores))
    assert detection.average_precision(positive, scores) == pytest.approx(
        average_precision_score(positive, scores))


def test_wilson_interval_by_hand():
    # Agresti and Coull 1998: 0 of 10 gives an upper limit of 0.278, and 5 of 10 (0.237, 0.763).
    assert noise_rate.wilson_interval(0, 10) == pytest.approx((0, .2775), abs=1e-4)
    assert noise_rate.wilson_interval(5, 10) == pytest.approx((.2366, .7634), abs=1e-4)


def test_label_noise_by_hand():
    # The joint is [[2, 1], [1, 2]], as in test_probabilities_alone_by_hand.
    labels = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.array([[.9, .1], [.8, .2], [.1, .9], [.3, .7], [.2, .8], [.6, .4]])
    found = noise_rate.estimate_label_noise(labels, probabilities, ("cat", "dog"))
    assert found["images"] == 6 and found["estimated_rate"] == pytest.approx(1 / 3)
    assert found["interval"][0] < 1 / 3 < found["interval"][1]
    assert found["per_class"] == {"cat": pytest.approx(1 / 3), "dog": pytest.approx(1 / 3)}
    np.testing.assert_allclose(found["matrix"], [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])
    assert {"true": "dog", "given": "cat", "count": 1} in found["confused_pairs"]
    json.dumps(found, allow_nan=False)


def test_class_without_images_has_no_rate():
    found = noise_rate.estimate_label_noise(
        np.array([0, 0]), np.array([[.9, .1], [.8, .2]]), ("cat", "dog"))
    assert found["per_class"]["dog"] is None and found["estimated_rate"] == 0
