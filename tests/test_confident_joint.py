"""The confident joint, and the transition matrix and noise rates from it, by hand."""

import numpy as np
import pytest

from mlnt_tf.labels import confusion

LABELS = np.array([0, 0, 0, 1, 1, 1])
PROBABILITIES = np.array([[.9, .1], [.8, .2], [.1, .9], [.3, .7], [.2, .8], [.6, .4]])
# Thresholds: mean of .9, .8, .1 = .6 for class 0 and mean of .7, .8, .4 = .6333 for class 1.
JOINT = [[2, 1], [1, 2]]


def test_confident_joint_by_hand():
    joint = confusion.confident_joint(LABELS, PROBABILITIES)
    np.testing.assert_array_equal(joint, JOINT)


def test_confident_joint_is_indexed_by_true_then_given():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[.9, .1], [.8, .2], [.1, .9], [.2, .8]])
    joint = confusion.confident_joint(labels, probabilities)
    assert joint[1, 0] == 1 and joint[0, 1] == 0


def test_an_example_below_all_thresholds_is_not_counted():
    probabilities = np.array([[.8, .1, .1], [.1, .8, .1], [.1, .1, .8], [.34, .33, .33]])
    joint = confusion.confident_joint(np.array([0, 1, 2, 2]), probabilities)
    np.testing.assert_array_equal(joint, np.eye(3))


def test_only_classes_that_reach_their_threshold_compete():
    # Thresholds .70, .25 and .25. The last example is confident of classes 1 and 2, not of 0.
    probabilities = np.array([[.70, .15, .15], [.5, .25, .25], [.40, .35, .25]])
    joint = confusion.confident_joint(np.array([0, 1, 2]), probabilities)
    assert joint[1, 2] == 1 and joint[0, 2] == 0


def test_equal_probabilities_reach_their_own_mean():
    probabilities = np.full([7, 3], 1 / 3, np.float32)
    assert confusion.confident_joint(np.array([0, 1, 2, 0, 1, 2, 0]), probabilities).sum() == 7


def test_absent_classes_do_not_divide_by_zero():
    labels = np.array([0, 0, 1])
    probabilities = np.array([[.9, .1, 0], [.2, .1, .7], [.1, .9, 0]])
    joint = confusion.confident_joint(labels, probabilities)
    np.testing.assert_array_equal(joint, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    with np.errstate(all="raise"):
        np.testing.assert_allclose(confusion.calibrate_joint(joint, labels).sum(axis=0), [2, 1, 0])
        matrix = confusion.estimate_by_confident_joint(labels, probabilities)
        np.testing.assert_array_equal(confusion.noise_rate_by_class(joint), [0, 0, np.nan])
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


def test_calibration_gives_each_given_label_its_count():
    labels = np.array([0] * 6 + [1] * 4)
    calibrated = confusion.calibrate_joint(JOINT, labels)
    np.testing.assert_allclose(calibrated, [[4, 4 / 3], [2, 8 / 3]])


def test_calibration_takes_a_label_without_confident_examples_as_correct():
    calibrated = confusion.calibrate_joint([[2, 0], [0, 0]], np.array([0, 0, 1, 1, 1]))
    np.testing.assert_allclose(calibrated, [[2, 0], [0, 3]])


def test_transition_matrix_normalizes_rows():
    matrix = confusion.transition_matrix([[6, 2], [1, 1]])
    np.testing.assert_allclose(matrix, [[.75, .25], [.5, .5]])


def test_a_class_without_counts_takes_the_symmetric_row():
    matrix = confusion.transition_matrix([[8, 2, 0], [0, 6, 4], [0, 0, 0]])
    np.testing.assert_allclose(matrix, [[.8, .2, 0], [0, .6, .4], [.15, .15, .7]])


def test_the_transition_matrix_of_an_empty_joint_is_the_identity():
    np.testing.assert_array_equal(confusion.transition_matrix(np.zeros([2, 2])), np.eye(2))


def test_half_shrunk_by_hand():
    # The mean diagonal is .8, so the symmetric matrix has .1 off its diagonal.
    matrix = np.array([[.9, .1, 0], [0, .7, .3], [.2, 0, .8]])
    expected = [[.85, .1, .05], [.05, .75, .2], [.15, .05, .8]]
    np.testing.assert_allclose(confusion.half_shrunk(matrix), expected)


def test_estimate_by_confident_joint_composes_the_three_steps():
    # Rows (2/3, 1/3) and (1/3, 2/3) are symmetric already.
    matrix = confusion.estimate_by_confident_joint(LABELS, PROBABILITIES)
    np.testing.assert_allclose(matrix, [[2 / 3, 1 / 3], [1 / 3, 2 / 3]])


def test_noise_rates_by_hand():
    joint = [[6, 2, 0], [1, 4, 0], [1, 0, 6]]
    assert confusion.noise_rate(joint) == pytest.approx(4 / 20)
    np.testing.assert_allclose(confusion.noise_rate_by_class(joint), [2 / 8, 2 / 6, 0])
    assert confusion.confused_pairs(joint) == [(0, 1, 2), (1, 0, 1), (2, 0, 1)]


def test_the_noise_rate_of_an_empty_joint_is_zero():
    assert confusion.noise_rate(np.zeros([3, 3])) == 0.0


@pytest.mark.parametrize("labels, probabilities, message", [
    (np.array([0., 1.]), np.eye(2), "integers. Received: shape \\(2,\\), dtype float64"),
    (np.array([True, False]), np.eye(2), "integers. Received: .* dtype bool"),
    (np.array([], int), np.zeros([0, 2]), "n >= 1.* Received: shape \\(0, 2\\)"),
    (np.array([0, 2]), np.eye(2), "0 … 1. Received: labels from 0 to 2"),
    (np.array([-1, 0]), np.eye(2), "Received: labels from -1 to 0"),
    (np.array([0]), np.eye(2), "same length. Received: 1 labels, 2 probabilities"),
    (np.array([0, 1]), np.ones([2, 1]), "at least 2 classes. Received: shape \\(2, 1\\)"),
    (np.array([0, 1]), np.array([0, 1]), "Received: shape \\(2,\\), dtype int64"),
    (np.array([0, 1]), np.array([[1, 0], [np.nan, 1]]), "Received: 1 rows .* first is row 1"),
    (np.array([0, 1]), np.array([[1, 0], [2., -1]]), "logits.* Received: -1.0 in row 1"),
    (np.array([0, 1]), np.array([[1, 0], [.5, .4]]), "Received: row 1 with the sum 0.9"),
])
def test_invalid_input_is_refused_with_what_was_received(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        confusion.confident_joint(labels, probabilities)
