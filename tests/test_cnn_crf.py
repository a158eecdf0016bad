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
    (0., (.665241, .244728, .090031)), (.5, (.524666, .365534, .109800)), (1., (.450652, .432071, .117277))])
def test_e_step_by_hand(alpha, expected):
    log_auxiliary = np.log(cnn_crf.auxiliary_distribution(T))[1].astype(np.float32)
    np.testing.assert_allclose(cnn_crf.e_step(A, log_auxiliary, alpha)[0], expected, atol=1e-6)


def test_the_auxiliary_distribution_is_bayes_rule_on_the_smoothed_matrix():
    found = cnn_crf.auxiliary_distribution(T, prior=np.array([.5, .25, .25]))
    smooth = .999 * T + 1e-3 / 3
    np.testing.assert_allclose(found[1], smooth[:, 1] * [.5, .25, .25] / (smooth[:, 1] @ [.5, .25, .25]))
    assert (found > 0).all()


@pytest.mark.parametrize("epoch, alpha", [(0, 99), (1, 8.0909), (2, 3.7619), (5, .9608), (7, .5), (40, .5)])
def test_alpha_falls_with_the_epochs(epoch, alpha):
    assert cnn_crf.alpha_schedule(epoch).numpy() == pytest.approx(alpha, rel=1e-4)


def test_the_exact_form_by_hand():
    log_z = cnn_crf.log_partition(A, B, W)[0].numpy()
    assert log_z == pytest.approx(3.288503, abs=1e-6)
    log_of_given = tf.reduce_logsumexp(A + B[0, 1] + W[1])
    assert log_z - log_of_given.numpy() == pytest.approx(.753888, abs=1e-6)
    np.testing.assert_allclose(tf.nn.softmax(cnn_crf.true_logits(A, B, W))[0], [.687536, .240420, .072044], atol=1e-6)


def test_log_z_is_the_sum_over_all_pairs_of_labels():
    states = A[0, None, :] + B[0, :, None] + W
    assert cnn_crf.log_partition(A, B, W)[0].numpy() == pytest.approx(float(tf.reduce_logsumexp(states)), abs=1e-6)


def model_of(form, *, clean=None, **kwargs):
    network = tiny.dense()
    model = cnn_crf.CNNCRF(network, matrix=T, clean_labels=np.full(24, -1) if clean is None else clean,
                           steps_per_epoch=3, form=form)
    model.compile(learning_rate=.2, momentum=0.0, **kwargs)
    return network, model


@pytest.mark.parametrize("form", ["analytic", "exact"])
def test_both_heads_and_the_pairwise_energy_are_trained_and_saved(form, tmp_path):
    _, model = model_of(form)
    before = [variable.numpy() for variable in model.trained_variables]
    assert len(before) == (7 if form == "exact" else 6)
    model.fit(tiny.positioned(3), verbose=0, callbacks=[mlnt_tf.EmaTeacher(.9)])
    assert all((variable.numpy() != start).any() for variable, start in zip(model.trained_variables, before))
    saved = {id(variable) for variable in checkpoints.named_variables(model).values()}
    assert {id(variable) for variable in model.trained_variables} <= saved
    model.student.save(tmp_path / "student.keras")
    images = tiny.batch()["image"]
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "student.keras")(images), model.student(images))
    assert model.teacher(images).shape == (8, 3)


def test_the_loss_of_the_analytic_form_is_the_sum_of_two_cross_entropies():
    network, model = model_of("analytic", clean=np.eye(24, dtype=np.int32)[0] * 3 - 1)  # the first is of class 2
    batch = next(iter(tiny.positioned(1)))
    a, b = model.both.value(batch["image"])
    q = cnn_crf.e_step(a, np.log(cnn_crf.auxiliary_distribution(T))[batch["label"]].astype(np.float32), 99.).numpy()
    q[0] = [0, 0, 1]
    expected = -np.mean(np.sum(q * tf.nn.log_softmax(a), axis=1)) - np.mean(
        tf.gather(tf.nn.log_softmax(b), batch["label"], axis=1, batch_dims=1))
    logits, loss = model.forward(batch)
    assert loss.shape == [8]
    assert np.mean(loss) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(logits, network(batch["image"]))


def test_the_loss_of_the_exact_form_with_a_clean_label_is_log_p_of_the_pair():
    _, model = model_of("exact", clean=np.full(24, 2))
    model.pairwise.energy.assign(W)
    batch = next(iter(tiny.positioned(1)))
    a, b = (head.numpy() for head in model.both.value(batch["image"]))
    states = a[:, None, :] + b[:, :, None] + W.numpy()
    log_p = states[np.arange(8), batch["label"], 2] - np.log(np.exp(states).sum(axis=(1, 2)))
    np.testing.assert_allclose(model.forward(batch)[1], -log_p, atol=1e-5)


def test_clean_labels_are_balanced_and_fewer_where_there_are_fewer():
    loaded = load_examples(mlnt_tf.Config())
    clean = cnn_crf.draw_clean_labels(loaded.train, 25, num_classes=10, seed=0)
    assert np.bincount(clean[clean >= 0]).tolist() == [3] * 5 + [2] * 5
    np.testing.assert_array_equal(clean[clean >= 0], loaded.train.true_labels[clean >= 0])
    everything = cnn_crf.draw_clean_labels(loaded.train, 10**6, num_classes=10, seed=0)
    np.testing.assert_array_equal(everything, loaded.train.true_labels)
    assert (cnn_crf.draw_clean_labels(loaded.train, 25, num_classes=10, seed=1) != clean).any()


def test_without_true_labels_clean_ones_are_refused():
    config = mlnt_tf.Config(train_examples=200, batch_size=32)
    loaded = load_examples(config)
    unknown = dataclasses.replace(loaded, train=dataclasses.replace(loaded.train, true_labels=None))
    with pytest.raises(UserError, match="--num_clean_labels=1000: no true label") as caught:
        cnn_crf.check(config, unknown, loaded.new_network(config))
    assert "\n" not in str(caught.value)
    cnn_crf.check(dataclasses.replace(config, num_clean_labels=0), unknown, loaded.new_network(config))
