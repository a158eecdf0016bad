"""Joint Optimization: losses, label updates and learning rates."""

import types

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses
from mlnt_tf.config import Config
from mlnt_tf.methods import joint_optimization
from mlnt_tf.methods.joint_optimization import JointOptimization, UpdateLabels

import tiny

S = np.float32([[.7, .2, .1], [.2, .5, .3]])
Y = np.eye(3, dtype=np.float32)[[0, 2]]


def test_loss_terms_equal_the_hand_computed_values():
    logits = tf.constant(np.log(S))
    terms = [losses.mean_loss(losses.soft_cross_entropy(Y, logits)),
             joint_optimization.prior_loss(S.mean(axis=0)),
             losses.mean_loss(joint_optimization.entropy_loss(logits))]
    np.testing.assert_allclose(terms, [.780324, 1.152589, .915736], atol=1e-6)


def test_total_loss_equals_the_hand_computed_value():
    model = JointOptimization(tiny.dense(), labels=Y, alpha=1.2, beta=.8)
    batch, logits = {"position": tf.constant([0, 1])}, tf.constant(np.log(S))
    per_example = model.per_example_loss(batch, logits)
    assert per_example.shape == [2]
    [prior_term] = model.batch_terms(batch, logits)
    total = float(losses.mean_loss(per_example) + prior_term)
    assert total == pytest.approx(2.896020, abs=1e-6)
    np.testing.assert_allclose(model.predicted, S, atol=1e-6)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_constant_labels_without_extra_terms_equal_cross_entropy_bit_for_bit(run_eagerly):
    dataset = tiny.positioned(6)
    trained = []
    for model in (
            mlnt_tf.CrossEntropy(tiny.dense()),
            JointOptimization(tiny.dense(), labels=tiny.one_hot(dataset), alpha=0, beta=0)):
        model.compile(learning_rate=.2, weight_decay=1e-4, run_eagerly=run_eagerly)
        model.fit(dataset, verbose=0)
        trained.append(tiny.weights(model.student))
    for expected, actual in zip(*trained):
        np.testing.assert_array_equal(actual, expected)


def new_update(tmp_path, *, kind="soft", start=3, true=(0, 1, 2, -1)):
    """Returns (model of four examples with the label 0, its callback)."""
    labels = np.eye(3, dtype=np.float32)[[0, 0, 0, 0]]
    model = JointOptimization(tiny.dense(), labels=labels, alpha=0, beta=0)
    update = UpdateLabels(tmp_path, inputs="a", start=start, kind=kind,
                          true_labels=np.array(true))
    update.set_model(model)
    return model, update


def test_labels_are_the_mean_of_the_last_ten_predictions(tmp_path):
    model, update = new_update(tmp_path)
    draws = np.random.default_rng(0).dirichlet([1, 1, 1], size=[14, 4]).astype(np.float32)
    for epoch, predicted in enumerate(draws):
        model.predicted.assign(predicted)
        logs = {}
        update.on_epoch_end(epoch, logs)
        if epoch < 2:
            expected = np.eye(3)[[0, 0, 0, 0]]
        else:
            expected = draws[max(epoch - 9, 0):epoch + 1].mean(axis=0)
        np.testing.assert_allclose(model.labels, expected, atol=1e-6)
        accuracy = np.mean(expected.argmax(axis=1)[:3] == [0, 1, 2])
        assert logs["label_accuracy"] == pytest.approx(accuracy)
    update.on_train_end()
    np.testing.assert_array_equal(np.load(tmp_path / "soft_labels.npy"), model.labels)


def test_predictions_that_no_checkpoint_needs_are_deleted(tmp_path):
    _, update = new_update(tmp_path)
    for epoch in range(20):
        update.on_epoch_end(epoch, {})
    epochs = sorted(int(path.stem) for path in (tmp_path / "predictions").iterdir())
    assert epochs == list(range(7, 20))  # Ten epochs, for the last checkpoint and the three before.


def test_hard_labels_are_one_hot(tmp_path):
    model, update = new_update(tmp_path, kind="hard", start=1)
    model.predicted.assign(np.float32([[.1, .6, .3]] * 4))
    update.on_epoch_end(0, {})
    np.testing.assert_array_equal(model.labels, [[0, 1, 0]] * 4)


def test_label_accuracy_is_not_logged_without_true_labels(tmp_path):
    _, update = new_update(tmp_path, true=[-1] * 4)
    logs = {}
    update.on_epoch_end(0, logs)
    assert logs == {}


def test_example_outside_an_epoch_retains_its_last_prediction(tmp_path):
    model, _ = new_update(tmp_path)
    model.compile(learning_rate=.1)
    batch = {name: value[:2] for name, value in tiny.batch().items()}
    batch["position"] = tf.constant([1, 3])
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    predicted = model.predicted.numpy()
    np.testing.assert_array_equal(predicted[[0, 2]], np.eye(3)[[0, 0]])
    assert (predicted[[1, 3]] < 1).all()


@pytest.mark.parametrize("settings, stage_epochs, start", [
    (dict(epochs=120), 200, 70), (dict(epochs=30), 50, 18),
    (dict(joint_epochs=9, joint_start_epoch=4), 9, 4)])
def test_stage_1_scales_with_the_epochs_unless_set(settings, stage_epochs, start):
    config = Config(**settings)
    assert (config.joint_stage_epochs, config.joint_start) == (stage_epochs, start)


def test_stage_1_learning_rate_is_two_fifths_of_stage_2_unless_set():
    assert joint_optimization.stage1_learning_rate(Config(learning_rate=.2)) == pytest.approx(.08)
    assert joint_optimization.stage1_learning_rate(Config(joint_rate=.03)) == .03


def test_stage_2_learning_rate_decays_at_a_third_and_two_thirds():
    stage = types.SimpleNamespace(config=Config(epochs=120),
                                  examples=types.SimpleNamespace(steps_per_epoch=10))
    schedule = joint_optimization.stage2_learning_rate(stage)
    rates = [float(schedule(step)) for step in (0, 399, 400, 799, 800)]
    assert rates == pytest.approx([.2, .2, .02, .02, .002], rel=1e-5)


def test_stage_2_learning_rate_without_decay_is_constant():
    stage = types.SimpleNamespace(config=Config(epochs=120, learning_rate_decay_epochs=0),
                                  examples=types.SimpleNamespace(steps_per_epoch=10))
    schedule = joint_optimization.stage2_learning_rate(stage)
    assert [float(schedule(step)) for step in (0, 1199)] == pytest.approx([.2, .2])
