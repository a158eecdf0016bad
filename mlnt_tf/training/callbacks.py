"""Callbacks: the best networks, one log line per epoch, TensorBoard, and a stop at a NaN loss."""

import math
import pathlib

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import NonFiniteLoss
from mlnt_tf.files import atomic
from mlnt_tf.models.saved_network import NetworkWriter
from mlnt_tf.progress import Bar, Progress, format_duration
from mlnt_tf.training.keras_internals import TensorBoardOfLogs


def accuracy_name(network):
    """Returns the metric name of a network's accuracy, for example "teacher_accuracy".

    The student's is "accuracy".
    """
    if network == "student":
        return "accuracy"
    return f"{network}_accuracy"


def monitor(network):
    """Returns the name of a network's validation accuracy in the logs, like "val_accuracy"."""
    return f"val_{accuracy_name(network)}"


def validation_curves(history, networks):
    """Returns {network: list of its validation accuracy per epoch}.

    Args:
      history: sequence of dict, the logs of each epoch.
      networks: names of networks.
    """
    return {name: [logs[monitor(name)] for logs in history] for name in networks}


class SaveBest(keras.callbacks.Callback):
    """Saves a network of a model at the epoch with the best validation accuracy.

    Ties keep the earliest epoch.

    Args:
      network: str, the network's name in `model.networks`.
      path: the .keras file, which is always written completely or not at all.
      position: `checkpoints.Position` at which this training resumes, or None.
      normalize: the normalization that the file contains, see `NetworkWriter`.
    """

    def __init__(self, network, path, position=None, *, normalize=None):
        super().__init__()
        self.network = network
        self.normalize = normalize
        self.writer = None
        self.path = pathlib.Path(path)
        self.monitor = monitor(network)
        self.position = position
        self.values = []
        if position:
            self.values = [logs[self.monitor] for logs in position.history]

    def on_train_begin(self, logs=None):
        # A process that is killed right after an epoch's checkpoint has not saved the network yet.
        if self.values and not self.position.step:
            self.save_if_best()

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(logs[self.monitor])
        self.save_if_best()

    def save_if_best(self):
        """Saves the network if the last epoch has the highest validation accuracy so far."""
        best_epoch = self.values.index(max(self.values))
        if best_epoch != len(self.values) - 1:
            return
        if self.writer is None:
            self.writer = NetworkWriter(self.model.networks[self.network], self.normalize)
        with atomic.replacing(self.path) as scratch:
            self.writer.write(scratch)


class EarlyStopping(keras.callbacks.Callback):
    """Ends a training once no network's validation accuracy has improved for some epochs.

    An accuracy improves if it is above all earlier ones of its network.

    Args:
      patience: int, number of epochs, at least 1.
      name: str, the stage's name.
      position: `checkpoints.Position` at which this training resumes, or None.
    """

    def __init__(self, patience, name, position=None):
        super().__init__()
        self.patience = patience
        self.name = name
        self.history = list(position.history) if position else []

    def has_ended(self, networks):
        """Returns whether the epochs so far end the training.

        Args:
          networks: the names of the model's networks.
        """
        if not self.history:
            return False
        curves = validation_curves(self.history, networks).values()
        last_improvement = max(int(np.argmax(values)) for values in curves)
        return len(self.history) - 1 - last_improvement >= self.patience

    def on_epoch_end(self, epoch, logs=None):
        self.history.append(dict(logs))
        if self.has_ended(self.model.networks):
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.has_ended(self.model.networks):
            logging.info("%s: stops after epoch %d, because no validation accuracy has improved "
                         "for --early_stopping=%d epochs", self.name, len(self.history),
                         self.patience)


class WarnOfDecline(keras.callbacks.Callback):
    """Warns once if the validation accuracy of a network falls below half its best.

    Args:
      name: str, the stage's name.
      position: `checkpoints.Position` at which this training resumes, or None.
    """

    def __init__(self, name, position=None):
        super().__init__()
        self.name = name
        self.history = list(position.history) if position else []

    def on_train_begin(self, logs=None):
        self.has_warned = any(self._declined(epochs) for epochs in range(1, len(self.history) + 1))

    def on_epoch_end(self, epoch, logs=None):
        self.history.append(dict(logs))
        declined = None if self.has_warned else self._declined(len(self.history))
        if declined is None:
            return
        self.has_warned = True
        network, best, last = declined
        logging.warning(
            "%s: the validation accuracy of the %s has fallen to %.1f %%, less than half of its "
            "best, %.1f %%. Likely causes are a learning rate that is too high and a network that "
            "memorizes wrong labels. The best epoch of each network is kept and exported, not the "
            "last one.", self.name, network, 100 * last, 100 * best)

    def _declined(self, epochs):
        """Returns (network, best, last) of the first `epochs` epochs, or None without a decline."""
        curves = validation_curves(self.history[:epochs], self.model.networks)
        for network, values in curves.items():
            if values[-1] < max(values) / 2:
                return network, max(values), values[-1]
        return None


