"""One training from its initial weights to its results: what every method is made of."""

import shutil
import time

import keras
import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline
from mlnt_tf.files import artifacts
from mlnt_tf.hardware import host
from mlnt_tf.models import predict
from mlnt_tf.models.layers import fuse_batch_norm
from mlnt_tf.training import callbacks, checkpoints, schedules
from mlnt_tf.training.ema import EmaTeacher


class Stage:
    """One training of a run, with a directory of its own.

    Attributes:
      name: str.
      directory: pathlib.Path, for its logs, networks, checkpoints and result.
      result: dict, the measured accuracies, or None while the stage is not finished.
      position: `checkpoints.Position`, where an interrupted call left it.
    """

    def __init__(self, run, name, *, directory, result, position, arrays):
        self.run = run
        self.name = name
        self.directory = directory
        self.result = result
        self.position = position
        self.arrays = arrays
        self.began = time.monotonic() - position.seconds

    @classmethod
    def open(cls, run, name):
        """Opens a stage where an interrupted call left it: reads its result and its newest checkpoint, starts its clock.

        Every worker calls it; each waits for all.

        Raises:
          UserError: a worker does not find the chief's files.
        """
        directory = run.path / name.replace(" ", "_")
        result = artifacts.read_json(directory / "result.json", inputs=artifacts.digest_of(run.inputs, name))
        position, arrays = checkpoints.read_newest(directory / "checkpoints")
        found = np.int64([position.epoch, position.step, result is not None])
        if (run.devices.of_chief(found) != found).any():
            raise UserError(f"worker {run.devices.worker} does not find the chief's checkpoints. --output_dir must be one "
                            "directory that all workers share.")
        return cls(run, name, directory=directory, result=result, position=position, arrays=arrays)

    @property
    def config(self):
        return self.run.config

    @property
    def examples(self):
        return self.run.examples

    @property
    def devices(self):
        return self.run.devices

    def network_path(self, network):
        """Returns the path of the best network of this name ("student" or "teacher")."""
        return self.directory / f"{network}_best.keras"

    def network(self, network):
        """Loads the best network of this name on every device."""
        with self.devices.scope():
            return self.load_network(network)

    def load_network(self, network):
        """Loads the best network of this name on one device."""
        return keras.models.load_model(self.network_path(network), compile=False)

    def new_network(self):
        """Builds the network at its initial weights, which are the same for every stage of a run."""
        network = self.examples.new_network(self.config)
        return fuse_batch_norm(network, synchronized=True) if self.config.sync_batch_norm else network

    def seconds(self):
        """Returns the seconds spent on this stage so far, in earlier calls too."""
        return time.monotonic() - self.began

    def batches(self, epochs, *, whole_batches=False, **streams):
        """Returns the rest of this stage's training batches, this worker's part of each.

        Args:
          epochs: int.
          whole_batches: bool. Every worker reads and decodes the whole global batch, as a search for neighbors within
            the batch needs; otherwise each reads its own slice.
          **streams: targets, neighbors, features and stream of `pipeline.training_batches`.
        """
        config, examples, devices = self.config, self.examples, self.devices
        worker = (0, 1) if whole_batches else (devices.worker, devices.workers)
        batches = pipeline.training_batches(
            examples.train, examples.preprocess, batch_size=config.batch_size, epochs=epochs,
            first_epoch=self.position.epoch, first_step=self.position.step,
            steps_per_epoch=examples.steps_per_epoch, seed=config.seed, augmented=config.augment,
            num_neighbors=config.num_neighbors, worker=worker, **streams)
        return devices.parts(batches, sliced=not whole_batches)

    def train(self, new_model, *, report=None, **settings):
        """Trains a model to the end and writes the result, unless an earlier call has finished the stage.

        Args:
          new_model: function of a network that returns a `CrossEntropy` model around it.
          report: dict, added to the result.
          **settings: as `train_model`.

        Returns:
          dict, the result of the stage.
        """
        if self.result is None:
            measured = self.train_model(new_model, **settings)
            self.finish({**(report or {}), **measured})
        return self.result

    def train_model(self, new_model, *, batches=None, targets=None, epochs=None, learning_rate=None, ramp_epochs=None,
                    meta=None, also=(), curves=()):
        """Trains a model from the network's initial weights to the end.

        Args:
          new_model: function of a network that returns a `CrossEntropy` model around it.
          batches: data set of training batches; by default those of `targets`.
          targets: `Targets` of the classification loss; by default the given labels.
          epochs: int; by default --epochs.
          learning_rate: number or schedule; by default that of the flags.
          ramp_epochs: epochs of gamma's ramp; by default the fraction of the epochs that the flags ask for.
          meta: dict, further arguments of the model's `compile` (see `compile_model`).
          also: callbacks of the method, whose epoch ends before the checkpoint is written.
          curves: names of what they add to an epoch's logs, to be reported per epoch.

        Returns:
          dict, as `measure`.
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
            model = compile_model(new_model(self.new_network()), config, learning_rate=learning_rate, **(meta or {}))
        return self.fit(model, batches, epochs, ramp_epochs=ramp_epochs, also=also, curves=curves)

    def fit(self, model, batches, epochs, *, ramp_epochs, also=(), curves=()):
        """Trains, validates after each epoch and keeps the best networks. Returns what `measure` returns.

        Resumes from the newest checkpoint: `batches` begin where it was written.
        """
        config, examples, devices, position = self.config, self.examples, self.devices, self.position
        self.directory.mkdir(parents=True, exist_ok=True)
        validation = devices.parts(examples.batches(examples.validation, config, multiple=devices.replicas))
        saving = checkpoints.Checkpoints(self.directory / "checkpoints", position, self.arrays,
                                         every=config.checkpoint_every, clock=self.seconds, devices=devices)
        teacher = EmaTeacher(config.ema_decay, decay_start=config.ema_decay_start, statistics=config.teacher_statistics,
                             ramp_steps=round(ramp_epochs * examples.steps_per_epoch))
        best = [callbacks.SaveBest(name, self.network_path(name), position) for name in model.networks]
        if self.arrays:
            logging.info("%s: resumes after epoch %d, step %d", self.name, position.epoch, position.step)
            checkpoints.restore(model, position, self.arrays, self.directory / "checkpoints")
            self.arrays = None  # they are large
        with saving.watching():
            model.fit(devices.distributed(batches, endless=True), initial_epoch=position.epoch, epochs=epochs,
                      steps_per_epoch=examples.steps_per_epoch, validation_data=devices.distributed(validation),
                      verbose=0, shuffle=False,
                      callbacks=[callbacks.StopOnNonFinite(), teacher, *also, saving, *best,
                                 callbacks.EpochLog(self.name, epochs, position),
                                 callbacks.TensorBoardLogs(self.directory, position.history)])
        return self.measure(model, saving.history, curves)

    def measure(self, model, history, curves):
        """Returns the validation curve, the best epoch and the accuracies of each network, and the named curves."""
        examples = self.examples
        test = examples.batches(examples.test, self.config, multiple=self.devices.replicas)
        measured = {name: [logs[name] for logs in history] for name in curves}
        measured["validation"] = {name: [logs[callbacks.monitor(name)] for logs in history] for name in model.networks}
        for name, network in model.networks.items():
            validated = measured["validation"][name]
            measured[name] = {
                "best_validation": max(validated), "last_validation": validated[-1],
                "best_epoch": int(np.argmax(validated)) + 1,
                "test_at_best": predict.accuracy(self.network(name), test, examples.test.labels),
                "test_last": predict.accuracy(network, test, examples.test.labels)}
        return measured

    def finish(self, result):
        """Writes the result: from here on the stage need not run again."""
        self.result = {**result, "seconds": self.seconds(),
                       "peak_memory_mb": max(host.peak_memory_mb(), self.position.peak_memory_mb)}
        artifacts.write_json(self.directory / "result.json", self.result,
                             inputs=artifacts.digest_of(self.run.inputs, self.name))
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)
        return self.result


def compile_model(model, config, *, learning_rate, **meta):
    """Compiles a model as the settings say: the one place where settings become optimizers.

    Args:
      model: a `CrossEntropy` model.
      config: a resolved Config.
      learning_rate: beta, a number or a schedule.
      **meta: arguments that the model's class adds to `compile`, for example `meta_rate` of MLNT.

    Returns:
      the model.
    """
    model.compile(learning_rate=learning_rate, momentum=config.momentum, weight_decay=config.weight_decay,
                  jit_compile=config.jit_compile == "true", steps_per_execution=config.steps_per_execution, **meta)
    return model


def learning_rate_schedule(config, steps_per_epoch, epochs):
    """Returns beta's schedule: it falls to a tenth after the same fraction of the epochs in every stage."""
    decay = config.decay_epochs
    boundary = decay and round(decay / config.epochs * epochs * steps_per_epoch)
    return schedules.StepDecay(config.learning_rate, boundary)
