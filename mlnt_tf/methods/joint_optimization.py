"""Joint Optimization of weights and labels (Tanaka, Ikami, Yamasaki, Aizawa, CVPR 2018)."""

import shutil

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import losses
from mlnt_tf.data.targets import Targets
from mlnt_tf.experiment.prior import class_prior
from mlnt_tf.files import artifacts, atomic
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.training import checkpoints
from mlnt_tf.training.compile import learning_rate_schedule

LABELS_FILE = "soft_labels.npy"
AVERAGED_EPOCHS = 10  # A label is the mean prediction of this many epochs.
# The paper's ratio for symmetric noise 0.7: learning rate 0.08 in stage 1, 0.2 in stage 2.
STAGE1_LEARNING_RATE_FACTOR = 0.4


def train(run):
    """Trains two stages and exports the student of the second.

    Stage 1 learns labels at a constant learning rate. Stage 2 trains a new network on them.
    """
    config, examples = run.config, run.examples
    train_split = examples.train
    first = run.stage("joint optimization")
    prior = class_prior(config, examples)
    given = np.eye(len(examples.class_names), dtype=np.float32)[train_split.labels]

    def new_model(network):
        return JointOptimization(network, labels=given, alpha=config.joint_alpha,
                                 beta=config.joint_beta, prior=prior)

    labels_path = first.directory / LABELS_FILE
    if first.result is not None and artifacts.read(labels_path, inputs=first.inputs) is None:
        first.discard()
    update = UpdateLabels(first.directory, inputs=first.inputs, start=config.joint_start,
                          kind=config.joint_labels, true_labels=train_split.true_labels)
    has_true_labels = (train_split.true_labels >= 0).any()
    result = first.train(
        new_model, epochs=config.joint_stage_epochs, learning_rate=stage1_learning_rate(config),
        extra_callbacks=[update], curves=("label_accuracy",) if has_true_labels else ())
    shutil.rmtree(first.directory / "predictions", ignore_errors=True)

    labels, _ = artifacts.read(labels_path, inputs=first.inputs)
    second = run.stage("joint retraining")
    second.train(CrossEntropy, targets=Targets(train_split.labels, probabilities=labels),
                 learning_rate=stage2_learning_rate(second))
    run.report["recovered_label_accuracy"] = result.get("label_accuracy", [None])[-1]


def check(config, examples, network):
    """Raises UserError if there is no usable class prior."""
    del network
    class_prior(config, examples)


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    del examples
    return {"cross entropy": config.joint_stage_epochs + config.epochs}


def stage1_learning_rate(config):
    """Returns the constant learning rate of stage 1, a float."""
    return config.joint_rate or STAGE1_LEARNING_RATE_FACTOR * config.learning_rate


def stage2_learning_rate(stage):
    """Returns the learning rate schedule of stage 2. That of stage 1 is constant.

    A step schedule with a single decay decays a second time, halfway to it. In the paper these are
    epochs 40 and 80 of 120. A list of decays and other schedules are those of the other methods.
    """
    config = stage.config
    return learning_rate_schedule(config, stage.examples.steps_per_epoch, config.epochs,
                                  decays_halfway=True)


class JointOptimization(CrossEntropy):
    """Stage 1: the loss Lc + alpha Lp + beta Le on soft labels, which `UpdateLabels` updates.

    Lc is cross entropy with the soft labels, Lp is `prior_loss` and Le is `entropy_loss`. With
    alpha = beta = 0 and constant labels the loss is cross entropy.

    A batch also has "position", int32 [batch]: the row of each example in the tables. An example's
    "weight" applies to Lc and Le. Lp belongs to the batch as a whole and is not weighted.

    Args:
      network: as for `CrossEntropy`.
      labels: float32 [n, classes], the initial label of each training example, one-hot.
      alpha: float, weight of Lp, which keeps the predicted classes in the proportions of the prior.
      beta: float, weight of Le, which favors confident predictions.
      prior: float [classes], the fractions of the true classes. None is uniform.

    Attributes:
      labels: float32 [n, classes], a variable with the current soft labels.
      predicted: float32 [n, classes], a variable with the prediction for each example in its last
        training pass. It starts as the example's label.
    """

    takes_probabilities = False  # The soft labels are a table of the model, not part of a batch.

    def __init__(self, network, *, labels, alpha, beta, prior=None, **kwargs):
        super().__init__(network, **kwargs)
        self.prior = None if prior is None else np.asarray(prior, np.float32)
        self.alpha = alpha
        self.beta = beta
        self.labels = self.add_table(*labels.shape, name="labels", start=labels)
        self.predicted = self.add_table(*labels.shape, name="predicted", start=labels)

    def per_example_loss(self, batch, logits):
        logits = tf.cast(logits, tf.float32)
        self.write_rows(self.predicted, batch, tf.nn.softmax(logits))
        loss = losses.soft_cross_entropy(self.rows(self.labels, batch), logits)
        if self.beta:
            loss += self.beta * entropy_loss(logits)
        return loss

    def batch_terms(self, batch, logits):
        terms = super().batch_terms(batch, logits)
        if self.alpha:
            probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
            [mean] = self.reduce([tf.reduce_mean(probabilities, axis=0)])  # Over all replicas.
            terms.append(self.alpha * prior_loss(mean, self.prior))
        return terms


