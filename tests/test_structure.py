"""T for the score: between symmetric noise, the confident joint and maximum likelihood."""

import numpy as np
import pytest

from mlnt_tf.labels import confusion, issues, structure


def labeled(matrix, count=4000, seed=0):
    """Returns (given labels, one-hot true labels smoothed by 0.02) drawn from T."""
    draws = np.random.default_rng(seed)
    true = draws.integers(len(matrix), size=count)
    given = (draws.random([count, 1]) > matrix[true].cumsum(axis=1)).sum(axis=1)
    return given, 0.94 * np.eye(len(matrix))[true] + 0.06 / len(matrix)


SYMMETRIC = confusion.symmetric_matrix(4, 0.8)
PAIRS = 0.7 * np.eye(4) + 0.3 * np.roll(np.eye(4), 1, axis=1)


def test_uniform_counts_have_no_dependence():
    assert structure.dependence(SYMMETRIC * 100) == (0, 0)


def test_one_wrong_class_each_is_full_concentration():
    # Off-diagonal counts (30, 0, 0) per row: chi-square 60 of 2 degrees, and (60 - 2) / (30 · 2).
    ratio, concentration = structure.dependence(PAIRS * 100)
    assert ratio == pytest.approx(30) and concentration == pytest.approx(58 / 60)


def test_two_classes_have_no_dependence():
    assert structure.dependence(np.array([[5., 3], [1, 9]])) == (0, 0)


def test_no_wrong_labels_have_no_dependence():
    assert structure.dependence(np.eye(3)) == (0, 0)


@pytest.mark.parametrize("matrix", [SYMMETRIC, PAIRS])
def test_fit_recovers_the_matrix(matrix):
    given, probabilities = labeled(matrix)
    fitted, counts = structure.fit_matrix(given, probabilities, confusion.symmetric_matrix(4, .6))
    np.testing.assert_allclose(fitted, matrix, atol=.06)
    assert counts.sum() == pytest.approx(len(given))


def test_fit_keeps_the_row_of_a_class_without_counts():
    fitted, _ = structure.fit_matrix(np.array([0, 0]), np.array([[1., 0], [1, 0]]), np.eye(2))
    np.testing.assert_array_equal(fitted, np.eye(2))


def test_uniform_noise_gives_the_symmetric_matrix():
    given, probabilities = labeled(SYMMETRIC)
    estimate = (SYMMETRIC + PAIRS) / 2
    matrix = structure.matrix_for_score(given, probabilities, estimate)
    np.testing.assert_allclose(matrix, confusion.symmetric_matrix(4, .75), atol=.05)


def test_concentrated_noise_gives_the_fitted_matrix():
    given, probabilities = labeled(PAIRS)
    matrix = structure.matrix_for_score(given, probabilities, SYMMETRIC)
    fitted, _ = structure.fit_matrix(given, probabilities, SYMMETRIC)
    np.testing.assert_array_equal(matrix, fitted)


def test_large_data_are_sampled_evenly(monkeypatch):
    given, probabilities = labeled(PAIRS)
    monkeypatch.setattr(structure, "SAMPLE", 1000)
    _, counts = structure.fit_matrix(given, probabilities, SYMMETRIC)
    assert counts.sum() == pytest.approx(1000)


def test_groups_are_judged_as_if_alone():
    given, probabilities = labeled(PAIRS, 300)
    other, other_probabilities = labeled(SYMMETRIC, 200, seed=1)
    groups = np.repeat(["train", "test"], [300, 200])
    found = issues.issues_of_predictions(
        np.concatenate([given, other]), np.concatenate([probabilities, other_probabilities]),
        groups=groups, is_corrected=True)
    alone = issues.issues_of_predictions(other, other_probabilities, is_corrected=True)
    for name in ("label_score", "suggested_label", "is_label_issue"):
        np.testing.assert_array_equal(found[name][300:], alone[name])
