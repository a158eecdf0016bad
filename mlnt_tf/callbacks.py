"""What watches a training: the best networks, a line an epoch, and a stop at the first loss that is not finite."""

import math
import time

import keras
from absl import logging

from mlnt_tf.config import NonFiniteLoss


class SaveBest(keras.callbacks.ModelCheckpoint):
    """Saves the best network of an MLNT model, by validation accuracy; of equals the earliest.

    Args:
      role: "student" or "teacher".
      path: a .keras file.
    """

    def __init__(self, role, path):
        monitor = {"student": "val_accuracy", "teacher": "val_teacher_accuracy"}[role]
        super().__init__(str(path), monitor=monitor, mode="max", save_best_only=True)
        self.role = role

    def set_model(self, model):
        super().set_model(getattr(model, self.role))


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops at the first batch whose loss is nan or infinite, before anything is saved of it.

    Raises:
      NonFiniteLoss
    """

    def on_train_batch_end(self, batch, logs=None):
        found = {name: logs[name] for name in ("loss", "consistency") if not math.isfinite(logs.get(name, 0.0))}
        if found:
            losses = ", ".join(f"{name}={float(value)}" for name, value in found.items())
            raise NonFiniteLoss(f"{losses} at step {int(self.model.nonfinite_step)}")


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
        told.append(f"validation: student {logs['val_accuracy']:.3f}, teacher {logs['val_teacher_accuracy']:.3f}")
        logging.info("%s  epoch %d/%d  %s  %.1f s", self.name, epoch + 1, self.epochs, "  ".join(told),
                     time.monotonic() - self.began)
