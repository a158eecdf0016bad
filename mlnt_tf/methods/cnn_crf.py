"""CNN-CRF: a conditional random field over true and given labels (Vahdat, NeurIPS 2017).

Symbols: t is the true label, n the given label, and T the transition matrix p(n | t).
"""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import losses
from mlnt_tf.config import UserError
from mlnt_tf.data.noise import uniform_draws
from mlnt_tf.experiment import transition
from mlnt_tf.experiment.prior import class_prior
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.models.submodels import feature_extractor
from mlnt_tf.training.student_teacher import Untracked

SMOOTHING = 1e-3  # The paper's epsilon. It keeps log p_aux finite.
CLEAN_SALT = 0x636C65616E  # "clean" in ASCII.


def train(run):
    """Trains one stage, after a stage of cross entropy if T is estimated. Exports the student."""
    config, examples = run.config, run.examples
    num_classes = len(examples.class_names)
    matrix = transition.matrix_for_run(run, cross_entropy.train_stage)
    clean = draw_clean_labels(examples.train, config.num_clean_labels, num_classes=num_classes,
                              seed=config.seed)
    counts = np.bincount(clean[clean >= 0], minlength=num_classes).tolist()
    logging.info("CNN-CRF uses the true labels of %d of the %d training examples (per class: %s)",
                 sum(counts), len(clean), counts)

    def new_model(network):
        return new_cnn_crf(config, examples, network, matrix=matrix, clean_labels=clean)

    run.stage("cnn crf").train(new_model)
    run.report["clean_labels"] = {"asked": config.num_clean_labels, "used": sum(counts),
                                  "by_class": counts}


def check(config, examples, network):
    """Raises UserError without a usable matrix, prior or clean labels, or place for a head."""
    transition.check(config, examples)
    if config.num_clean_labels and (examples.train.true_labels < 0).all():
        raise UserError(f"--num_clean_labels={config.num_clean_labels} needs true labels, but none "
                        "is known for the training examples. Use --num_clean_labels=0.")
    matrix = np.eye(len(examples.class_names))
    try:
        new_cnn_crf(config, examples, network, matrix=matrix, clean_labels=[-1])
    except ValueError as error:
        raise UserError(f"--model={config.model} cannot get the second head that --method=cnn_crf "
                        f"needs ({error}). Choose another model.") from error


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    return transition.planned_epochs(config, examples)


def new_cnn_crf(config, examples, network, **kwargs):
    """Returns the `CNNCRF` model that the flags ask for."""
    return CNNCRF(network, steps_per_epoch=examples.steps_per_epoch, form=config.crf_form,
                  prior=class_prior(config, examples), seed=config.seed, **kwargs)


