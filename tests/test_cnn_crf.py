"""CNN-CRF: both forms by hand, the clean labels, and what is refused."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf.config import UserError
from mlnt_tf.data.load import load_examples
from mlnt_tf.methods import cnn_crf
from mlnt_tf.training import checkpoints

import tiny

A = tf.constant([[1., 0, -1]])
B = tf.constant([[.2, .5, -.3]])
T = np.array([[.6, .4, 0], [0, 1, 0], [0, .2, .8]])
W = tf.constant([[1., 0, 0], [.5, 1, .2], [0, 0, 1]])  # [given, true]


@pytest.mark.parametrize("alpha, expected", [
    (0., (.665241, .244728, .090031)),
    (.5, (.524666, .365534, .109800)),
    (1., (.450652, .432071, .117277))])
def test_e_step_equals_the_hand_computed_value(alpha, expected):
    log_auxiliary = np.log(cnn_crf.auxiliary_distribution(T))[1].astype(np.float32)
    np.testing.assert_allclose(cnn_crf.e_step(A, log_auxiliary, alpha)[0], expected, atol=1e-6)


def test_auxiliary_distribution_is_bayes_rule_on_the_smoothed_matrix():
    actual = cnn_crf.auxiliary_distribution(T, prior=np.array([.5, .25, .25]))
    smooth = .999 * T + 1e-3 / 3
    joint = smooth[:, 1] * [.5, .25, .25]
    np.testing.assert_allclose(actual[1], joint / joint.sum())
    assert (actual > 0).all()


@pytest.mark.parametrize("epoch, alpha", [
    (0, 99), (1, 8.0909), (2, 3.7619), (5, .9608), (7, .5), (40, .5)])
def test_alpha_falls_with_the_epochs(epoch, alpha):
    assert cnn_crf.alpha_schedule(epoch).numpy() == pytest.approx(alpha, rel=1e-4)


def test_exact_form_equals_the_hand_computed_values():
    log_z = cnn_crf.log_partition(A, B, W)[0].numpy()
    assert log_z == pytest.approx(3.288503, abs=1e-6)
    log_given = tf.reduce_logsumexp(A + B[0, 1] + W[1]).numpy()
    assert log_z - log_given == pytest.approx(.753888, abs=1e-6)
    probabilities = tf.nn.softmax(cnn_crf.true_logits(A, B, W))[0]
    np.testing.assert_allclose(probabilities, [.687536, .240420, .072044], atol=1e-6)


def test_log_partition_sums_over_all_pairs_of_labels():
    pairs = A[0, None, :] + B[0, :, None] + W
    expected = float(tf.reduce_logsumexp(pairs))
    assert cnn_crf.log_partition(A, B, W)[0].numpy() == pytest.approx(expected, abs=1e-6)


def new_model(form, *, clean=None, **kwargs):
    """Returns (network, compiled model)."""
    network = tiny.dense()
    if clean is None:
        clean = np.full(24, -1)
    model = cnn_crf.CNNCRF(network, matrix=T, clean_labels=clean, steps_per_epoch=3, form=form)
    model.compile(learning_rate=.2, momentum=0.0, **kwargs)
    return network, model


@pytest.mark.parametrize("form", ["analytic", "exact"])
def test_both_heads_and_the_energy_are_trained_and_saved(form, tmp_path):
    _, model = new_model(form)
    before = [variable.numpy() for variable in model.trained_variables]
    assert len(before) == (7 if form == "exact" else 6)
    model.fit(tiny.positioned(3), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    for variable, start in zip(model.trained_variables, before):
        assert (variable.numpy() != start).any()
    saved = {id(variable) for variable in checkpoints.named_variables(model).values()}
    assert {id(variable) for variable in model.trained_variables} <= saved
    model.student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    images = tiny.batch()["image"]
    np.testing.assert_array_equal(loaded(images), model.student(images))
    assert model.teacher(images).shape == (8, 3)


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form must be 'analytic' or 'exact'.*'approximate'"):
        new_model("approximate")


def test_analytic_loss_is_the_sum_of_two_cross_entropies():
    clean = np.full(24, -1, np.int32)
    clean[0] = 2
    network, model = new_model("analytic", clean=clean)
    batch = next(iter(tiny.positioned(1)))
    a, b = model.both.value(batch["image"])
    log_auxiliary = np.log(cnn_crf.auxiliary_distribution(T)).astype(np.float32)
    q = cnn_crf.e_step(a, log_auxiliary[batch["label"]], 99.).numpy()
    q[0] = [0, 0, 1]
    log_given = tf.gather(tf.nn.log_softmax(b), batch["label"], axis=1, batch_dims=1)
    expected = -np.mean(np.sum(q * tf.nn.log_softmax(a), axis=1)) - np.mean(log_given)
    logits, loss = model.forward(batch)
    assert loss.shape == [8]
    assert np.mean(loss) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(logits, network(batch["image"]))


def test_exact_loss_with_clean_labels_is_minus_log_p_of_the_pair():
    _, model = new_model("exact", clean=np.full(24, 2))
    model.pairwise.energy.assign(W)
    batch = next(iter(tiny.positioned(1)))
    a, b = (head.numpy() for head in model.both.value(batch["image"]))
    pairs = a[:, None, :] + b[:, :, None] + W.numpy()
    log_p = pairs[np.arange(8), batch["label"], 2] - np.log(np.exp(pairs).sum(axis=(1, 2)))
    np.testing.assert_allclose(model.forward(batch)[1], -log_p, atol=1e-5)


def test_clean_labels_are_balanced_and_depend_on_the_seed():
    train = load_examples(mlnt_tf.Config()).train
    clean = cnn_crf.draw_clean_labels(train, 25, num_classes=10, seed=0)
    drawn = clean >= 0
    assert np.bincount(clean[drawn]).tolist() == [3] * 5 + [2] * 5
    np.testing.assert_array_equal(clean[drawn], train.true_labels[drawn])
    assert (cnn_crf.draw_clean_labels(train, 25, num_classes=10, seed=1) != clean).any()


def test_more_clean_labels_than_examples_use_all_of_them():
    train = load_examples(mlnt_tf.Config()).train
    clean = cnn_crf.draw_clean_labels(train, 10**6, num_classes=10, seed=0)
    np.testing.assert_array_equal(clean, train.true_labels)


def test_clean_labels_without_true_labels_are_refused():
    config = mlnt_tf.Config(train_examples=200, batch_size=32)
    examples = load_examples(config)
    train = dataclasses.replace(examples.train, true_labels=None)
    examples = dataclasses.replace(examples, train=train)
    network = examples.new_network(config)
    with pytest.raises(UserError, match="--num_clean_labels=1000 needs true labels") as caught:
        cnn_crf.check(config, examples, network)
    assert "\n" not in str(caught.value)
    cnn_crf.check(dataclasses.replace(config, num_clean_labels=0), examples, network)
