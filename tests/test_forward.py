"""Forward correction and the transition matrix."""

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
def test_forward_loss_equals_the_hand_computed_value(given, expected):
    loss = losses.forward_cross_entropy([given], np.log(P)[None], T)
    assert loss.numpy() == pytest.approx([expected], abs=1e-6)


def test_forward_logit_gradient_equals_the_hand_computed_value():
    logits = tf.Variable(np.log(P)[None])
    with tf.GradientTape() as tape:
        loss = losses.forward_cross_entropy([1], logits, T)
    gradient = tape.gradient(loss, logits)[0]
    np.testing.assert_allclose(gradient, [.321622, -.340541, .018919], atol=1e-6)


def test_forward_loss_of_extreme_logits_is_finite():
    logits = np.float32([[200., 0, -200]])
    loss = losses.forward_cross_entropy([2], logits, .9 * np.eye(3) + .1 / 3)
    assert loss.numpy() == pytest.approx([-np.log(.1 / 3)], abs=1e-4)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_forward_with_identity_matrix_equals_cross_entropy_bit_for_bit(run_eagerly):
    trained = []
    for model in (mlnt_tf.CrossEntropy(tiny.dense()), Forward(tiny.dense(), matrix=np.eye(3))):
        model.compile(learning_rate=.2, weight_decay=1e-4, run_eagerly=run_eagerly)
        model.fit(tiny.dataset(6), verbose=0)
        trained.append(tiny.weights(model.student))
    for expected, actual in zip(*trained):
        np.testing.assert_array_equal(actual, expected)


def test_anchor_is_strictly_below_the_97th_percentile():
    first = np.arange(1, 101) / 100
    order = np.random.default_rng(0).permutation(100)
    probabilities = np.stack([first, 1 - first], axis=1)[order]
    np.testing.assert_allclose(confusion.estimate_by_anchors(probabilities)[0], [.97, .03])


def test_anchors_of_equal_predictions_give_uniform_rows():
    matrix = confusion.estimate_by_anchors(np.full([20, 3], .3, np.float32))
    np.testing.assert_allclose(matrix, np.full([3, 3], 1 / 3))


def test_true_matrix_counts_given_labels_per_true_class():
    true, given = np.int32([0, 0, 0, 0, 1]), np.int32([0, 0, 0, 1, 1])
    matrix = confusion.true_matrix(true, given, 3)
    np.testing.assert_allclose(matrix, [[.75, .25, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_true_matrix_is_none_if_a_true_label_is_unknown():
    assert confusion.true_matrix(np.int32([0, -1]), np.int32([0, 1]), 2) is None


def load(**settings):
    """Returns (config, examples) of the digits."""
    config = mlnt_tf.Config(train_examples=200, batch_size=32, **settings)
    return config, load_examples(config)


def without_true_labels(examples):
    train = dataclasses.replace(examples.train, true_labels=None)
    return dataclasses.replace(examples, train=train)


def test_auto_matrix_of_injected_noise_is_the_injected_matrix():
    config, examples = load(noise_rate=.5)
    assert transition.matrix_source(config, examples) == "true"
    np.testing.assert_allclose(transition.true_matrix(examples), .5 * np.eye(10) + .05)


def test_auto_matrix_without_injected_noise_is_estimated():
    _, examples = load(noise="none")
    assert transition.matrix_source(mlnt_tf.Config(), examples) == "estimated"


def test_true_matrix_of_unknown_true_labels_is_refused():
    config, examples = load(noise="none", transition_matrix="true")
    examples = without_true_labels(examples)
    assert transition.true_matrix(examples) is None
    with pytest.raises(UserError, match="--transition_matrix=true needs the true labels"):
        transition.check(config, examples)


def test_true_matrix_without_injected_noise_is_counted():
    _, examples = load()
    counted = transition.true_matrix(dataclasses.replace(examples, injected_matrix=None))
    np.testing.assert_allclose(counted.sum(axis=1), 1)
    assert np.abs(counted - examples.injected_matrix).mean() < .05


@pytest.mark.parametrize("text, message", [
    ("1 0\n0 1\n", "square, 10 by 10"),
    ("one\n", "cannot be read"),
    ("\n".join(["1 " + "0 " * 9] * 10), "gives the label . probability 0")])
def test_unusable_matrix_file_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "matrix.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        transition.check(*load(transition_matrix=str(path)))
    assert f"--transition_matrix={path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heat_maps_are_side_by_side(tmp_path):
    path = tmp_path / "matrix.png"
    matrices = {"estimated": T, "true": np.eye(3)}
    transition.plot_matrices(path, matrices, ("cat", "dog", "bird"))
    height, width, _ = tf.io.decode_png(path.read_bytes()).shape
    assert width > 1.5 * height


def test_source_with_wrong_labels_is_not_clean():
    """Noise injected into such a source is not all of its noise, so T is estimated."""
    true = np.arange(8, dtype=np.int32) % 2

    def split(labels):
        images = ArrayImages(np.zeros([8, 2, 2, 1], np.uint8))
        return Split(np.arange(8), labels, images, np.zeros(8, "S1"), true)

    assert source_is_clean(split(true))
    assert not source_is_clean(split(1 - true))


def test_class_names_may_contain_dollar_signs(tmp_path):
    names = ["$0_$5", "$$", "a^b"]  # Not formulas of Matplotlib.
    transition.plot_matrices(tmp_path / "matrix.png", {"true": np.eye(3)}, names)
    assert (tmp_path / "matrix.png").stat().st_size > 1000
