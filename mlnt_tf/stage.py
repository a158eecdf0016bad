"""One training from its initial weights to its results: what every method is made of."""

import dataclasses
import json
import pathlib
import shutil
import time
import typing

import keras
import numpy as np
from absl import logging

from mlnt_tf import callbacks, checkpoints, files, mentor as mentoring, runtime, schedules
from mlnt_tf.config import Config, UserError
from mlnt_tf.data import pipeline
from mlnt_tf.devices import Devices
from mlnt_tf.examples import Examples
from mlnt_tf.models.layers import fuse_batch_norm
from mlnt_tf.teacher import EmaTeacher

ROLES = ("student", "teacher")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a method is given. `stages` are those it has begun, in order."""

    config: Config
    examples: Examples
    jit_compile: bool
    devices: Devices
    output_dir: pathlib.Path
    stages: list = dataclasses.field(default_factory=list)

    def stage(self, name):
        """Begins a stage, in a directory of its own."""
        self.stages.append(Stage(name, self))
        return self.stages[-1]

    def training_examples(self):
        """The training images un-augmented and in order, in batches."""
        return self.examples.batches(self.examples.train, self.config, multiple=self.devices.replicas)


class Outcome(typing.NamedTuple):
    """What a method returns: the stage and the role ("student" or "teacher") of the network to export, and what it adds
    to results.json."""

    stage: "Stage"
    role: str
    report: dict = {}


class Stage:
    """One training from the initial weights to its results, with a directory of its own."""

    def __init__(self, name, run):
        self.name, self.directory = name, run.output_dir / name.replace(" ", "_")
        self.config, self.examples, self.jit_compile = run.config, run.examples, run.jit_compile
        self.devices = devices = run.devices
        self.checkpoints = self.directory / "checkpoints"
        self.position, self.arrays = checkpoints.newest(self.checkpoints)  # where an interrupted call left it
        self.began = time.monotonic() - self.position.seconds
        stands = np.int64([self.position.epoch, self.position.step, self.results() is not None])
        if (devices.of_chief(stands) != stands).any():
            raise UserError(f"worker {devices.worker} does not find the chief's checkpoints: --output_dir must be one "
                            "directory that all workers share.")

    def results(self):
        """What a finished stage wrote, or None."""
        path = self.directory / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def network(self, role):
        """The best network of a finished stage, on every device."""
        with self.devices.scope():
            return self.undistributed(role)

    def undistributed(self, role):
        """The same on one device."""
        return keras.models.load_model(self.directory / f"{role}_best.keras", compile=False)

    def new_network(self):
        """The network at its initial weights, the same for every stage of a run."""
        network = self.examples.new_network(self.config)
        return fuse_batch_norm(network, synchronized=True) if self.config.sync_batch_norm else network

    def seconds(self):
        """Spent on this stage so far, in earlier calls too."""
        return time.monotonic() - self.began

    def batches(self, epochs, **kwargs):
        """What is left of the training stream of this stage, this worker's part; see `pipeline.training_batches`."""
        config, examples, position, devices = self.config, self.examples, self.position, self.devices
        sliced = "features" not in kwargs  # neighbours within the batch need the whole of it
        return devices.parts(pipeline.training_batches(
            examples.train, examples.preprocess, batch_size=config.batch_size, epochs=epochs,
            first_epoch=position.epoch, first_step=position.step, steps_per_epoch=examples.steps_per_epoch,
            seed=config.seed, augmented=config.augment, num_neighbors=config.num_neighbors,
            worker=(devices.worker, devices.workers) if sliced else (0, 1), **kwargs), sliced=sliced)

    def learning_rate(self, epochs):
        """beta: falls to a tenth after the same share of the epochs in every stage."""
        decay = self.config.decay_epochs
        return schedules.StepDecay(
            self.config.learning_rate,
            decay and round(decay / self.config.epochs * epochs * self.examples.steps_per_epoch))

    def train(self, new_model, *, epochs=None, learning_rate=None, also=(), curves=()):
        """Trains a model of a network from the initial weights to the end, or takes what an earlier call has finished.

        Args:
          new_model: function of a network, a `CrossEntropy` (mlnt_tf.methods.cross_entropy) around it.
          epochs: --epochs, unless given.
          learning_rate: a number or schedule; that of the flags, unless given.
          also, curves: as of `fit`.

        Returns:
          the results of the stage.
        """
        if self.results():
            return self.results()
        config, epochs = self.config, epochs or self.config.epochs
        with self.devices.scope():
            model = new_model(self.new_network())
            model.compile(learning_rate=learning_rate or self.learning_rate(epochs), momentum=config.momentum,
                          weight_decay=config.weight_decay, jit_compile=self.jit_compile,
                          steps_per_execution=config.steps_per_execution)
        ramp_epochs = config.ramp_epochs * epochs / config.epochs  # the same share of them
        return self.finish(self.fit(model, self.batches(epochs), epochs, ramp_epochs=ramp_epochs, also=also,
                                    curves=curves))

    def fit(self, model, batches, epochs, *, ramp_epochs, also=(), curves=()):
        """Trains, validates each epoch, keeps the best networks, and measures them; the results of both roles.

        Goes on from the newest checkpoint: `batches` begin where it stands. gamma ramps over `ramp_epochs`.

        Args:
          also: callbacks of the method's own, whose epoch ends before its checkpoint is written.
          curves: names of what they add to the logs of an epoch, to be reported epoch by epoch.
        """
        config, examples, steps = self.config, self.examples, self.examples.steps_per_epoch
        self.directory.mkdir(parents=True, exist_ok=True)
        validation = self.devices.parts(
            examples.batches(examples.validation, config, multiple=self.devices.replicas))
        teacher = EmaTeacher(config.ema_decay, decay_start=config.ema_decay_start, statistics=config.teacher_statistics,
                             ramp_steps=round(ramp_epochs * steps))
        position = self.position
        saving = checkpoints.Checkpoints(self.checkpoints, position, self.arrays, every=config.checkpoint_every,
                                         clock=self.seconds, devices=self.devices)
        best = [callbacks.SaveBest(role, self.directory / f"{role}_best.keras", position) for role in ROLES]
        if self.arrays:
            logging.info("%s: goes on after epoch %d, step %d", self.name, position.epoch, position.step)
            checkpoints.restore(model, self.arrays, self.checkpoints)
            self.arrays = None  # they are large
        with saving.watching():
            model.fit(self.devices.distributed(batches, endless=True), initial_epoch=position.epoch, epochs=epochs,
                      steps_per_epoch=steps, validation_data=self.devices.distributed(validation), verbose=0, shuffle=False,
                      callbacks=[callbacks.StopOnNonFinite(), teacher, *also, saving, *best,
                                 callbacks.Progress(self.name, epochs),
                                 callbacks.Logs(self.directory, position.history)])
        test = examples.batches(examples.test, config, multiple=self.devices.replicas)
        measured = {name: [logs[name] for logs in saving.history] for name in curves}
        measured["validation"] = {role: [logs[callbacks.MONITORS[role]] for logs in saving.history] for role in ROLES}
        for role, validated in measured["validation"].items():
            measured[role] = {
                "best_validation": max(validated), "last_validation": validated[-1],
                "best_epoch": int(np.argmax(validated)) + 1,
                "test_at_best": mentoring.accuracy(self.network(role), test, examples.test.labels),
                "test_last": mentoring.accuracy(getattr(model, role), test, examples.test.labels)}
        return measured

    def finish(self, result):
        """Writes the result: from here on the stage need not run again."""
        result = {**result, "seconds": self.seconds(),
                  "peak_memory_mb": max(runtime.peak_memory_mb(), self.position.peak_memory_mb)}
        files.write_json(self.directory / "result.json", result)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return result
