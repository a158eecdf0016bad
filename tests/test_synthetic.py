"""Synthetic label noise: labels transferred from near neighbors (paper section 3.2)."""

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.meta import synthetic

LABELS = tf.range(16, dtype=tf.int32)
# The neighbors of example i have the labels 100 + 10 i + {0, 1, 2, 3}.
NEIGHBORS = 100 + 10 * LABELS[:, None] + tf.range(4)


def draw(count=8, *, seed=0, step=0, m=0):
    labels = synthetic.transfer_labels(LABELS, NEIGHBORS, count, seed=seed, step=step, m=m)
    return labels.numpy()


@pytest.mark.parametrize("count", [0, 1, 8, 16])
def test_exactly_rho_examples_take_a_label_of_their_neighbors(count):
    labels = draw(count)
    is_transferred = labels >= 100
    given = LABELS.numpy()
    assert is_transferred.sum() == count
    np.testing.assert_array_equal(labels[~is_transferred], given[~is_transferred])
    np.testing.assert_array_equal((labels[is_transferred] - 100) // 10, given[is_transferred])


def test_draws_differ_between_m_step_and_seed():
    draws = [draw(), draw(m=1), draw(step=1), draw(seed=1)]
    assert len({tuple(labels) for labels in draws}) == 4


def test_draw_is_a_pure_function_of_seed_step_and_m():
    np.testing.assert_array_equal(draw(seed=3, step=5, m=2), draw(seed=3, step=5, m=2))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_draw_the_labels_of_eager_mode(jit_compile):
    def transfer(step, m):
        return synthetic.transfer_labels(LABELS, NEIGHBORS, 8, seed=1, step=step, m=m)

    compiled = tf.function(transfer, jit_compile=jit_compile)
    for step in range(4):
        labels = compiled(tf.constant(step, tf.int64), tf.constant(3))
        np.testing.assert_array_equal(labels, draw(seed=1, step=step, m=3))


def test_every_example_and_neighbor_is_drawn_equally_often():
    draws = np.stack([draw(step=step) for step in range(400)])
    is_transferred = draws >= 100
    # The standard deviation of each mean is 0.025.
    assert abs(is_transferred.mean(axis=0) - .5).max() < .12
    neighbors = draws[is_transferred] % 10
    fractions = np.bincount(neighbors, minlength=4) / is_transferred.sum()
    np.testing.assert_allclose(fractions, .25, atol=.04)


@pytest.mark.parametrize("batch, ratio, count", [(128, .5, 64), (10, .26, 3), (10, 0.0, 0)])
def test_transfer_count_is_rounded_to_nearest(batch, ratio, count):
    assert synthetic.transfer_count(batch, ratio) == count