class CNNCRF(CrossEntropy):
    """A network with two heads, trained by expectation maximization.

    Head a predicts the true label t, and head b the given label n. A step consists of:

    - E step: q, a distribution of t for each example (see `e_step`). If the true label of an
      example is provided, q is that label. No gradient flows through q.
    - M step: a gradient step on the loss, which depends on the form.

    The form "analytic" makes t and n independent given the image. Its loss is CE(n, b) + CE(q, a).
    The form "exact" adds an energy W[n, t] that joins them. Its loss is -E_q log p(n, t), where p
    is normalized over all classes² pairs of labels.

    The student gives the logits of p(t): a itself, or in the exact form the marginal over n.

    A batch also has "position", int32 [batch]: the row of each example in the training set.

    Args:
      network: as for `CrossEntropy`, with a last layer that `mlnt_tf.feature_extractor` can remove.
        Its logits are a.
      matrix: float [classes, classes], T with one row per true class.
      clean_labels: int32 [n], the true label of each training example, or -1 to withhold it.
      steps_per_epoch: int, converts steps to the epochs of `alpha_schedule`.
      form: "analytic" or "exact".
      prior: float [classes], p(t) in the auxiliary distribution. None is uniform.
      seed: int, for the initial weights of b.

    Raises:
      ValueError: the form is unknown, or the network's last layer cannot be removed.
    """

    takes_probabilities = False

    def __init__(self, network, *, matrix, clean_labels, steps_per_epoch, form="analytic",
                 prior=None, seed=0, **kwargs):
        if form not in ("analytic", "exact"):
            raise ValueError(f"form must be 'analytic' or 'exact'. Received: form={form!r}")
        given_head = keras.layers.Dense(
            network.output_shape[-1], name="given_label", dtype="float32",
            kernel_initializer=keras.initializers.GlorotUniform(seed))
        a = network.outputs[0]
        b = given_head(feature_extractor(network).outputs[0])
        both = keras.Model(network.inputs, [a, b])
        pairwise, student = None, network
        heads = [network.layers[-1], given_head]
        if form == "exact":
            pairwise = TrueLabelMarginal(name="true_label", dtype="float32")
            student = keras.Model(network.inputs, pairwise(a, b))
            heads.append(pairwise)
        super().__init__(student, **kwargs)
        self.given_head = given_head
        self.pairwise = pairwise
        self.steps_per_epoch = steps_per_epoch
        self.both = Untracked(both)
        self.heads = Untracked(heads)
        self.log_auxiliary = np.log(
            auxiliary_distribution(matrix, prior=prior)).astype(np.float32)
        self.clean_labels = np.asarray(clean_labels, np.int32)

    @property
    def trained_variables(self):
        if self.pairwise is not None:  # The student of the exact form contains both heads.
            return self.student.trainable_variables
        return self.student.trainable_variables + self.given_head.trainable_variables

    @property
    def head_variables(self):
        return [variable for head in self.heads.value for variable in head.trainable_variables]

    def forward(self, batch):
        a, b = self.both.value(batch["image"], training=True)
        a = tf.cast(a, tf.float32)  # [batch, classes]
        b = tf.cast(b, tf.float32)  # [batch, classes]
        if self.pairwise is None:
            return self._analytic_forward(batch, a, b)
        return self._exact_forward(batch, a, b)

    def _analytic_forward(self, batch, a, b):
        q = self._expected_labels(batch, a)
        return a, losses.cross_entropy(batch["label"], b) + losses.soft_cross_entropy(q, a)

    def _exact_forward(self, batch, a, b):
        given = batch["label"]
        energy = tf.convert_to_tensor(self.pairwise.energy)  # W, [given, true]
        joint = a + tf.gather(energy, given)  # [batch, true]
        q = self._expected_labels(batch, joint)
        b_given = tf.gather(b, given, axis=1, batch_dims=1)  # [batch]
        expected = tf.reduce_sum(q * joint, axis=1) + b_given
        return true_logits(a, b, energy), log_partition(a, b, energy) - expected

    def _expected_labels(self, batch, joint):
        """Returns q, float32 [batch, classes]; `joint` are the logits of p(t | x, n)."""
        log_auxiliary = tf.gather(self.log_auxiliary, batch["label"])
        q = e_step(joint, log_auxiliary, self._alpha())
        clean = tf.gather(self.clean_labels, batch["position"])
        is_clean = clean[:, None] >= 0
        return tf.stop_gradient(tf.where(is_clean, tf.one_hot(clean, joint.shape[-1]), q))

    def _alpha(self):
        return alpha_schedule(self.step // self.steps_per_epoch)

    def rates(self):
        return {**super().rates(), "alpha": self._alpha()}


@keras.saving.register_keras_serializable(package="mlnt_tf")
class TrueLabelMarginal(keras.layers.Layer):
    """Maps (a, b), each [batch, classes], to the logits of p(t), float32 [batch, classes].

    p(t) = sum_n exp(a_t + b_n + W[n, t]) / Z. The trained energy W starts at 0.
    """

    def build(self, a_shape, b_shape):
        shape = (b_shape[-1], a_shape[-1])
        self.energy = self.add_weight(shape=shape, initializer="zeros", name="energy")

    def call(self, a, b):
        energy = tf.cast(tf.convert_to_tensor(self.energy), tf.float32)
        return true_logits(tf.cast(a, tf.float32), tf.cast(b, tf.float32), energy)

    def compute_output_shape(self, a_shape, b_shape):
        return a_shape


def true_logits(a, b, energy):
    """Returns log sum_n exp(a_t + b_n + W[n, t]) for each t.

    Args:
      a: float32 [batch, classes], logits of the true label.
      b: float32 [batch, classes], logits of the given label.
      energy: float32 [given, true], W.

    Returns:
      float32 [batch, classes].
    """
    return a + tf.reduce_logsumexp(b[:, :, None] + energy[None], axis=1)


def log_partition(a, b, energy):
    """Returns log Z, float32 [batch], summed over all pairs of labels. See `true_logits`."""
    return tf.reduce_logsumexp(true_logits(a, b, energy), axis=1)


def e_step(joint, log_auxiliary, alpha):
    """Returns q, proportional to (p(t | x, n) p_aux(t | n)^alpha)^(1 / (1 + alpha)).

    Args:
      joint: float32 [batch, classes], logits of p(t | x, n).
      log_auxiliary: float32 [batch, classes], log p_aux(t | n) for the given label n.
      alpha: scalar, at least 0.

    Returns:
      float32 [batch, classes], rows that sum to 1.
    """
    return tf.nn.softmax((tf.nn.log_softmax(joint) + alpha * log_auxiliary) / (1 + alpha))


def auxiliary_distribution(matrix, *, prior=None, smoothing=SMOOTHING):
    """Returns p_aux(t | n), proportional to prior_t T[t, n], by Bayes' rule.

    T is smoothed to (1 - smoothing) T + smoothing / classes first.

    Args:
      matrix: float [classes, classes], T with one row per true class.
      prior: float [classes], p(t). By default it is uniform.
      smoothing: float in [0, 1].

    Returns:
      float64 [given, true], rows that sum to 1.
    """
    classes = len(matrix)
    if prior is None:
        prior = np.full(classes, 1 / classes)
    smooth = (1 - smoothing) * np.asarray(matrix, np.float64) + smoothing / classes
    joint = (smooth * prior[:, None]).T
    return joint / joint.sum(axis=1, keepdims=True)


def alpha_schedule(epoch):
    """Returns alpha = max(u / (1 - u), 0.5) with u = 0.99 - epoch / 10, a float32 scalar.

    Args:
      epoch: int scalar, counted from 0.
    """
    u = 0.99 - tf.cast(epoch, tf.float32) / 10
    return tf.maximum(u / (1 - u), 0.5)


def draw_clean_labels(split, count, *, num_classes, seed):
    """Draws examples whose true labels are provided to the method, equally many per class.

    The draw depends on the seed and the example ids only. A class with too few known true labels
    contributes all of them.

    Args:
      split: the training `Split`.
      count: int, number of examples to draw.
      num_classes: int.
      seed: int.

    Returns:
      int32 [n], the true label of each drawn example and -1 for the others.
    """
    draws = uniform_draws(split.ids, seed=seed, salt=CLEAN_SALT)
    clean = np.full(len(split), -1, np.int32)
    share, remainder = divmod(count, num_classes)
    for label in range(num_classes):
        members = np.flatnonzero(split.true_labels == label)
        order = np.argsort(draws[members], kind="stable")
        class_count = share + 1 if label < remainder else share
        clean[members[order[:class_count]]] = label
    return clean
