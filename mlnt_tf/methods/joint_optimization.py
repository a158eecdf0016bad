"""Joint Optimization of weights and labels (Tanaka, Ikami, Yamasaki, Aizawa, CVPR 2018)."""

import shutil

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import losses
from mlnt_tf.data.targets import Targets
from mlnt_tf.experiment.stage import learning_rate_schedule
from mlnt_tf.files import atomic
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.training import checkpoints, schedules

AVERAGED_EPOCHS = 10  # epochs whose predictions make a label
STAGE1_LEARNING_RATE_FACTOR = 0.4  # 0.08 of stage 1 against 0.2 of stage 2, symmetric noise 0.7


class JointOptimization(CrossEntropy):
    """Stage 1: L = Lc + alpha Lp + beta Le on soft labels that `UpdateLabels` updates.

    With alpha = beta = 0 and constant labels it is cross entropy. A batch also has "position",
    int32 [batch]: the row of each example in the tables. An example's "weight" applies to Lc and Le.
    Lp belongs to the batch as a whole and is not weighted.

    Args:
      network: as for `CrossEntropy`.
      labels: float32 [n, classes], one row per training example, one-hot at the start.
      alpha: weight of Lp, which keeps the predicted classes in the proportions of the prior.
      beta: weight of Le, which favors confident predictions.

    Attributes:
      labels: the current soft labels, a float32 [n, classes] variable.
      predicted: float32 [n, classes], the prediction for each example in its last training pass. It
        starts as the example's label.
    """

    takes_probabilities = False  # The labels are a table of the model.

    def __init__(self, network, *, labels, alpha, beta, **kwargs):
        super().__init__(network, **kwargs)
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
            [mean] = self.reduce([tf.reduce_mean(probabilities, axis=0)])  # Of the global batch.
            terms.append(self.alpha * prior_loss(mean))
        return terms


def prior_loss(mean):
    """Lp = -sum_j 1/c log mean_j, smallest if the mean prediction [classes] is uniform: a scalar."""
    return -tf.reduce_mean(tf.math.log(mean))


def entropy_loss(logits):
    """Le = -sum_j s_j log s_j, where s is the softmax of the logits [batch, classes].

    Returns:
      float32 [batch].
    """
    return -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), axis=1)


class UpdateLabels(keras.callbacks.Callback):
    """At the end of each epoch from the `start`-th on a label is the mean of the example's last ten predictions.

    Those of an epoch are one file, read through a memory map; a few more than ten are kept, for a training that goes on
    from an older checkpoint. Put it before the callback that writes checkpoints.

    Args:
      directory: for the files, and for soft_labels.npy at the end.
      start: epochs before the first update, at least 1.
      kind: "soft", or "hard" for one-hot labels of the likeliest class.
      true_labels: int32 [n], -1 where unknown: the share of labels that are right is logged as `label_accuracy`.
    """

    def __init__(self, directory, *, start, kind, true_labels):
        super().__init__()
        self.directory, self.start, self.kind, self.true_labels = directory, start, kind, true_labels

    def path(self, epoch):
        return self.directory / "predictions" / f"{epoch:05d}.npy"

    def on_epoch_end(self, epoch, logs=None):
        self.path(epoch).parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(self.path(epoch)) as scratch:
            np.save(scratch, self.model.predicted.numpy())
        for path in sorted(self.path(epoch).parent.glob("*.npy")):
            if path < self.path(max(epoch + 1 - AVERAGED_EPOCHS - checkpoints.MAX_CHECKPOINTS, 0)):
                path.unlink()
        if epoch + 1 >= self.start:
            self.model.labels.assign(self.renewed(epoch))
        known = self.true_labels >= 0
        if known.any():
            recovered = self.model.labels.numpy().argmax(axis=1) == self.true_labels
            logs["label_accuracy"] = float(recovered[known].mean())
            logging.info("labels that are right: %.1f %%", 100 * logs["label_accuracy"])

    def renewed(self, epoch):
        """The labels after an epoch: float32 [n, classes]."""
        epochs = range(max(epoch + 1 - AVERAGED_EPOCHS, 0), epoch + 1)
        total = np.zeros(self.model.labels.shape, np.float32)
        for one in epochs:
            total += np.load(self.path(one), mmap_mode="r")
        mean = total / len(epochs)
        return mean if self.kind == "soft" else np.eye(mean.shape[1], dtype=np.float32)[mean.argmax(axis=1)]

    def on_train_end(self, logs=None):
        with atomic.replacing(self.directory / "soft_labels.npy") as scratch:
            np.save(scratch, self.model.labels.numpy())


def train(run):
    """Stage 1 at a constant rate finds labels, stage 2 trains a fresh network on them; exports its student."""

    config, examples = run.config, run.examples
    stage = run.stage("joint optimization")
    given = np.eye(len(examples.class_names), dtype=np.float32)[examples.train.labels]
    found = stage.train(
        lambda network: JointOptimization(network, labels=given, alpha=config.joint_alpha, beta=config.joint_beta),
        epochs=config.joint_stage_epochs, learning_rate=config.joint_rate or STAGE1_LEARNING_RATE_FACTOR * config.learning_rate,
        also=[UpdateLabels(stage.directory, start=config.joint_start, kind=config.joint_labels,
                           true_labels=examples.train.true_labels)],
        curves=("label_accuracy",) if (examples.train.true_labels >= 0).any() else ())
    shutil.rmtree(stage.directory / "predictions", ignore_errors=True)
    labels = np.load(stage.directory / "soft_labels.npy")
    final = run.stage("joint retraining")
    final.train(CrossEntropy, targets=Targets(examples.train.labels, probabilities=labels),
                learning_rate=stage2_learning_rate(final))
    run.report["recovered_label_accuracy"] = found.get("label_accuracy", [None])[-1]


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`)."""
    del examples
    return {"cross entropy": config.joint_stage_epochs + config.epochs}


def stage2_learning_rate(stage):
    """Returns the learning rate of stage 2: it falls as the others do, and once before, halfway to that epoch.

    In the paper these are epochs 40 and 80 of 120.
    """
    last = learning_rate_schedule(stage.config, stage.examples.steps_per_epoch, stage.config.epochs)
    return schedules.StepDecay(last, last.boundary and round(last.boundary / 2))
