"""A stage: one training from initial weights to measured accuracies. A method has one or more."""

import contextlib
import shutil
import time

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline
from mlnt_tf.data.targets import Targets
from mlnt_tf.files import artifacts
from mlnt_tf.hardware import host
from mlnt_tf.models import predict, saved_network
from mlnt_tf.models.layers import fuse_batch_norm
from mlnt_tf.training import callbacks, checkpoints
from mlnt_tf.training.compile import compile_model, learning_rate_schedule
from mlnt_tf.training.ema import EmaTeacher


class Stage:
    """One training of a run, with its own directory.

    Most methods call `train`, which trains a model and writes the result. A method that needs the
    measured accuracies for its result calls `train_model` and then `finish`. `fit` is for a model
    that is already compiled.

    Attributes:
      run: the `Run` it belongs to.
      name: str, unique within the run.
      directory: pathlib.Path, for logs, networks, checkpoints and the result.
      result: dict, the measured accuracies, or None while the stage is not finished.
      position: `checkpoints.Position`, from which the training resumes.
      arrays: dict of the newest checkpoint's arrays, or None once they are restored.
      inputs: str, the digest of what the stage's result depends on.
    """

    def __init__(self, run, name, *, directory, inputs, result, position, arrays):
        self.run = run
        self.name = name
        self.directory = directory
        self.inputs = inputs
        self.result = result
        self.position = position
        self.arrays = arrays
        self.start_time = time.monotonic() - position.seconds

    @classmethod
    def open(cls, run, name):
        """Opens a stage: reads its result and its newest checkpoint, if any, and starts its clock.

        Every worker must call it, and waits for the others.

        Args:
          run: the `Run`.
          name: str.

        Raises:
          UserError: this worker and the chief read different files.
        """
        directory = run.path / name.replace(" ", "_")
        inputs = artifacts.digest_of(run.inputs, name)
        result = artifacts.read_json(directory / "result.json", inputs=inputs,
                                     required=("validation", "student", "seconds"))
        if result and not _networks_are_intact(directory, result):
            result = None
        position, arrays = checkpoints.read_newest(directory / "checkpoints")
        state = np.int64([position.epoch, position.step, result is not None])
        chief_state = run.devices.broadcast(state)
        if (chief_state != state).any():
            raise UserError(f"--output_dir={run.config.output_dir} on worker {run.devices.worker} "
                            "does not hold the chief's files: [epoch, step, finished] of the stage "
                            f"{name!r} is {state.tolist()} here and {chief_state.tolist()} there. "
                            "Use a directory that all workers share.")
        return cls(run, name, directory=directory, inputs=inputs, result=result, position=position,
                   arrays=arrays)

    def discard(self):
        """Makes a finished stage train again, because one of its files is lost."""
        self.result = None
        (self.directory / "result.json").unlink(missing_ok=True)

    @property
    def config(self):
        return self.run.config

    @property
    def examples(self):
        return self.run.examples

    @property
    def devices(self):
        return self.run.devices

    def network_path(self, name, epoch="best"):
        """Returns the path of the "student", "teacher" or other network at an epoch.

        Args:
          name: str.
          epoch: "best", or "last" with --select=last.
        """
        return network_path(self.directory, name, epoch)

    def load_network(self, name, epoch="best", *, distributed=True):
        """Loads a network (see `network_path`), on every device or only on one.

        It takes normalized images, although its file contains the normalization.
        """
        scope = self.devices.scope() if distributed else contextlib.nullcontext()
        with scope:
            return saved_network.load_network(self.network_path(name, epoch))

    def save_network(self, network, name, epoch="best"):
        """Saves a network of preprocessed images, with its normalization; see `network_path`."""
        saved_network.write_network(network, self.network_path(name, epoch),
                                    normalize=self.examples.preprocess.normalize)

    def new_network(self):
        """Builds the network with its initial weights, which all stages of a run share."""
        network = self.run.new_network()
        if self.config.sync_batch_norm:
            network = fuse_batch_norm(network, synchronized=True)
        return network

    @property
    def costs_more_than_seconds(self):
        """bool, whether the finished stage trained more than a head on computed features."""
        return self.config.freeze != "body" and not self.result.get("takes_seconds")

    def seconds(self):
        """Returns the time spent on this stage in s, including that of interrupted calls."""
        return time.monotonic() - self.start_time

    def batches(self, epochs, *, whole_batches=False, **streams):
        """Returns the remaining training batches of this stage, cut for this worker's replicas.

        Args:
          epochs: int, number of epochs of the complete stage.
          whole_batches: bool. If True, every worker reads and decodes the complete global batch, as
            the search for neighbors within a batch requires. If False, it reads its own slice.
          **streams: the arguments targets, neighbors, features and stream of
            `pipeline.training_batches`.

        Returns:
          tf.data.Dataset.
        """
        config, examples, devices = self.config, self.examples, self.devices
        if config.class_balance == "weights":
            targets = streams.get("targets") or Targets.given(examples.train)
            streams = {**streams, "targets": targets.balanced()}
        worker = (0, 1) if whole_batches else (devices.worker, devices.workers)
        batches = pipeline.training_batches(
            examples.train, examples.preprocess, batch_size=config.batch_size, epochs=epochs,
            first_epoch=self.position.epoch, first_step=self.position.step,
            steps_per_epoch=examples.steps_per_epoch, seed=config.seed, augmented=config.augment,
            num_neighbors=config.num_neighbors, worker=worker, **streams)
        return devices.parts(batches, sliced=not whole_batches)

    def train(self, new_model, *, report=None, **settings):
        """Trains a model and writes the result. No-op if the stage has already finished.

        Args:
          new_model: function of a network that returns a `CrossEntropy` model of it.
          report: dict, entries added to the result.
          **settings: see `train_model`.

        Returns:
          dict, the result of the stage.
        """
        if self.result is None:
            measured = self.train_model(new_model, **settings)
            self.finish({**(report or {}), **measured})
        return self.result

    def train_model(self, new_model, *, batches=None, targets=None, epochs=None,
                    learning_rate=None, ramp_epochs=None, meta=None, extra_callbacks=(),
                    curves=()):
        """Trains a model from the network's initial weights, or resumes from a checkpoint.

        Args:
          new_model: function of a network that returns a `CrossEntropy` model of it.
          batches: tf.data.Dataset of training batches. By default `self.batches` of `targets`.
          targets: `Targets` of the classification loss. By default the given labels.
          epochs: int. By default --epochs.
          learning_rate: float or schedule. By default that of the flags.
          ramp_epochs: float, number of epochs until the EMA decay (gamma) rises to --ema_decay. By
            default that of the flags, scaled with `epochs`.
          meta: dict of further arguments of the model's `compile` (see `compile_model`).
          extra_callbacks: callbacks of the method. They run before the checkpoint of an epoch is
            written.
          curves: names of entries that these callbacks add to the logs of each epoch. The result
            lists their values.

        Returns:
          dict, see `measure`.
        """
        config = self.config
        epochs = epochs or config.epochs
        if ramp_epochs is None:
            ramp_epochs = config.ramp_epochs * epochs / config.epochs
        if batches is None:
            batches = self.batches(epochs, targets=targets)
        if learning_rate is None:
            learning_rate = learning_rate_schedule(config, self.examples.steps_per_epoch, epochs)
        with self.devices.scope():
            model = new_model(self.new_network())
            compile_model(model, config, learning_rate=learning_rate, **(meta or {}))
        return self.fit(model, batches, epochs, ramp_epochs=ramp_epochs,
                        extra_callbacks=extra_callbacks, curves=curves)

    def fit(self, model, batches, epochs, *, ramp_epochs, extra_callbacks=(), curves=()):
        """Trains a compiled model, and saves the best epoch of each of its networks.

        Resumes from the newest checkpoint. The batches must begin at `self.position`.

        Args:
          model: a compiled `CrossEntropy` model.
          batches: tf.data.Dataset of the remaining training batches.
          epochs: int, number of epochs of the complete stage.
          ramp_epochs, extra_callbacks, curves: see `train_model`.

        Returns:
          dict, see `measure`.
        """
        config, examples, devices = self.config, self.examples, self.devices
        position = self.position
        self.directory.mkdir(parents=True, exist_ok=True)
        checkpoint_callback = checkpoints.Checkpoints(
            self.directory / "checkpoints", position, self.arrays, every=config.checkpoint_every,
            clock=self.seconds, devices=devices)
        teacher = EmaTeacher(
            config.ema_decay, decay_start=config.ema_decay_start,
            statistics=config.teacher_statistics,
            ramp_steps=round(ramp_epochs * examples.steps_per_epoch))
        best = [callbacks.SaveBest(name, self.network_path(name), position,
                                   normalize=examples.preprocess.normalize)
                for name in model.networks]
        validation = devices.parts(
            examples.batches(examples.validation, config, multiple=devices.replicas))
        limits = []
        if config.early_stopping:
            limits = [callbacks.EarlyStopping(config.early_stopping, self.name, position)]
            if not position.step and limits[0].has_ended(model.networks):
                epochs = position.epoch  # The training ended here before it was interrupted.
        logging.info("%s: %d epochs of %d steps. The first step is compiled, which takes longer.",
                     self.name, epochs - position.epoch, examples.steps_per_epoch)
        self.restore(model)
        with checkpoint_callback.defer_sigterm():
            model.fit(
                devices.distributed(batches, endless=True), initial_epoch=position.epoch,
                epochs=epochs, steps_per_epoch=examples.steps_per_epoch,
                validation_data=devices.distributed(validation), verbose=0, shuffle=False,
                callbacks=[callbacks.StopOnNonFinite(), teacher, *extra_callbacks,
                           checkpoint_callback, *best,
                           callbacks.EpochLog(self.name, epochs, position), *limits,
                           callbacks.WarnOfDecline(self.name, position),
                           callbacks.TensorBoardLogs(
                               self.directory, position.history,
                               validation_labels=examples.label_kinds["validation"])])
        return self.measure(model, checkpoint_callback.history, curves)

    def restore(self, model):
        """Restores the newest checkpoint, if there is one, and releases its memory."""
        if not self.arrays:
            return
        logging.info("%s: resumes after epoch %d, step %d", self.name, self.position.epoch,
                     self.position.step)
        checkpoints.restore(model, self.position, self.arrays, self.directory / "checkpoints")
        self.arrays = None

    def measure(self, model, history, curves):
        """Tests each network of a trained model.

        Args:
          model: the model after its last epoch.
          history: list of dict, the logs of each epoch.
          curves: names of entries of the logs.

        Returns:
          dict with

          - one list per curve, with a value per epoch,
          - "validation": {network: list of the accuracy per epoch},
          - per network, a dict of accuracies (fractions) and "best_epoch" (from 1).
        """
        examples = self.examples
        test = examples.batches(examples.test, self.config, multiple=self.devices.replicas)
        test_labels = examples.test.labels
        measured = {name: [logs[name] for logs in history] for name in curves}
        measured["validation"] = callbacks.validation_curves(history, model.networks)
        if self.config.early_stopping:
            measured["epochs_trained"] = len(history)
        for name, network in model.networks.items():
            validation = measured["validation"][name]
            if self.config.select == "last":
                self.save_network(network, name, "last")
            measured[name] = {
                "best_validation": max(validation),
                "last_validation": validation[-1],
                "best_epoch": int(np.argmax(validation)) + 1,
                "test_at_best": predict.accuracy(self.load_network(name), test, test_labels),
                "test_last": predict.accuracy(network, test, test_labels)}
        return measured

    def finish(self, result):
        """Writes the result, which marks the stage as finished, and deletes its checkpoints.

        Returns:
          dict, the result with the stage's duration and peak memory.
        """
        peak_memory = max(host.peak_memory_mb(), self.position.peak_memory_mb)
        networks = {name: artifacts.file_digest(self.network_path(name))
                    for name in result["validation"]}
        self.result = {**result, "seconds": self.seconds(), "peak_memory_mb": peak_memory,
                       "networks": networks}
        artifacts.write_json(self.directory / "result.json", self.result, inputs=self.inputs)
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)
        return self.result


def network_path(directory, name, epoch="best"):
    """Returns the path of a network in a stage's directory."""
    return directory / f"{name}_{epoch}.keras"


def _networks_are_intact(directory, result):
    """Returns whether the best networks of a finished stage are those that its result describes.

    An earlier version recorded no digests.
    """
    for name, digest in result.get("networks", {}).items():
        path = network_path(directory, name)
        if not path.is_file() or artifacts.file_digest(path) != digest:
            logging.warning("%s is missing or damaged. Its stage is trained again.", path)
            return False
    return True
