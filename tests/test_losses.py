import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf import losses

TARGETS = np.float32([[.7, .2, .1], [.1, .1, .8]])
PREDICTED = np.float32([[.5, .3, .2], [.2, .2, .6]])


def test_kl_is_a_mean_over_the_batch():
    assert losses.kl_consistency(TARGETS, np.log(PREDICTED)).numpy() == pytest.approx(.088320, abs=1e-6)


def test_kl_is_not_symmetric():
    assert losses.kl_consistency(PREDICTED, np.log(TARGETS)).numpy() == pytest.approx(.098341, abs=1e-6)


def test_kl_takes_a_target_of_zero():
    one_hot = np.float32([[1, 0, 0]])
    assert losses.kl_consistency(one_hot, np.log(PREDICTED[:1])).numpy() == pytest.approx(np.log(2), abs=1e-6)


def test_merged_target():
    merged = losses.merge_targets(np.float32([.6, .3, .1]), np.float32([.2, .5, .3]), .25)
    np.testing.assert_allclose(merged, [.3, .45, .25], atol=1e-7)


def test_cotangent_is_the_gradient_of_cross_entropy():
    labels, logits = tf.constant([2, 0]), tf.constant(np.log(PREDICTED))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.cross_entropy(labels, logits)
    expected = tape.gradient(loss, logits)
    np.testing.assert_allclose(losses.cross_entropy_cotangent(labels, tf.nn.softmax(logits)), expected, atol=1e-7)
    assert loss.numpy() == pytest.approx(-np.log([.2, .2]).mean(), abs=1e-6)


def test_losses_of_bfloat16_logits_are_float32():
    assert losses.cross_entropy(tf.constant([1]), tf.zeros([1, 3], tf.bfloat16)).dtype == tf.float32
