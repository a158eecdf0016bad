"""Per-example losses against values computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.methods import joint_optimization

TARGETS = np.float32([[.7, .2, .1], [.1, .1, .8]])
PREDICTED = np.float32([[.5, .3, .2], [.2, .2, .6]])
LABELS = tf.constant([2, 0])
T = np.float32([[.8, .1, .1], [.2, .7, .1], [.1, .3, .6]])

PER_EXAMPLE = {
    "cross entropy": lambda logits: losses.cross_entropy(LABELS, logits),
    "soft cross entropy": lambda logits: losses.soft_cross_entropy(TARGETS, logits),
    "consistency": lambda logits: losses.kl_consistency(TARGETS, logits),
    "GCE": lambda logits: losses.generalized_cross_entropy(LABELS, logits, q=.7),
    "forward": lambda logits: losses.forward_cross_entropy(LABELS, logits, T),
    "entropy": joint_optimization.entropy_loss,
}


@pytest.mark.parametrize("loss", PER_EXAMPLE.values(), ids=PER_EXAMPLE)
def test_loss_has_one_float32_value_per_example(loss):
    """The value of an example does not depend on the other examples."""
    logits = np.log(PREDICTED)
    values = loss(logits)
    assert values.shape == [2] and values.dtype == tf.float32
    changed = loss(np.stack([logits[0], logits[1] + [1, 0, 0]]).astype(np.float32))
    assert changed[0] == values[0]
    assert changed[1] != values[1]


@pytest.mark.parametrize("loss", [PER_EXAMPLE[name] for name in list(PER_EXAMPLE)[:5]])
def test_loss_of_bfloat16_logits_is_float32(loss):
    values = loss(tf.zeros([2, 3], tf.bfloat16))
    assert values.shape == [2] and values.dtype == tf.float32


def test_mean_loss_divides_by_the_batch_size():
    values = tf.constant([1., 2, 6])
    assert float(losses.mean_loss(values)) == 3
    assert float(losses.mean_loss(values, tf.constant([1., 0, .5]))) == pytest.approx(4 / 3)


def test_weights_of_one_equal_no_weights():
    values = tf.constant(np.random.default_rng(0).normal(size=37), tf.float32)
    assert losses.mean_loss(values, tf.ones([37])) == losses.mean_loss(values)


def test_mean_of_equal_parts_is_the_mean_of_the_batch():
    rng = np.random.default_rng(0)
    values = tf.constant(rng.normal(size=12))
    weights = tf.constant(rng.uniform(size=12))
    parts = [losses.mean_loss(values[i:i + 4], weights[i:i + 4]) for i in (0, 4, 8)]
    assert float(losses.mean_loss(values, weights)) == pytest.approx(np.mean(parts))


def test_kl_consistency_by_hand():
    assert losses.mean_loss(losses.kl_consistency(TARGETS, np.log(PREDICTED))).numpy() == \
        pytest.approx(.088320, abs=1e-6)


def test_kl_consistency_is_not_symmetric():
    assert losses.mean_loss(losses.kl_consistency(PREDICTED, np.log(TARGETS))).numpy() == \
        pytest.approx(.098341, abs=1e-6)


def test_kl_consistency_accepts_a_target_of_zero():
    one_hot = np.float32([[1, 0, 0]])
    assert losses.kl_consistency(one_hot, np.log(PREDICTED[:1])).numpy() == \
        pytest.approx([np.log(2)], abs=1e-6)


def test_merged_target_by_hand():
    merged = losses.merge_targets(np.float32([.6, .3, .1]), np.float32([.2, .5, .3]), .25)
    np.testing.assert_allclose(merged, [.3, .45, .25], atol=1e-7)


def test_cross_entropy_by_hand():
    values = losses.cross_entropy(LABELS, np.log(PREDICTED))
    np.testing.assert_allclose(values, -np.log([.2, .2]), atol=1e-6)


def test_soft_cross_entropy_of_one_hot_labels_is_cross_entropy():
    logits = np.log(PREDICTED)
    np.testing.assert_allclose(losses.soft_cross_entropy(tf.one_hot(LABELS, 3), logits),
                               losses.cross_entropy(LABELS, logits), atol=1e-7)


def test_soft_cross_entropy_treats_labels_as_constants():
    probabilities = tf.constant(TARGETS)
    with tf.GradientTape() as tape:
        tape.watch(probabilities)
        loss = losses.soft_cross_entropy(probabilities, np.log(PREDICTED))
    assert tape.gradient(loss, probabilities) is None


@pytest.mark.parametrize("inner_loss", [losses.CROSS_ENTROPY])
def test_inner_loss_gradient_is_the_gradient_of_its_value(inner_loss):
    """An inner loss other than cross entropy is tested by adding it to the list."""
    logits = tf.constant(np.log(PREDICTED))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        values = inner_loss.value(LABELS, logits)
        mean = losses.mean_loss(values)
    gradient = inner_loss.gradient(LABELS, logits)
    np.testing.assert_allclose(gradient, tape.gradient(values, logits), atol=1e-7)
    np.testing.assert_allclose(losses.mean_loss_gradient(gradient), tape.gradient(mean, logits),
                               atol=1e-7)
