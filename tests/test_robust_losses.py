"""ELR and GCE."""

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses
from mlnt_tf.methods.elr import ELR
from mlnt_tf.methods.gce import GCE

import tiny

P = np.float32([[.7, .2, .1], [.2, .5, .3]])


def test_generalized_cross_entropy_equals_the_hand_computed_values():
    loss = losses.generalized_cross_entropy([0, 2], np.log(P), q=.7)
    assert loss.numpy() == pytest.approx([(1 - .7**.7) / .7, (1 - .3**.7) / .7], abs=1e-6)


def test_generalized_cross_entropy_at_q_1_is_the_absolute_error():
    loss = losses.generalized_cross_entropy([0, 2], np.log(P), q=1.0)
    assert loss.numpy() == pytest.approx([.3, .7], abs=1e-6)


@pytest.mark.parametrize("q", [1e-2, 1e-4, 1e-6])
def test_generalized_cross_entropy_approaches_cross_entropy_as_q_falls(q):
    loss = losses.generalized_cross_entropy([0, 2], np.log(P), q=q)
    assert np.abs(loss - losses.cross_entropy([0, 2], np.log(P))).max() < q


def train(model, **kwargs):
    """Returns the student's weights after six steps."""
    model.compile(learning_rate=.2, weight_decay=1e-4, **kwargs)
    model.fit(tiny.positioned(6), verbose=0)
    return tiny.weights(model.student)


def test_gce_at_small_q_trains_like_cross_entropy():
    expected = train(mlnt_tf.CrossEntropy(tiny.dense()))
    for weight, reference in zip(train(GCE(tiny.dense(), q=1e-6)), expected):
        np.testing.assert_allclose(weight, reference, atol=1e-5)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_elr_of_strength_0_equals_cross_entropy_bit_for_bit(run_eagerly):
    model = ELR(tiny.dense(), num_examples=48, strength=0)
    expected = train(mlnt_tf.CrossEntropy(tiny.dense()), run_eagerly=run_eagerly)
    for weight, reference in zip(train(model, run_eagerly=run_eagerly), expected):
        np.testing.assert_array_equal(weight, reference)


def test_elr_loss_of_two_visits_equals_the_hand_computed_values():
    model = ELR(tiny.dense(), num_examples=5, strength=3, beta=.7)
    batch = {"label": tf.constant([0, 2]), "position": tf.constant([4, 1])}
    targets = np.zeros([2, 3])
    for probabilities in (P, P[:, ::-1]):
        targets = .7 * targets + .3 * probabilities
        agreement = (probabilities * targets).sum(axis=1)
        expected = -np.log(probabilities[[0, 1], [0, 2]]) + 3 * np.log(1 - agreement)
        loss = model.per_example_loss(batch, np.log(probabilities))
        assert loss.numpy() == pytest.approx(expected, abs=1e-5)
    averages = model.averages.numpy()
    np.testing.assert_allclose(averages[[4, 1]], targets, atol=1e-6)
    assert (averages[[0, 2, 3]] == 0).all()


def test_elr_loss_of_extreme_logits_is_finite():
    model = ELR(tiny.dense(), num_examples=1, beta=0)
    batch = {"label": tf.constant([0]), "position": tf.constant([0])}
    assert np.isfinite(model.per_example_loss(batch, tf.constant([[90., 0, 0]]))).all()


@pytest.mark.parametrize("settings", [dict(jit_compile=True), dict(run_eagerly=True)])
def test_elr_trains_alike_eagerly_and_under_xla(settings):
    expected = train(ELR(tiny.dense(), num_examples=48))
    for weight, reference in zip(train(ELR(tiny.dense(), num_examples=48), **settings), expected):
        np.testing.assert_allclose(weight, reference, atol=1e-5)
