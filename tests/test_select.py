"""The choice of the exported network."""

import types

import numpy as np
import pytest

from mlnt_tf.config import Config
from mlnt_tf.experiment.select import select_by_standard_error
from mlnt_tf.experiment.stage import Stage


def select(networks):
    return select_by_standard_error(networks, [True] * len(networks))


def correct(*counts, n=100):
    """Returns one array per count, in which that many of the first images are correct."""
    return [np.arange(n) < count for count in counts]


def test_later_network_wins_if_it_gains_more_than_a_standard_error():
    index, [comparison] = select(correct(70, 80))
    assert index == 1
    assert comparison == {"gain": pytest.approx(.1), "selected": True,
                          "standard_error": pytest.approx(np.sqrt(10) / 100)}


def test_gain_of_one_standard_error_or_less_keeps_the_cheaper_network():
    index, [comparison] = select(correct(70, 70))
    assert (index, comparison["selected"]) == (0, False)
    # Of ten images on which they disagree, six favor the later: 2 of 100, with an error of 3.16.
    first, second = correct(50, 50)
    first[50:54], second[54:60] = True, True
    index, [comparison] = select([first, second])
    assert comparison["gain"] == pytest.approx(.02)
    assert comparison["standard_error"] == pytest.approx(np.sqrt(10) / 100)
    assert index == 0


@pytest.mark.parametrize("n", [1, 2, 150])
def test_single_image_does_not_decide(n):
    assert select(correct(0, 1, n=n))[0] == 0


def test_two_images_without_a_contrary_one_decide():
    assert select(correct(100, 102, n=150))[0] == 1


def test_each_network_is_compared_with_the_one_selected_so_far():
    index, comparisons = select(correct(70, 60, 68, 90))
    assert index == 3
    assert [one["selected"] for one in comparisons] == [False, False, True]
    assert comparisons[1]["gain"] == pytest.approx(-.02)


def test_single_network_is_selected_without_a_comparison():
    assert select(correct(3)) == (0, [])


def test_network_that_costs_no_more_only_has_to_be_as_good():
    assert select_by_standard_error(correct(70, 70), [True, False])[0] == 1
    first, second = correct(50, 50)
    first[50:54], second[54:60] = True, True
    assert select_by_standard_error([first, second], [True, False])[0] == 1
    assert select_by_standard_error([second, first], [True, False])[0] == 0


@pytest.mark.parametrize("freeze, result, expected", [
    ("none", {}, True), ("none", {"takes_seconds": True}, False), ("body", {}, False),
    ("until:stage2", {}, True)])
def test_heads_on_computed_features_take_seconds(freeze, result, expected):
    stage = types.SimpleNamespace(config=Config(freeze=freeze), result=result)
    assert Stage.costs_more_than_seconds.fget(stage) is expected
