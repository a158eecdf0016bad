"""The mentor's filter, and the targets it makes (paper section 3.3)."""

import numpy as np
import pytest

from mlnt_tf.config import UserError
from mlnt_tf.data.targets import Targets
from mlnt_tf.labels import filter as filtering

GIVEN, TRUE = np.int32([0, 0, 1, 1, 2]), np.int32([0, 1, 1, 1, 2])


def test_filter_drops_probability_equal_to_tau():
    np.testing.assert_array_equal(filtering.keep_trusted(np.float32([.29, .3, .31]), .3), [False, False, True])


def test_filter_precision_and_recall_are_those_counted_by_hand():
    kept = np.array([True, True, True, False, True])
    statistics = filtering.filter_statistics(kept, GIVEN, TRUE)
    assert statistics == {"kept": 4, "filter_precision": .75, "filter_recall": .75}


def test_unknown_true_labels_do_not_count():
    statistics = filtering.filter_statistics(np.ones(5, bool), GIVEN, np.int32([0, 1, -1, -1, -1]))
    assert statistics == {"kept": 5, "filter_precision": .5, "filter_recall": 1.0}


def test_a_fraction_of_nothing_is_none():
    nothing = np.zeros(5, bool)
    assert filtering.filter_statistics(nothing, GIVEN, TRUE) == {
        "kept": 0, "filter_precision": None, "filter_recall": 0.0}


def test_an_empty_class_is_reported_with_counts(caplog):
    kept = np.array([True] * 4 + [False])
    filtering.warn_of_empty_classes(kept, GIVEN, ("cat", "dog", "bird"), flag="--tau=0.3")
    assert "--tau=0.3 leaves no example of bird (0 of 1)" in caplog.text and "[2, 2, 0]" in caplog.text


def test_targets_that_select_nothing_are_refused():
    with pytest.raises(UserError, match="--tau=0.9 keeps none of the 5 training examples"):
        Targets(GIVEN, selected=np.zeros(5, bool), selected_by="--tau=0.9")


def test_targets_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="Received: .*'weight': 4"):
        Targets(GIVEN, weights=np.ones(4, np.float32))
