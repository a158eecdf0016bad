"""--class_prior: the fractions of the true classes in Joint Optimization and CNN-CRF."""

import types

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.config import Config, UserError
from mlnt_tf.experiment.prior import class_prior
from mlnt_tf.methods.cnn_crf import CNNCRF, auxiliary_distribution
from mlnt_tf.methods.joint_optimization import JointOptimization, prior_loss

import tiny

PRIOR = np.float32([.5, .3, .2])
MEAN = tf.constant([.6, .3, .1])


def examples(labels=(0, 0, 0, 1, 1, 2)):
    return types.SimpleNamespace(class_names=("cat", "dog", "bird"),
                                 train=types.SimpleNamespace(labels=np.int32(labels)))


def prior_of(value, **kwargs):
    return class_prior(Config(method="joint_optimization", class_prior=str(value)),
                       examples(**kwargs))


def test_prior_loss_by_hand():
    expected = -.5 * np.log(.6) - .3 * np.log(.3) - .2 * np.log(.1)
    assert float(prior_loss(MEAN, PRIOR)) == pytest.approx(expected, abs=1e-6)
    uniform = prior_loss(MEAN, np.full(3, 1 / 3, np.float32))
    assert float(uniform) == pytest.approx(float(prior_loss(MEAN)), abs=1e-6)


def test_prior_loss_is_smallest_at_the_prior():
    at_prior = float(prior_loss(tf.constant(PRIOR), PRIOR))
    for other in ([.4, .4, .2], [.6, .2, .2], [1 / 3, 1 / 3, 1 / 3]):
        assert float(prior_loss(tf.constant(other), PRIOR)) > at_prior


def test_given_prior_counts_the_given_labels():
    np.testing.assert_allclose(prior_of("given"), [1 / 2, 1 / 3, 1 / 6])
    assert prior_of("uniform") is None


@pytest.mark.parametrize("text", ["5,3,2", "0.5\n0.3\n0.2\n"])
def test_prior_of_a_file_is_divided_by_its_sum(tmp_path, text):
    path = tmp_path / "prior.csv"
    path.write_text(text)
    np.testing.assert_allclose(prior_of(path), [.5, .3, .2])
    np.save(tmp_path / "prior.npy", [5, 3, 2])
    np.testing.assert_allclose(prior_of(tmp_path / "prior.npy"), [.5, .3, .2])


@pytest.mark.parametrize("text, message", [
    ("1,2", "holds 2 numbers for 3 classes"), ("1,2,-3", "not above 0"), ("1,0,3", "not above 0"),
    ("1,two,3", "cannot be read"), ("1,nan,3", "not above 0")])
def test_bad_files_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "prior.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        prior_of(tmp_path / "prior.csv")
    assert "--class_prior=" in str(caught.value) and "\n" not in str(caught.value)


def test_given_prior_needs_a_label_of_each_class():
    with pytest.raises(UserError, match="none is bird"):
        prior_of("given", labels=(0, 1, 1))


def test_models_use_the_prior():
    joint = JointOptimization(tiny.dense(), labels=np.eye(3, dtype=np.float32), alpha=2.0, beta=0.0,
                              prior=PRIOR)
    logits = tf.math.log(tf.constant([[.6, .3, .1]]))
    [term] = joint.batch_terms({}, logits)
    assert float(term) == pytest.approx(2 * float(prior_loss(MEAN, PRIOR)), abs=1e-6)
    matrix = np.array([[.6, .4, 0], [0, 1, 0], [0, .2, .8]])
    crf = CNNCRF(tiny.dense(), matrix=matrix, clean_labels=[-1], steps_per_epoch=1, prior=PRIOR)
    expected = auxiliary_distribution(matrix, prior=PRIOR)
    np.testing.assert_allclose(np.exp(crf.log_auxiliary), expected, rtol=1e-5)
