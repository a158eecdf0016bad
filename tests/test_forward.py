import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses
from mlnt_tf.config import UserError
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.load import load_examples, source_is_clean
from mlnt_tf.data.splits import Split
from mlnt_tf.experiment import transition
from mlnt_tf.labels import confusion
from mlnt_tf.methods.forward import Forward

import tiny

P = np.float32([.7, .2, .1])
T = np.array([[.8, .2, 0], [0, 1, 0], [0, .3, .7]])


@pytest.mark.parametrize("given, expected", [(0, .579818), (1, .994252), (2, 2.659260)])
def test_forward_loss_by_hand(given, expected):
    assert losses.forward_cross_entropy([given], np.log(P)[None], T).numpy() == pytest.approx([expected], abs=1e-6)


def test_forward_logit_gradient_by_hand():
    logits = tf.Variable(np.log(P)[None])
    with tf.GradientTape() as tape:
        loss = losses.forward_cross_entropy([1], logits, T)
    np.testing.assert_allclose(tape.gradient(loss, logits)[0], [.321622, -.340541, .018919], atol=1e-6)


def test_the_forward_loss_of_a_sure_network_is_finite():
    assert losses.forward_cross_entropy([2], np.float32([[200., 0, -200]]), .9 * np.eye(3) + .1 / 3).numpy() == \
        pytest.approx([-np.log(.1 / 3)], abs=1e-4)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_forward_by_the_identity_is_cross_entropy_bit_for_bit(run_eagerly):
    trained = []
    for model in (mlnt_tf.CrossEntropy(tiny.dense()), Forward(tiny.dense(), matrix=np.eye(3))):
        model.compile(learning_rate=.2, weight_decay=1e-4, run_eagerly=run_eagerly)
        model.fit(tiny.dataset(6), verbose=0)
        trained.append(tiny.weights(model.student))
    for mine, theirs in zip(*trained):
        np.testing.assert_array_equal(mine, theirs)


def test_the_anchor_lies_strictly_below_the_97th_percentile():
    of_first = np.arange(1, 101) / 100
    probabilities = np.stack([of_first, 1 - of_first], axis=1)[np.random.default_rng(0).permutation(100)]
    np.testing.assert_allclose(confusion.estimate_by_anchors(probabilities)[0], [.97, .03])


def test_estimated_rows_sum_to_one_and_equal_predictions_have_an_anchor():
    np.testing.assert_allclose(confusion.estimate_by_anchors(np.full([20, 3], .3, np.float32)), np.full([3, 3], 1 / 3))


def examples(**settings):
    config = mlnt_tf.Config(train_examples=200, batch_size=32, **settings)
    return config, load_examples(config)


def test_the_true_matrix_is_that_of_our_noise():
    config, loaded = examples(noise_rate=.5)
    assert transition.matrix_source(config, loaded) == "true"
    np.testing.assert_allclose(confusion.true_matrix(loaded), .5 * np.eye(10) + .05)


def test_without_noise_of_ours_the_matrix_is_estimated_and_true_is_refused():
    config, loaded = examples(noise="none", transition_matrix="true")
    unknown = dataclasses.replace(loaded, train=dataclasses.replace(loaded.train, true_labels=None))
    assert transition.matrix_source(mlnt_tf.Config(), unknown) == "estimated" and confusion.true_matrix(unknown) is None
    with pytest.raises(UserError, match="--transition_matrix=true: the true labels.*not known"):
        transition.check(config, unknown)


def test_where_true_labels_are_known_the_true_matrix_is_counted():
    _, loaded = examples()
    counted = confusion.true_matrix(dataclasses.replace(loaded, injected_matrix=None))
    np.testing.assert_allclose(counted.sum(axis=1), 1)
    assert np.abs(counted - confusion.true_matrix(loaded)).mean() < .05


@pytest.mark.parametrize("text, message", [
    ("1 0\n0 1\n", "square, 10 by 10"), ("one\n", "cannot be read"),
    ("\n".join(["1 " + "0 " * 9] * 10), "lets no class be labelled")])
def test_a_matrix_that_cannot_be_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        transition.check(*examples(transition_matrix=str(tmp_path / "t.txt")))
    assert f"--transition_matrix={tmp_path}" in str(caught.value) and "\n" not in str(caught.value)


def test_heat_maps_are_drawn_side_by_side(tmp_path):
    transition.plot_matrices(tmp_path / "t.png", {"estimated": T, "true": np.eye(3)}, ("cat", "dog", "bird"))
    height, width, _ = tf.io.decode_png((tmp_path / "t.png").read_bytes()).shape
    assert width > 1.5 * height


def test_noise_on_top_of_labels_that_are_wrong_already_is_not_all_the_noise():
    true = np.arange(8, dtype=np.int32) % 2

    def split(labels):
        return Split(np.arange(8), labels, ArrayImages(np.zeros([8, 2, 2, 1], np.uint8)), np.zeros(8, "S1"), true)
    assert source_is_clean(split(true)) and not source_is_clean(split(1 - true))
