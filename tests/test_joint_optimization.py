import types

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses
from mlnt_tf.config import Config
from mlnt_tf.methods import joint_optimization as joint

import tiny

S = np.float32([[.7, .2, .1], [.2, .5, .3]])
Y = np.eye(3, dtype=np.float32)[[0, 2]]


def test_joint_losses_by_hand():
    logits = tf.constant(np.log(S))
    found = [losses.mean_loss(losses.soft_cross_entropy(Y, logits)), joint.prior_loss(S.mean(axis=0)),
             losses.mean_loss(joint.entropy_loss(logits))]
    np.testing.assert_allclose(found, [.780324, 1.152589, .915736], atol=1e-6)


def test_the_joint_loss_by_hand():
    model = joint.JointOptimization(tiny.dense(), labels=Y, alpha=1.2, beta=.8)
    batch, logits = {"position": tf.constant([0, 1])}, tf.constant(np.log(S))
    per_example = model.per_example_loss(batch, logits)
    assert per_example.shape == [2]
    [prior_term] = model.batch_terms(batch, logits)
    assert float(losses.mean_loss(per_example) + prior_term) == pytest.approx(2.896020, abs=1e-6)
    np.testing.assert_allclose(model.predicted, S, atol=1e-6)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_joint_without_its_terms_on_labels_that_stay_is_cross_entropy(run_eagerly):
    dataset = tiny.positioned(6)
    trained = []
    for model in (mlnt_tf.CrossEntropy(tiny.dense()),
                  joint.JointOptimization(tiny.dense(), labels=tiny.one_hot(dataset), alpha=0, beta=0)):
        model.compile(learning_rate=.2, weight_decay=1e-4, run_eagerly=run_eagerly)
        model.fit(dataset, verbose=0)
        trained.append(tiny.weights(model.student))
    for mine, theirs in zip(*trained):
        np.testing.assert_array_equal(mine, theirs)


def renewing(tmp_path, *, kind="soft", start=3, true=(0, 1, 2, -1)):
    model = joint.JointOptimization(tiny.dense(), labels=np.eye(3, dtype=np.float32)[[0, 0, 0, 0]], alpha=0, beta=0)
    update = joint.UpdateLabels(tmp_path, start=start, kind=kind, true_labels=np.array(true))
    update.set_model(model)
    return model, update


def test_a_label_is_the_mean_of_the_last_ten_predictions(tmp_path):
    model, update = renewing(tmp_path)
    draws = np.random.default_rng(0).dirichlet([1, 1, 1], size=[14, 4]).astype(np.float32)
    for epoch, predicted in enumerate(draws):
        model.predicted.assign(predicted)
        update.on_epoch_end(epoch, logs := {})
        expected = draws[max(epoch - 9, 0):epoch + 1].mean(axis=0) if epoch >= 2 else np.eye(3)[[0, 0, 0, 0]]
        np.testing.assert_allclose(model.labels, expected, atol=1e-6)
        assert logs["label_accuracy"] == pytest.approx(np.mean(expected.argmax(axis=1)[:3] == [0, 1, 2]))
    update.on_train_end()
    np.testing.assert_array_equal(np.load(tmp_path / "soft_labels.npy"), model.labels)
    assert len(list((tmp_path / "predictions").iterdir())) <= 14


def test_hard_labels_are_one_hot_and_unknown_truth_is_not_counted(tmp_path):
    model, update = renewing(tmp_path, kind="hard", start=1, true=[-1] * 4)
    model.predicted.assign(np.float32([[.1, .6, .3]] * 4))
    update.on_epoch_end(0, logs := {})
    np.testing.assert_array_equal(model.labels, [[0, 1, 0]] * 4)
    assert logs == {}


def test_an_example_that_an_epoch_passes_over_keeps_its_last_prediction(tmp_path):
    model, _ = renewing(tmp_path)
    model.compile(learning_rate=.1)
    one = {name: value[:2] for name, value in tiny.batch().items()} | {"position": tf.constant([1, 3])}
    model.fit(tf.data.Dataset.from_tensors(one), verbose=0)
    predicted = model.predicted.numpy()
    np.testing.assert_array_equal(predicted[[0, 2]], np.eye(3)[[0, 0]])
    assert (predicted[[1, 3]] < 1).all()


def test_the_papers_lengths_scale_with_the_epochs():
    paper, small, by_hand = Config(epochs=120), Config(epochs=30), Config(joint_epochs=9, joint_start_epoch=4)
    assert (paper.joint_stage_epochs, paper.joint_start) == (200, 70)
    assert (small.joint_stage_epochs, small.joint_start) == (50, 18)
    assert (by_hand.joint_stage_epochs, by_hand.joint_start) == (9, 4)


def test_stage_two_falls_at_a_third_and_two_thirds():
    stage = types.SimpleNamespace(config=Config(epochs=120), examples=types.SimpleNamespace(steps_per_epoch=10))
    rate = joint.stage2_learning_rate(stage)
    assert [pytest.approx(float(rate(step)), rel=1e-5) for step in (0, 399, 400, 799, 800)] == [.2, .2, .02, .02, .002]
