"""What watches a training: the best networks, a line an epoch, logs, and a stop at the first loss not finite."""

import math
import pathlib
import time

import keras
import numpy as np
from absl import logging

from mlnt_tf.config import NonFiniteLoss
from mlnt_tf.files import atomic


def accuracy_name(network):
    """The name of a network's validation accuracy: "accuracy" or, for example, "teacher_accuracy"."""
    if network == "student":
        return "accuracy"
    return f"{network}_accuracy"


def monitor(network):
    """Returns the name of a network's validation accuracy in the logs: val_accuracy is the student's."""
    return f"val_{accuracy_name(network)}"


class SaveBest(keras.callbacks.Callback):
    """Saves the best network of a model by validation accuracy; ties keep the earliest epoch.

    Args:
      network: str, its name in `model.networks`.
      path: a .keras file, written whole or not at all.
      position: the checkpoints.Position that this training begins at, or None.
    """

    def __init__(self, network, path, position=None):
        super().__init__()
        self.network = network
        self.path = pathlib.Path(path)
        self.monitor = monitor(network)
        self.position = position
        self.values = [logs[self.monitor] for logs in position.history] if position else []

    def on_train_begin(self, logs=None):
        if self.values and not self.position.step:  # the process may have been killed right after the checkpoint
            self.save_if_best()

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(logs[self.monitor])
        self.save_if_best()

    def save_if_best(self):
        """Saves the network if the last epoch, whose weights it has, was the best."""
        if self.values.index(max(self.values)) == len(self.values) - 1:
            with atomic.replacing(self.path) as scratch:
                self.model.networks[self.network].save(scratch)


class Logs(keras.callbacks.TensorBoard):
    """TensorBoard logs of this training and of the epochs before it: one file, no epoch twice.

    Args:
      directory: for train/ and validation/, whose older logs are replaced.
      history: the logs of the epochs before, a dict each.
    """

    def __init__(self, directory, history=()):
        super().__init__(directory)
        self.directory, self.history = pathlib.Path(directory), history

    def set_model(self, model):
        for path in self.directory.glob("*/events.out.tfevents.*"):
            path.unlink()
        super().set_model(model)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        for epoch, logs in enumerate(self.history):
            self.on_epoch_end(epoch, logs)

    def _collect_learning_rate(self, logs):
        return logs  # they hold the rate of the epoch's last step; Keras would put that of the next in its place


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops at the first batch whose loss is nan or infinite, before anything is saved of it.

    Raises:
      NonFiniteLoss
    """

    def on_train_batch_end(self, batch, logs=None):
        found = {name: logs[name] for name in ("loss", "consistency") if not math.isfinite(logs.get(name, 0.0))}
        if found:
            losses = ", ".join(f"{name}={float(value)}" for name, value in found.items())
            raise NonFiniteLoss(f"{losses} at step {np.asarray(self.model.nonfinite_step)}")


class Progress(keras.callbacks.Callback):
    """Logs a line for each epoch, and one every `every` seconds within a long one.

    Args:
      name: of the stage.
      epochs: how many there will be.
      every: seconds.
    """

    def __init__(self, name, epochs, *, every=30.0):
        super().__init__()
        self.name, self.epochs, self.every = name, epochs, every

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.began = epoch, time.monotonic()
        self.told = self.began

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() - self.told > self.every:
            self.told = time.monotonic()
            logging.info("%s  epoch %d/%d  step %d/%d  loss %.3f", self.name, self.epoch + 1, self.epochs, batch + 1,
                         self.params["steps"], logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        told = [f"loss {logs['loss']:.3f}"]
        if "consistency" in logs:
            told.append(f"consistency {logs['consistency']:.4f}")
        told.append(f"given labels {logs['accuracy']:.3f}")
        if "true_accuracy" in logs:
            told.append(f"true labels {logs['true_accuracy']:.3f}")
        told.append("validation: " + ", ".join(f"{name} {logs[monitor(name)]:.3f}" for name in self.model.networks))
        logging.info("%s  epoch %d/%d  %s  %.1f s", self.name, epoch + 1, self.epochs, "  ".join(told),
                     time.monotonic() - self.began)