def prior_loss(mean, prior=None):
    """Returns Lp = -sum_j prior_j log(mean_j), which is smallest where the mean is the prior.

    Args:
      mean: float32 [classes], the mean predicted probabilities of the global batch.
      prior: float32 [classes], the fractions of the true classes. None is uniform, as in the
        paper's experiments.

    Returns:
      float32 scalar.
    """
    if prior is None:
        return -tf.reduce_mean(tf.math.log(mean))
    return -tf.reduce_sum(prior * tf.math.log(mean))


def entropy_loss(logits):
    """Returns Le = -sum_j s_j log(s_j), where s is the softmax of the logits.

    Args:
      logits: float32 [batch, classes].

    Returns:
      float32 [batch].
    """
    return -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), axis=1)


class UpdateLabels(keras.callbacks.Callback):
    """Replaces the labels by the mean of the last ten predictions, at the end of each epoch.

    The predictions of an epoch are one file, which is read through a memory map. Older files are
    stored as long as a checkpoint may need them. Place this callback before the one that writes
    checkpoints.

    Args:
      directory: pathlib.Path, for these files, and for soft_labels.npy at the end.
      inputs: str, the digest of what soft_labels.npy depends on.
      start: int, at least 1, number of epochs before the first update.
      kind: "soft", or "hard" for one-hot labels of the most likely class.
      true_labels: int32 [n], -1 where unknown. The fraction of correct labels is logged as
        `label_accuracy`.
    """

    def __init__(self, directory, *, inputs, start, kind, true_labels):
        super().__init__()
        self.directory = directory
        self.inputs = inputs
        self.start = start
        self.kind = kind
        self.true_labels = true_labels

    def path(self, epoch):
        """Returns the path of the predictions of an epoch, counted from 0."""
        return self.directory / "predictions" / f"{epoch:05d}.npy"

    def on_epoch_end(self, epoch, logs=None):
        self._write_predictions(epoch)
        if epoch + 1 >= self.start:
            self.model.labels.assign(self.mean_labels(epoch))
        known = self.true_labels >= 0
        if known.any():
            is_correct = self.model.labels.numpy().argmax(axis=1) == self.true_labels
            logs["label_accuracy"] = float(is_correct[known].mean())
            logging.info("correct labels: %.1f %%", 100 * logs["label_accuracy"])

    def _write_predictions(self, epoch):
        """Writes the predictions of an epoch, and deletes those that no checkpoint needs."""
        path = self.path(epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as scratch:
            np.save(scratch, self.model.predicted.numpy())
        oldest = self.path(max(epoch + 1 - AVERAGED_EPOCHS - checkpoints.MAX_CHECKPOINTS, 0))
        for other in sorted(path.parent.glob("*.npy")):
            if other < oldest:
                other.unlink()

    def mean_labels(self, epoch):
        """Returns the labels after an epoch, float32 [n, classes]."""
        epochs = range(max(epoch + 1 - AVERAGED_EPOCHS, 0), epoch + 1)
        total = np.zeros(self.model.labels.shape, np.float32)
        for each in epochs:
            total += np.load(self.path(each), mmap_mode="r")
        mean = total / len(epochs)
        if self.kind == "soft":
            return mean
        return np.eye(mean.shape[1], dtype=np.float32)[mean.argmax(axis=1)]

    def on_train_end(self, logs=None):
        artifacts.write(self.directory / LABELS_FILE, self.model.labels.numpy(),
                        inputs=self.inputs)
