"""Label repair: filter, agree, votes and posterior, and the floor of each class."""

import numpy as np
import pytest

from mlnt_tf.labels import repair
from mlnt_tf.labels.filter import resolve_tau, two_group_threshold
from mlnt_tf.labels.repair import Repaired

GIVEN = np.int32([0, 0, 1, 1])
PREDICTED = np.float32([[.9, .1], [.4, .6], [.5, .5], [.2, .8]])
OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # All other rows.


def clusters(*, wrong, size=60):
    """Returns (given labels, true labels, predictions, neighbors) of three separate clusters.

    Each image is a neighbor of 50 others of its cluster. The first `wrong` images of each cluster
    have the label of the next class. Predictions are right and 90 % sure.
    """
    true = np.repeat(np.int32([0, 1, 2]), size)
    given = true.copy()
    for label in range(3):
        given[label * size:label * size + wrong] = (label + 1) % 3
    probabilities = np.full([3 * size, 3], .05, np.float32)
    probabilities[np.arange(3 * size), true] = .9
    ring = (np.arange(size)[:, None] + np.arange(1, 51)) % size
    neighbors = np.concatenate([ring + label * size for label in range(3)])
    return given, true, probabilities, neighbors


def test_filter_keeps_the_given_labels_above_tau():
    repaired = repair.by_filter(GIVEN, PREDICTED, tau=.5)
    np.testing.assert_array_equal(repaired.labels, GIVEN)
    np.testing.assert_array_equal(repaired.selected, [True, False, False, True])


def test_agreement_keeps_labels_that_are_predicted():
    repaired = repair.by_agreement(GIVEN, PREDICTED)
    np.testing.assert_array_equal(repaired.labels, GIVEN)
    np.testing.assert_array_equal(repaired.selected, [True, False, False, True])  # Ties: class 0.


def test_votes_replace_labels_of_confident_predictions_only():
    repaired = repair.by_votes(np.int32([1, 0, 1, 0]), PREDICTED, OTHERS, confidence=.7)
    np.testing.assert_array_equal(repaired.labels, [0, 0, 1, 1])


def test_votes_are_divided_by_the_frequency_of_the_class():
    """Classes 0, 0, 0, 1. The last row has votes 2 and 1, or 2/.75 and 1/.25 by frequency."""
    neighbors = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    labels = np.int32([0, 0, 0, 1])
    repaired = repair.by_votes(labels, np.full([4, 2], .5, np.float32), neighbors)
    assert repaired.selected.all()
    assert repair.count_votes(labels, neighbors, 2)[3].tolist() == [2, 0]


def test_votes_drop_a_label_that_its_neighbors_outvote():
    given, true, probabilities, neighbors = clusters(wrong=5)
    repaired = repair.by_votes(given, probabilities * .5 + .5 / 3, neighbors)
    np.testing.assert_array_equal(repaired.labels, given)
    np.testing.assert_array_equal(repaired.selected, given == true)


def test_posterior_restores_the_true_labels():
    given, true, probabilities, neighbors = clusters(wrong=20)
    repaired = repair.by_posterior(given, probabilities, neighbors)
    np.testing.assert_array_equal(repaired.labels, true)
    assert repaired.selected.all()
    assert repaired.labels.dtype == np.int32


def test_posterior_drops_an_image_among_another_class():
    given, true, probabilities, neighbors = clusters(wrong=0)
    neighbors[0] = np.arange(60, 110)  # An image of class 0 whose neighbors are of class 1.
    probabilities[0] = [1, 0, 0]
    repaired = repair.by_posterior(given, probabilities, neighbors)
    assert not repaired.selected[0] and repaired.selected[1:].all()


@pytest.mark.parametrize("kind, count, expected", [
    ("filter", 50_000, 0), ("agree", 50_000, 0), ("votes", 50_000, 199), ("posterior", 50_000, 50),
    ("votes", 1300, 26), ("posterior", 1300, 26), ("votes", 100, 10), ("votes", 6, 5)])
def test_number_of_neighbors_is_at_most_a_fifth_of_a_class(kind, count, expected):
    assert repair.num_neighbors(kind, count, 10) == expected


def test_floor_adds_the_most_trusted_examples_of_a_class():
    labels = np.int32([0, 0, 0, 1, 1, 1])
    selected = np.array([True, True, True, False, False, False])
    repaired = Repaired(labels, selected, np.array([.9, .8, .7, .1, .3, .2]))
    kept = repair.keep_most_trusted(repaired, 2, 3).selected
    np.testing.assert_array_equal(kept, [True, True, True, False, True, True])
    np.testing.assert_array_equal(repaired.selected, selected)


def test_floor_of_zero_changes_nothing_and_a_small_class_keeps_all():
    repaired = repair.by_filter(GIVEN, PREDICTED, tau=.95)
    np.testing.assert_array_equal(repair.keep_most_trusted(repaired, 0, 2).selected, [False] * 4)
    np.testing.assert_array_equal(repair.keep_most_trusted(repaired, 9, 2).selected, [True] * 4)


def test_statistics_equal_the_hand_counted_values():
    repaired = Repaired(np.int32([0, 1, 1, 0]), np.array([True, True, True, False]), np.ones(4))
    assert repair.repair_statistics(repaired, np.int32([0, 0, 1, 0]), np.int32([0, 1, 0, 0])) == {
        "kept": 3, "changed": 1, "dropped": 1, "filter_precision": 2 / 3, "filter_recall": 2 / 3,
        "changed_precision": 1.0, "label_recall": .5}


def test_statistics_without_true_labels_are_none():
    repaired = repair.by_agreement(GIVEN, PREDICTED)
    statistics = repair.repair_statistics(repaired, GIVEN, np.full(4, -1))
    assert (statistics["kept"], statistics["dropped"]) == (2, 2)
    assert statistics["label_recall"] is statistics["changed_precision"] is None


def test_automatic_tau_separates_two_groups():
    draws = np.random.default_rng(0)
    probability = np.concatenate([draws.normal(.1, .04, 300), draws.normal(.8, .1, 700)])
    assert .15 < two_group_threshold(probability.clip(0, 1).astype(np.float32)) < .6


def test_automatic_tau_of_one_group_keeps_every_example():
    assert two_group_threshold(np.linspace(.9, .95, 50, dtype=np.float32)) == 0


def test_tau_that_is_a_number_stays():
    assert resolve_tau(.3, None) == .3