class TensorBoardLogs(TensorBoardOfLogs):
    """Writes TensorBoard logs in which a resumed training looks like an uninterrupted one.

    The logs of earlier processes are replaced by one file that contains each epoch once.

    Args:
      directory: str or path, the parent of train/ and validation/.
      history: sequence of dicts, the logs of the epochs before this process.
      validation_labels: str, the kind of labels that validation accuracy is measured against.
    """

    def __init__(self, directory, history=(), *, validation_labels=""):
        super().__init__(directory)
        self.directory = pathlib.Path(directory)
        self.history = history
        self.validation_labels = validation_labels

    def set_model(self, model):
        for path in self.directory.glob("*/events.out.tfevents.*"):
            path.unlink()
        super().set_model(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self.validation_labels:
            with self._val_writer.as_default():
                tf.summary.text("accuracy_measured_against", self.validation_labels, step=0)
        for epoch, epoch_logs in enumerate(self.history):
            self.on_epoch_end(epoch, epoch_logs)


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops at the first batch with a NaN or infinite loss, before any of its weights are saved.

    Raises:
      NonFiniteLoss: the loss or the consistency loss is NaN or infinite. The message names the
        step.
    """

    def on_train_batch_end(self, batch, logs=None):
        losses = {name: float(logs[name]) for name in ("loss", "consistency") if name in logs}
        non_finite = [f"{name}={value}" for name, value in losses.items()
                      if not math.isfinite(value)]
        if non_finite:
            step = np.asarray(self.model.nonfinite_step)
            raise NonFiniteLoss(f"{', '.join(non_finite)} at step {step}")


class EpochLog(keras.callbacks.Callback):
    """Logs one line per epoch, and one every `interval` seconds within a long epoch.

    On a terminal, a progress bar takes the place of the lines within an epoch. The remaining time
    is that of the stage, estimated from the epochs of this process.

    Args:
      name: str, the stage's name.
      epochs: int, the number of epochs of the stage.
      position: `checkpoints.Position` at which this training resumes, or None.
      interval: float, seconds between two lines within an epoch.
    """

    def __init__(self, name, epochs, position=None, *, interval=30.0):
        super().__init__()
        self.name = name
        self.epochs = epochs
        self.position = position
        self.interval = interval

    def on_train_begin(self, logs=None):
        done = 0
        if self.position:
            done = self.position.epoch + self.position.step / self.params["steps"]
        self.progress = Progress(self.epochs, done=done, interval=self.interval)
        self.bar = Bar()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.epoch_start = self.progress.elapsed
        self.progress.restart_interval()

    def on_train_batch_end(self, batch, logs=None):
        if not self.bar.is_shown and not self.progress.line_is_due:
            return
        steps = self.params["steps"]
        self.progress.done = self.epoch + (batch + 1) / steps
        row = self._row(f"step {batch + 1:{len(str(steps))}d}/{steps}", f"loss {logs['loss']:.2f}")
        if self.bar.is_shown:
            self.bar.draw((batch + 1) / steps, row)
            return
        self.progress.restart_interval()
        logging.info("%s", row)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.clear()
        self.progress.done = epoch + 1
        seconds = self.progress.elapsed - self.epoch_start
        logging.info("%s", self._row(*self._measures(logs), format_duration(seconds)))

    def _measures(self, logs):
        """The columns of an epoch's row that state losses and accuracies."""
        columns = [f"loss {logs['loss']:.2f}"]
        if "consistency" in logs:
            columns.append(f"consistency {logs['consistency']:.3f}")
        columns.append(f"train acc (given) {logs['accuracy']:.3f}")
        if "true_accuracy" in logs:
            columns.append(f"(true) {logs['true_accuracy']:.3f}")
        accuracies = [f"{name} {logs[monitor(name)]:.3f}" for name in self.model.networks]
        columns.append("val acc: " + "  ".join(accuracies))
        return columns

    def _row(self, *columns):
        """Returns a line of the stage, the epoch, the columns and the stage's remaining time."""
        epoch = f"epoch {self.epoch + 1:{len(str(self.epochs))}d}/{self.epochs}"
        remaining = f"ETA {format_duration(self.progress.remaining)}"
        return "  ".join([self.name, epoch, *columns, remaining])
