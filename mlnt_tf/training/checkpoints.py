"""Checkpoints: all that a training needs to go on as if it had never stopped, in one file written whole."""

import contextlib
import dataclasses
import json
import pathlib
import signal
import threading
import zipfile
import zlib

import keras
import numpy as np
from absl import logging

from mlnt_tf.config import NonFiniteLoss, Terminated, UserError
from mlnt_tf.files import atomic
from mlnt_tf.hardware import host

FORMAT = 2  # Raise it when the order or the meaning of a model's variables changes: they are restored by position.
KEPT = 3
VOTE_EVERY = 10  # steps between the workers' asking each other whether one has been told to end
READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a training has come.

    Attributes:
      epoch, step: int, `step` steps of the 0-based `epoch` are done. If these are all of its steps, the epoch has yet to
        be validated.
      history: tuple of dict, the logs of each finished epoch.
      logs: dict, the logs of the last step.
      seconds: float, time spent so far.
      peak_memory_mb: float, the highest resident memory of the processes so far, in MiB.
      model: str, the class of the model that is trained.
    """

    epoch: int = 0
    step: int = 0
    history: tuple = ()
    logs: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    model: str = ""


def named_variables(model):
    """{name: variable}: networks (dropout's seeds are among their variables), slots and step counters, metrics.

    Named by their place: the names of Keras's layers count those that the process has made before.
    """
    groups = {"model": model.variables, "optimizer": model.optimizer.variables,
              "meta_optimizer": getattr(model, "meta_optimizer", model.optimizer).variables,
              "metrics": model.metrics_variables}
    found, seen = {}, set()
    for group, variables in groups.items():
        for index, variable in enumerate(variables):
            if id(variable) not in seen:
                seen.add(id(variable))
                found[f"{group}/{index}"] = variable
    return found


def write(directory, position, arrays):
    """Writes a checkpoint, then removes all but the last few.

    Args:
      directory: created if it does not exist.
      position: a Position.
      arrays: {name: array}.

    Raises:
      OSError: the disk is full, or cannot be written; the checkpoints before are as they were.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    state = np.array(json.dumps({"format": FORMAT, **dataclasses.asdict(position)}))
    with atomic.replacing(directory / f"{position.epoch:05d}_{position.step:08d}.npz") as scratch:
        np.savez(scratch, state=state, **arrays)
    for path in sorted(directory.glob("*.npz"))[:-KEPT]:
        path.unlink(missing_ok=True)


def read_newest(directory):
    """Reads the newest intact checkpoint.

    The archive's checksums are verified as it is read. A damaged file is logged and removed.

    Returns:
      (Position, {name: array}), those of the beginning if there is no checkpoint.

    Raises:
      UserError: the checkpoint has another format.
    """
    atomic.remove_scratch_files(directory)
    for path in sorted(pathlib.Path(directory).glob("[0-9]*.npz"), reverse=True):
        try:
            with np.load(path) as archive:
                arrays = {name: archive[name] for name in archive.files}
            state = json.loads(str(arrays.pop("state")))
            written_format = state.pop("format", 1)
            if written_format != FORMAT:
                raise UserError(f"{path} has checkpoint format {written_format}, and this version of mlnt_tf reads format "
                                f"{FORMAT}. Finish the run with the version that began it, or choose another --output_dir.")
            return Position(**{**state, "history": tuple(state["history"])}), arrays
        except UserError:
            raise
        except READ_ERRORS as error:
            logging.warning("%s is damaged (%s): the checkpoint before it is taken.", path,
                            str(error) or type(error).__name__)
            path.unlink()
    return Position(), {}


def restore(model, position, arrays, directory):
    """Restores every variable of a compiled model.

    Raises:
      UserError: the checkpoint holds another class of model, or other variables.
    """
    if position.model != type(model).__name__:
        raise UserError(f"{directory} holds checkpoints of a {position.model}, and this run trains a "
                        f"{type(model).__name__}. Choose another --output_dir.")
    variables = named_variables(model)
    if {name: variable.shape for name, variable in variables.items()} != {
            name: array.shape for name, array in arrays.items()}:
        raise UserError(f"{directory} was written by another version of mlnt_tf, whose networks differ. Choose another "
                        "--output_dir.")
    for name, variable in variables.items():
        variable.assign(arrays[name])


class Checkpoints(keras.callbacks.Callback):
    """Saves a training every `every` steps, at the end of each epoch, and when the process is told to terminate.

    Put it before callbacks that save what is best: a checkpoint is refused where a weight is not finite, and what they
    save after it can be had again from it.

    Args:
      directory: of this training alone.
      position, arrays: from `read_newest`.
      every: steps; 0 is never within an epoch.
      clock: function without arguments, the seconds spent so far.
      devices: those of several workers, who end together and of whom the chief alone writes; None is one process.

    Raises:
      NonFiniteLoss: a weight or an optimizer's slot is nan or infinite.
      Terminated: SIGTERM came; the checkpoint is written.
      OSError: it cannot be written.
    """

    def __init__(self, directory, position, arrays, *, every, clock, devices=None):
        super().__init__()
        self.directory, self.start, self.every, self.clock, self.devices = directory, position, every, clock, devices
        self.metrics = {name: array for name, array in arrays.items() if name.startswith("metrics/")}
        self.history, self.logs = list(position.history), position.logs
        self.asked_to_end = False

    @contextlib.contextmanager
    def watching(self):
        """Within the block SIGTERM waits for the end of the step."""
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            yield
            return

        def ask(*_):
            self.asked_to_end = True

        before = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        if self.asked_to_end:
            raise Terminated

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.done = epoch, 0
        if epoch == self.start.epoch and self.start.step:
            self.done = self.start.step
            for name, array in self.metrics.items():  # which `fit` has just reset
                named_variables(self.model)[name].assign(array)
            self.pass_over(self.start.step, self.start.logs)

    def pass_over(self, steps, logs):
        """Lets `fit` count the steps that were done before without taking them; the input begins after them."""
        take_step, left = self.model.train_function, steps // self.model.steps_per_execution

        def pass_over_step(iterator):
            nonlocal left
            left -= 1
            if not left:
                self.model.train_function = take_step
            return logs

        self.model.train_function = pass_over_step

    def on_train_batch_end(self, batch, logs=None):
        done = batch + 1
        if done <= self.done:
            return
        before, self.done, self.logs = self.done, done, logs
        due = self.every and done // self.every > before // self.every and done < self.params["steps"]
        end = self.agreed_to_end(done)
        if due or end:
            self.save(self.epoch, done, logs)
        if end:
            raise Terminated

    def agreed_to_end(self, done):
        """Whether this step is the last: several workers ask each other now and then, and all end at the same."""
        if self.devices is None or self.devices.workers == 1:
            return self.asked_to_end
        executions = (self.epoch * self.params["steps"] + done) // self.model.steps_per_execution
        return executions % VOTE_EVERY == 0 and self.devices.any(self.asked_to_end)

    def on_test_batch_end(self, batch, logs=None):
        if self.asked_to_end and (self.devices is None or self.devices.workers == 1):
            self.save(self.epoch, self.done, self.logs)
            raise Terminated

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({name: float(value) for name, value in logs.items()})
        self.save(epoch + 1, 0, {})

    def save(self, epoch, step, logs):
        variables = named_variables(self.model)
        arrays = {name: variable.numpy() for name, variable in variables.items()}
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not name.startswith("metrics/") and not np.isfinite(array).all():
                raise NonFiniteLoss(f"{variables[name].path} has values that are nan or infinite after step "
                                    f"{int(self.model.step)}")
        if self.devices is None or self.devices.is_chief:
            position = Position(epoch, step, tuple(self.history), {name: float(value) for name, value in logs.items()},
                                seconds=self.clock(),
                                peak_memory_mb=max(host.peak_memory_mb(), self.start.peak_memory_mb),
                                model=type(self.model).__name__)
            write(self.directory, position, arrays)
