import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.meta import synthetic

LABELS = tf.range(16, dtype=tf.int32)
NEIGHBORS = 100 + 10 * LABELS[:, None] + tf.range(4)  # sample i: 100 + 10 i + {0..3}


def draw(count=8, *, seed=0, step=0, m=0, labels=LABELS, neighbors=NEIGHBORS):
    return synthetic.transfer_labels(labels, neighbors, count, seed=seed, step=step, m=m).numpy()


@pytest.mark.parametrize("count", [0, 1, 8, 16])
def test_exactly_rho_samples_take_a_neighbours_label(count):
    drawn = draw(count)
    moved = drawn >= 100
    assert moved.sum() == count
    np.testing.assert_array_equal(drawn[~moved], LABELS.numpy()[~moved])
    np.testing.assert_array_equal((drawn[moved] - 100) // 10, LABELS.numpy()[moved])


def test_draws_differ_over_m_step_and_seed():
    draws = [draw(), draw(m=1), draw(step=1), draw(seed=1)]
    assert len({tuple(one) for one in draws}) == 4


def test_a_draw_is_a_pure_function_of_seed_step_and_m():
    np.testing.assert_array_equal(draw(seed=3, step=5, m=2), draw(seed=3, step=5, m=2))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_eager_graph_and_xla_draw_alike(jit_compile):
    compiled = tf.function(lambda step, m: synthetic.transfer_labels(LABELS, NEIGHBORS, 8, seed=1, step=step, m=m),
                           jit_compile=jit_compile)
    for step in range(4):
        np.testing.assert_array_equal(compiled(tf.constant(step, tf.int64), tf.constant(3)), draw(seed=1, step=step, m=3))


def test_each_sample_and_each_neighbour_is_drawn_equally_often():
    draws = np.stack([draw(step=step) for step in range(400)])
    moved = draws >= 100
    assert abs(moved.mean(axis=0) - .5).max() < .12  # standard deviation .025
    shares = np.bincount((draws[moved] % 10), minlength=4) / moved.sum()
    np.testing.assert_allclose(shares, .25, atol=.04)


def test_transfer_count_is_the_nearest_whole_number():
    assert synthetic.transfer_count(128, .5) == 64
    assert synthetic.transfer_count(10, .26) == 3
