"""The optional columns "weight" and "probabilities" of a batch, for every method's Keras class."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses
from mlnt_tf.methods import elr
from mlnt_tf.methods.cnn_crf import CNNCRF
from mlnt_tf.methods.forward import Forward
from mlnt_tf.methods.gce import GCE
from mlnt_tf.methods.joint_optimization import JointOptimization, entropy_loss, prior_loss

import tiny

T = np.array([[.6, .4, 0], [0, 1, 0], [0, .2, .8]])
SOFT = np.random.default_rng(1).dirichlet([1, 1, 1], size=8).astype(np.float32)
PREDICTED = np.random.default_rng(2).dirichlet([1, 1, 1], size=8).astype(np.float32)


def new_elr():
    model = elr.ELR(tiny.dense(), num_examples=8)
    model.averages.assign(.5 * PREDICTED)
    return model


def new_joint(alpha=0):  # Lp is a term of the batch, so it has no weight and is off by default.
    return JointOptimization(tiny.dense(), labels=SOFT, alpha=alpha, beta=.8)


def new_crf(form):
    clean = [0, -1, -1, 1, -1, -1, 2, -1]
    return CNNCRF(tiny.dense(), matrix=T, clean_labels=clean, steps_per_epoch=1, form=form)


MODELS = {
    "CrossEntropy": lambda: mlnt_tf.CrossEntropy(tiny.dense()),
    "MLNT": lambda: mlnt_tf.MLNT(tiny.dense(), num_synthetic=1),
    "ELR": new_elr,
    "GCE": lambda: GCE(tiny.dense()),
    "Forward": lambda: Forward(tiny.dense(), matrix=.9 * T + .1 / 3),
    "JointOptimization": new_joint,
    "CNNCRF analytic": lambda: new_crf("analytic"),
    "CNNCRF exact": lambda: new_crf("exact"),
}
every_model = pytest.mark.parametrize("new_model", MODELS.values(), ids=MODELS)
SOFT_LABEL_MODELS = ("CrossEntropy", "MLNT", "ELR", "GCE")


def compiled(model, **kwargs):
    model.compile(learning_rate=.2, **kwargs)
    return model


def batch(**columns):
    return {**tiny.batch(), "position": tf.range(8), **columns}


def classification_gradients(new_model, batch):
    gradients, _, loss = compiled(new_model()).classification_gradients(batch)
    return [np.asarray(gradient) for gradient in gradients] + [loss.numpy()]


def first_rows(batch, count):
    return {name: values[:count] for name, values in batch.items()}


@every_model
def test_weight_of_zero_removes_an_example(new_model):
    weight = tf.constant([1.] * 4 + [0.] * 4)
    weighted = classification_gradients(new_model, batch(weight=weight))
    half = classification_gradients(new_model, first_rows(batch(), 4))
    for actual, expected in zip(weighted, half):
        np.testing.assert_allclose(actual, expected / 2, atol=1e-6)
    assert abs(half[0]).max() > 1e-3


@every_model
def test_weight_scales_the_gradient(new_model):
    weighted = classification_gradients(new_model, batch(weight=tf.fill([8], 3.)))
    for actual, expected in zip(weighted, classification_gradients(new_model, batch())):
        np.testing.assert_allclose(actual, 3 * expected, rtol=1e-5, atol=1e-6)


@every_model
def test_weights_of_one_equal_no_weights(new_model):
    weighted = classification_gradients(new_model, batch(weight=tf.ones([8])))
    for actual, expected in zip(weighted, classification_gradients(new_model, batch())):
        np.testing.assert_array_equal(actual, expected)


@every_model
def test_forward_returns_one_loss_per_example(new_model):
    logits, per_example = compiled(new_model()).forward(batch())
    assert logits.shape == [8, 3]
    assert per_example.shape == [8] and per_example.dtype == tf.float32


@every_model
def test_graph_with_weights_takes_the_eager_step(new_model):
    columns = {"weight": tf.constant([2., 0, 1, 1, 0, 1, 1, 1])}
    data = tf.data.Dataset.from_tensors(batch(**columns))
    graph, eager = compiled(new_model()), compiled(new_model(), run_eagerly=True)
    graph.fit(data, verbose=0)
    eager.fit(data, verbose=0)
    tiny.assert_equal_weights(graph.student, eager.student, atol=1e-6)


def test_weights_and_soft_labels_do_not_change_the_meta_gradient():
    def meta_gradients(batch):
        return compiled(mlnt_tf.MLNT(tiny.dense(), num_synthetic=2)).meta_gradients(batch)[0]

    for actual, expected in zip(meta_gradients(batch(weight=tf.zeros([8]), probabilities=SOFT)),
                            meta_gradients(batch())):
        np.testing.assert_array_equal(actual, expected)


def test_weights_do_not_change_terms_of_the_batch():
    """With all weights zero, only the regularizer and Lp remain."""
    zeros = tf.zeros([8])
    decay = keras.regularizers.L2(.1)
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, kernel_regularizer=decay)])
    model = compiled(mlnt_tf.CrossEntropy(network))
    (kernel, bias), _, loss = model.classification_gradients(batch(weight=zeros))
    np.testing.assert_allclose(kernel, .2 * network.get_weights()[0], atol=1e-7)
    np.testing.assert_array_equal(bias, np.zeros(3))
    assert float(loss) == pytest.approx(.1 * (network.get_weights()[0] ** 2).sum())

    model = compiled(new_joint(alpha=1.2))
    _, logits, loss = model.classification_gradients(batch(weight=zeros))
    mean = tf.reduce_mean(tf.nn.softmax(logits), axis=0)
    assert float(loss) == pytest.approx(1.2 * float(prior_loss(mean)))


@pytest.mark.parametrize("name", SOFT_LABEL_MODELS)
def test_one_hot_probabilities_equal_labels(name):
    one_hot = tf.one_hot(batch()["label"], 3)
    soft = classification_gradients(MODELS[name], batch(probabilities=one_hot))
    for actual, expected in zip(soft, classification_gradients(MODELS[name], batch())):
        np.testing.assert_allclose(actual, expected, atol=1e-7)


def test_gce_with_soft_labels_is_the_mean_over_the_classes():
    logits = tf.math.log(tf.constant([[.7, .2, .1], [.1, .3, .6]]))
    soft = np.float32([[.5, .5, 0], [0, 0, 1]])
    expected = [.5 * (1 - .7**.7) / .7 + .5 * (1 - .2**.7) / .7, (1 - .6**.7) / .7]
    actual = losses.soft_generalized_cross_entropy(soft, logits, q=.7)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_probabilities_replace_the_labels_in_the_loss_only():
    model = compiled(mlnt_tf.CrossEntropy(tiny.dense()), run_eagerly=True)
    logits = model.student(batch()["image"])
    expected_loss = -np.mean(np.sum(SOFT * tf.nn.log_softmax(logits), axis=1))
    expected_accuracy = np.mean(np.argmax(logits, axis=1) == batch()["label"])
    logs = model.train_step(batch(probabilities=SOFT))
    assert float(logs["loss"]) == pytest.approx(expected_loss, abs=1e-6)
    assert float(logs["accuracy"]) == pytest.approx(expected_accuracy)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - set(SOFT_LABEL_MODELS)))
def test_losses_of_class_labels_refuse_probabilities(name):
    model = compiled(MODELS[name]())
    with pytest.raises(ValueError, match="cannot use soft labels"):
        model.classification_gradients(batch(probabilities=SOFT))


def gradient_of_scalar(model, loss):
    """The gradient at the student's weights of `loss`, a function of the logits."""
    with tf.GradientTape() as tape:
        value = loss(model.student(batch()["image"], training=True))
    return tape.gradient(value, model.trained_variables)


