"""CNN-CRF: a conditional random field over true and given label (Vahdat, NeurIPS 2017)."""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import losses
from mlnt_tf.config import UserError
from mlnt_tf.data.noise import uniform_draws
from mlnt_tf.experiment import transition
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.models.surgery import feature_extractor
from mlnt_tf.training.student_teacher import Untracked

SMOOTHING = 1e-3
CLEAN_SALT = 0x636C65616E


class CNNCRF(CrossEntropy):
    """A network of two heads, a for the true label t and b for the given label n, trained by expectation maximization.

    E step: q of t, from the network and, by a weight alpha that falls with the epochs, from p_aux(t | n); examples with
    a clean label have q = that label. "analytic": t and n are independent given the image, the loss is CE(b, n) +
    CE(a, q).
    "exact": they are joined by an energy -W[n, t] more, the loss is -E_q log p(n, t), over all classes^2 states.

    Args:
      network: as of `CrossEntropy`, of the form `mlnt_tf.feature_extractor` takes: its logits are a.
      matrix: [classes, classes], T: p(given | true).
      clean_labels: int32 [n], -1 where an example has none.
      steps_per_epoch: for alpha.
      form: "analytic" or "exact".
      seed: of the weights of b.

    The student gives the logits of p(t): a itself, or in the exact form the marginal over n. A batch also has
    "position", int32 [batch]: the row of each example.
    """

    takes_probabilities = False

    def __init__(self, network, *, matrix, clean_labels, steps_per_epoch, form="analytic", seed=0, **kwargs):
        if form not in ("analytic", "exact"):
            raise ValueError(f"form must be 'analytic' or 'exact'. Received: form={form!r}")
        given_head = keras.layers.Dense(network.output_shape[-1], name="given_label", dtype="float32",
                                        kernel_initializer=keras.initializers.GlorotUniform(seed))
        a, b = network.outputs[0], given_head(feature_extractor(network).outputs[0])
        both = keras.Model(network.inputs, [a, b])
        pairwise = TrueLabelMarginal(name="true_label", dtype="float32") if form == "exact" else None
        super().__init__(keras.Model(network.inputs, pairwise(a, b)) if pairwise else network, **kwargs)
        self.given_head = given_head
        self.pairwise = pairwise
        self.steps_per_epoch = steps_per_epoch
        self.both = Untracked(both)
        self.log_auxiliary = np.log(auxiliary_distribution(matrix)).astype(np.float32)
        self.clean_labels = np.asarray(clean_labels, np.int32)

    @property
    def trained_variables(self):
        return self.student.trainable_variables + ([] if self.pairwise else self.given_head.trainable_variables)

    def forward(self, batch):
        a, b = (tf.cast(head, tf.float32) for head in self.both.value(batch["image"], training=True))
        given, classes = batch["label"], a.shape[-1]
        if self.pairwise:
            energy = tf.convert_to_tensor(self.pairwise.energy)  # W, [given, true]
            joint, logits = a + tf.gather(energy, given), true_logits(a, b, energy)
        else:
            joint = logits = a
        q = e_step(joint, tf.gather(self.log_auxiliary, given), alpha_schedule(self.step // self.steps_per_epoch))
        clean = tf.gather(self.clean_labels, batch["position"])
        q = tf.stop_gradient(tf.where(clean[:, None] >= 0, tf.one_hot(clean, classes), q))
        if not self.pairwise:
            return logits, losses.cross_entropy(given, b) + losses.soft_cross_entropy(q, a)
        of_given = tf.gather(b, given, axis=1, batch_dims=1)
        expected = tf.reduce_sum(q * joint, axis=1) + of_given
        return logits, log_partition(a, b, energy) - expected

    def rates(self):
        return {**super().rates(), "alpha": alpha_schedule(self.step // self.steps_per_epoch)}


@keras.saving.register_keras_serializable(package="mlnt_tf")
class TrueLabelMarginal(keras.layers.Layer):
    """(a, b), each [batch, classes], to the logits of p(t) = sum_n exp(a_t + b_n + W[n, t]) / Z. W begins at 0."""

    def build(self, a_shape, b_shape):
        self.energy = self.add_weight(shape=(b_shape[-1], a_shape[-1]), initializer="zeros", name="energy")

    def call(self, a, b):
        return true_logits(tf.cast(a, tf.float32), tf.cast(b, tf.float32),
                           tf.cast(tf.convert_to_tensor(self.energy), tf.float32))

    def compute_output_shape(self, a_shape, b_shape):
        return a_shape


def true_logits(a, b, energy):
    """log of sum_n exp(a_t + b_n + W[n, t]); a, b [batch, classes], energy W [given, true]: [batch, classes]."""
    return a + tf.reduce_logsumexp(b[:, :, None] + energy[None], axis=1)


def log_partition(a, b, energy):
    """log Z, over all pairs of labels; float32 [batch]."""
    return tf.reduce_logsumexp(true_logits(a, b, energy), axis=1)


def e_step(joint, log_auxiliary, alpha):
    """q ~ (p(t | x, n) p_aux(t | n)^alpha)^(1 / (1 + alpha)).

    Args:
      joint: [batch, classes], logits of p(t | x, n).
      log_auxiliary: [batch, classes], log p_aux(t | n) of each example's given label.
      alpha: scalar.

    Returns:
      float32 [batch, classes].
    """
    return tf.nn.softmax((tf.nn.log_softmax(joint) + alpha * log_auxiliary) / (1 + alpha))


def auxiliary_distribution(matrix, *, prior=None, smoothing=SMOOTHING):
    """p_aux(t | n) ~ prior_t T[t, n], T smoothed to (1 - smoothing) T + smoothing / c: float64 [given, true].

    Args:
      matrix: [classes, classes], T.
      prior: [classes], of the true labels; uniform unless given.
    """
    classes = len(matrix)
    smooth = (1 - smoothing) * np.asarray(matrix, np.float64) + smoothing / classes
    joint = (smooth * (np.full(classes, 1 / classes) if prior is None else prior)[:, None]).T
    return joint / joint.sum(axis=1, keepdims=True)


def alpha_schedule(epoch):
    """alpha = max(u / (1 - u), 0.5) with u = 0.99 - epoch / 10, epochs from 0: float32."""
    u = 0.99 - tf.cast(epoch, tf.float32) / 10
    return tf.maximum(u / (1 - u), 0.5)


def draw_clean_labels(split, count, *, num_classes, seed):
    """`count` true labels, as many of each class, drawn by (seed, id); fewer where there are fewer.

    Returns:
      int32 [n], -1 for the others.
    """
    draws, clean = uniform_draws(split.ids, seed=seed, salt=CLEAN_SALT), np.full(len(split), -1, np.int32)
    for label in range(num_classes):
        members = np.flatnonzero(split.true_labels == label)
        share = count // num_classes + (label < count % num_classes)
        clean[members[np.argsort(draws[members], kind="stable")[:share]]] = label
    return clean


def train(run):
    """One stage, after one of cross entropy where T is estimated; exports the student."""
    config, examples = run.config, run.examples
    matrix = transition.matrix_for_run(run, cross_entropy.train_stage)
    clean = draw_clean_labels(examples.train, config.num_clean_labels, num_classes=len(examples.class_names),
                            seed=config.seed)
    counts = np.bincount(clean[clean >= 0], minlength=len(examples.class_names)).tolist()
    logging.info("clean labels given to cnn_crf: %d of %d, by class %s", sum(counts), len(clean), counts)
    stage = run.stage("cnn crf")
    stage.train(lambda network: new_cnn_crf(config, examples, network, matrix=matrix, clean_labels=clean))
    run.report["clean_labels"] = {"asked": config.num_clean_labels, "used": sum(counts), "by_class": counts}


def new_cnn_crf(config, examples, network, **kwargs):
    return CNNCRF(network, steps_per_epoch=examples.steps_per_epoch, form=config.crf_form, seed=config.seed, **kwargs)


def check(config, examples, network):
    transition.check(config, examples)
    if config.num_clean_labels and (examples.train.true_labels < 0).all():
        raise UserError(f"--num_clean_labels={config.num_clean_labels}: no true label of the training examples is "
                        "known; take --num_clean_labels=0, or data that bring true labels.")
    try:
        new_cnn_crf(config, examples, network, matrix=np.eye(len(examples.class_names)), clean_labels=[-1])
    except ValueError as error:
        raise UserError(f"--model={config.model}: cnn_crf adds a second head: {error}") from error


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    return transition.planned_epochs(config, examples)
