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


def test_generalized_cross_entropy_by_hand():
    found = losses.generalized_cross_entropy([0, 2], np.log(P), q=.7)
    assert found.numpy() == pytest.approx([(1 - .7**.7) / .7, (1 - .3**.7) / .7], abs=1e-6)


def test_gce_is_the_mean_absolute_error_at_q_one():
    assert losses.generalized_cross_entropy([0, 2], np.log(P), q=1.0).numpy() == pytest.approx([.3, .7], abs=1e-6)


@pytest.mark.parametrize("q", [1e-2, 1e-4, 1e-6])
def test_gce_approaches_cross_entropy_as_q_falls(q):
    difference = losses.generalized_cross_entropy([0, 2], np.log(P), q=q) - losses.cross_entropy([0, 2], np.log(P))
    assert np.abs(difference).max() < q


def trained(model, **kwargs):
    model.compile(learning_rate=.2, weight_decay=1e-4, **kwargs)
    model.fit(tiny.positioned(6), verbose=0)
    return tiny.weights(model.student)


def test_gce_trains_as_cross_entropy_as_q_falls():
    for mine, theirs in zip(trained(GCE(tiny.dense(), q=1e-6)), trained(mlnt_tf.CrossEntropy(tiny.dense()))):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_elr_without_its_pull_is_cross_entropy_bit_for_bit(run_eagerly):
    for mine, theirs in zip(trained(ELR(tiny.dense(), num_examples=48, strength=0), run_eagerly=run_eagerly),
                            trained(mlnt_tf.CrossEntropy(tiny.dense()), run_eagerly=run_eagerly)):
        np.testing.assert_array_equal(mine, theirs)


def test_elr_by_hand():
    """Two visits: targets average the predictions, and the pull is toward them."""
    model = ELR(tiny.dense(), num_examples=5, strength=3, beta=.7)
    batch = {"label": tf.constant([0, 2]), "position": tf.constant([4, 1])}
    targets = np.zeros([2, 3])
    for probabilities in (P, P[:, ::-1]):
        targets = .7 * targets + .3 * probabilities
        of_label = probabilities[[0, 1], [0, 2]]
        expected = -np.log(of_label) + 3 * np.log(1 - (probabilities * targets).sum(axis=1))
        assert model.per_example_loss(batch, np.log(probabilities)).numpy() == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(model.averages.numpy()[[4, 1]], targets, atol=1e-6)
    assert (model.averages.numpy()[[0, 2, 3]] == 0).all()


def test_elr_of_a_sure_network_is_finite():
    model = ELR(tiny.dense(), num_examples=1, beta=0)
    batch = {"label": tf.constant([0]), "position": tf.constant([0])}
    assert np.isfinite(model.per_example_loss(batch, tf.constant([[90., 0, 0]]))).all()


@pytest.mark.parametrize("how", [dict(jit_compile=True), dict(run_eagerly=True)])
def test_elr_takes_the_same_steps_eagerly_and_under_xla(how):
    for mine, theirs in zip(trained(ELR(tiny.dense(), num_examples=48), **how),
                            trained(ELR(tiny.dense(), num_examples=48))):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