@pytest.mark.parametrize("batch_size", [8, 7])
def test_elr_gradient_is_that_of_the_published_formula(batch_size):
    """Lc + lambda / k sum_i log(1 - <p_i, t_i>) (Liu et al. 2020)."""
    model = compiled(new_elr())
    part = first_rows(batch(), batch_size)
    averages = model.averages.numpy()[:batch_size]

    def formula(logits):
        logits = logits[:batch_size]
        p = tf.clip_by_value(tf.nn.softmax(logits), elr.CLIP, 1 - elr.CLIP)
        t = tf.stop_gradient(.7 * averages + .3 * p / tf.reduce_sum(p, axis=1, keepdims=True))
        pull = tf.reduce_mean(tf.math.log(1 - tf.reduce_sum(p * t, axis=1)))
        return losses.mean_loss(losses.cross_entropy(part["label"], logits)) + 3 * pull

    expected_gradients = gradient_of_scalar(model, formula)
    for actual, expected in zip(model.classification_gradients(part)[0], expected_gradients):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [8, 7])
def test_joint_gradient_is_that_of_the_published_formula(batch_size):
    """L = Lc + alpha Lp + beta Le (Tanaka et al. 2018)."""
    model = compiled(new_joint(alpha=1.2))
    part = first_rows(batch(), batch_size)

    def formula(logits):
        logits = logits[:batch_size]
        prior_term = prior_loss(tf.reduce_mean(tf.nn.softmax(logits), axis=0))
        entropy = tf.reduce_mean(entropy_loss(logits))
        cross_entropy = tf.reduce_mean(losses.soft_cross_entropy(SOFT[:batch_size], logits))
        return cross_entropy + 1.2 * prior_term + .8 * entropy

    expected_gradients = gradient_of_scalar(model, formula)
    for actual, expected in zip(model.classification_gradients(part)[0], expected_gradients):
        np.testing.assert_allclose(actual, expected, atol=1e-6)
