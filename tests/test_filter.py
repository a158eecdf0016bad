"""The mentor's filter, and the targets it makes (paper section 3.3)."""

import types

import numpy as np
import pytest

from mlnt_tf.config import UserError
from mlnt_tf.data.targets import Targets
from mlnt_tf.experiment.repair import report_repair, warn_about_empty_classes
from mlnt_tf.labels.filter import (
    empty_classes,
    filter_statistics,
    probability_of_labels,
    select_trusted,
)
from mlnt_tf.labels.repair import Repaired

GIVEN = np.int32([0, 0, 1, 1, 2])
TRUE = np.int32([0, 1, 1, 1, 2])


def test_probability_of_labels_picks_one_column_per_row():
    probabilities = np.float32([[.7, .3], [.4, .6]])
    actual = probability_of_labels(np.int32([1, 0]), probabilities)
    np.testing.assert_array_equal(actual, np.float32([.3, .4]))


def test_filter_drops_probability_equal_to_tau():
    selected = select_trusted(np.float32([.29, .3, .31]), .3)
    np.testing.assert_array_equal(selected, [False, False, True])


def test_filter_precision_and_recall_equal_the_hand_counted_values():
    selected = np.array([True, True, True, False, True])
    assert filter_statistics(selected, GIVEN, TRUE) == {
        "kept": 4, "filter_precision": .75, "filter_recall": .75}


def test_filter_statistics_ignore_unknown_true_labels():
    true = np.int32([0, 1, -1, -1, -1])
    assert filter_statistics(np.ones(5, bool), GIVEN, true) == {
        "kept": 5, "filter_precision": .5, "filter_recall": 1.0}


def test_filter_precision_without_selected_examples_is_none():
    assert filter_statistics(np.zeros(5, bool), GIVEN, TRUE) == {
        "kept": 0, "filter_precision": None, "filter_recall": 0.0}


def test_filter_recall_without_correct_labels_is_none():
    statistics = filter_statistics(np.ones(5, bool), GIVEN, np.int32([1, 2, 0, 0, 0]))
    assert statistics["filter_recall"] is None


def test_empty_classes_are_those_without_selected_examples():
    selected = np.array([True, True, False, False, False])
    np.testing.assert_array_equal(empty_classes(selected, GIVEN, 4), [1, 2, 3])


def test_empty_class_is_logged_with_counts(caplog):
    selected = np.array([True] * 4 + [False])
    warn_about_empty_classes(selected, GIVEN, ("cat", "dog", "bird"), flag="--tau=0.3")
    assert "--tau=0.3 leaves no example of bird (0 of 1)" in caplog.text
    assert "[2, 2, 0]" in caplog.text


def test_no_empty_class_logs_nothing(caplog):
    warn_about_empty_classes(np.ones(5, bool), GIVEN, ("cat", "dog", "bird"), flag="--tau=0.3")
    assert caplog.text == ""


def stage_of(labels, *, realized_rate=None):
    """Returns what `report_repair` reads of a stage."""
    train = types.SimpleNamespace(labels=labels, true_labels=np.full(len(labels), -1))
    train = type("Train", (), {**vars(train), "__len__": lambda self: len(labels)})()
    examples = types.SimpleNamespace(train=train, class_names=("cat", "dog", "bird"),
                                     realized_rate=realized_rate)
    return types.SimpleNamespace(name="iteration 2", examples=examples,
                                 config=types.SimpleNamespace(label_repair="filter"))


def test_less_than_a_third_of_the_data_is_warned_of(caplog):
    labels = np.int32([0, 1, 2] * 4)
    selected = np.zeros(12, bool)
    selected[:4] = True
    report_repair(stage_of(labels), Repaired(labels, selected, np.ones(12)))
    assert "less than a third" not in caplog.text
    selected[3] = False
    report_repair(stage_of(labels), Repaired(labels, selected, np.ones(12)))
    assert "iteration 2 trains on less than a third of the data" in caplog.text


def test_first_iteration_reports_every_given_label():
    statistics = report_repair(stage_of(GIVEN), None)
    assert (statistics["kept"], statistics["changed"], statistics["dropped"]) == (5, 0, 0)


def test_targets_that_select_nothing_are_refused():
    with pytest.raises(UserError, match="--tau=0.9 .*none of the 5 training examples"):
        Targets(GIVEN, selected=np.zeros(5, bool), selected_by="--tau=0.9")


def test_targets_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="Received: .*'weight': 4"):
        Targets(GIVEN, weights=np.ones(4, np.float32))
