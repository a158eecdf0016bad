"""Checkpoints: one file with everything that a training needs to resume bit for bit."""

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

# Variables are restored by position: raise FORMAT if their order or their meaning changes.
FORMAT = 3
MAX_CHECKPOINTS = 3  # Older ones are deleted.
VOTE_INTERVAL = 10  # Steps between two votes of the workers on whether to end.
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Position:
    """Position of a training: the epochs and steps that are done, and their logs.

    Attributes:
      epoch: int, the epoch that comes next or is in progress, from 0.
      step: int, the number of steps of `epoch` that are done. If these are all of its steps, the
        epoch has not been validated yet.
      history: tuple of dicts, the logs of each complete epoch.
      logs: dict, the logs of the last step.
      seconds: float, the time spent so far.
      peak_memory_mb: float, the highest resident memory of the processes so far, in MiB.
      model: str, the class name of the model.
    """

    epoch: int = 0
    step: int = 0
    history: tuple = ()
    logs: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    model: str = ""


def named_variables(model):
    """Returns the variables of a compiled model by name, in the order of the format.

    They are those of the networks (with the seeds of dropout), of the optimizers and of the
    metrics. A name consists of a group and an index, for example "optimizer/3". The names of Keras
    layers cannot serve, because they count all layers that the process has created.

    Returns:
      dict of str to variable.
    """
    meta_optimizer = getattr(model, "meta_optimizer", model.optimizer)
    groups = {"model": model.variables, "optimizer": model.optimizer.variables,
              "meta_optimizer": meta_optimizer.variables, "metrics": model.metrics_variables}
    named = {}
    ids = set()
    for group, variables in groups.items():
        for index, variable in enumerate(variables):
            if id(variable) not in ids:
                ids.add(id(variable))
                named[f"{group}/{index}"] = variable
    return named


def write(directory, position, arrays):
    """Writes a checkpoint, then deletes all but the newest ones.

    Args:
      directory: str or path, created if it does not exist.
      position: `Position`.
      arrays: dict of str to array, the values of `named_variables`.

    Raises:
      OSError: the file cannot be written, for example because the disk is full. Earlier
        checkpoints are intact.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    state = np.array(json.dumps({"format": FORMAT, **dataclasses.asdict(position)}))
    path = directory / f"{position.epoch:05d}_{position.step:08d}.npz"
    with atomic.replacing(path) as scratch:
        np.savez(scratch, state=state, **arrays)
    for old_path in sorted(directory.glob("*.npz"))[:-MAX_CHECKPOINTS]:
        old_path.unlink(missing_ok=True)


def read_newest(directory):
    """Reads the newest intact checkpoint of a directory.

    The archive's checksums are verified. A damaged file is deleted with a warning.

    Args:
      directory: str or path. It need not exist.

    Returns:
      (`Position`, dict of str to array). Without a checkpoint they are the default position and an
      empty dict.

    Raises:
      UserError: the checkpoint has another format.
    """
    atomic.remove_scratch_files(directory)
    for path in sorted(pathlib.Path(directory).glob("[0-9]*.npz"), reverse=True):
        try:
            return _read(path)
        except UserError:
            raise
        except READ_ERRORS as error:
            logging.warning("%s is damaged (%s). Resuming from the checkpoint before it.", path,
                            str(error) or type(error).__name__)
            path.unlink()
    return Position(), {}


def check_format(directory):
    """Raises UserError if the newest checkpoint of a directory has another format.

    Nothing is changed. A damaged file passes, because `read_newest` skips it.

    Args:
      directory: str or path.
    """
    paths = sorted(pathlib.Path(directory).glob("[0-9]*.npz"))
    if not paths:
        return
    try:
        with np.load(paths[-1]) as archive:
            _read_state(paths[-1], archive["state"])
    except UserError:
        raise
    except READ_ERRORS:
        return


def _read(path):
    """Reads one checkpoint: (`Position`, dict of arrays)."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    state = _read_state(path, arrays.pop("state"))
    return Position(**{**state, "history": tuple(state["history"])}), arrays


def _read_state(path, text):
    """Returns the fields of a checkpoint's `Position`. Raises UserError for another format."""
    state = json.loads(str(text))
    written_format = state.pop("format", 1)
    if written_format != FORMAT:
        raise UserError(f"{path} has checkpoint format {written_format}, and this version of "
                        f"mlnt_tf reads format {FORMAT}. Finish the run with the version that "
                        "began it, or choose another --output_dir.")
    return state


def restore(model, position, arrays, directory):
    """Restores every variable of a compiled model.

    Args:
      model: compiled model.
      position, arrays: from `read_newest`.
      directory: str or path, named in errors.

    Raises:
      UserError: the checkpoint belongs to another class of model or has other variables.
    """
    if position.model != type(model).__name__:
        raise UserError(f"{directory} holds checkpoints of {position.model} models, but this run "
                        f"trains {type(model).__name__} models. Choose another --output_dir.")
    variables = named_variables(model)
    shapes = {name: variable.shape for name, variable in variables.items()}
    if shapes != {name: array.shape for name, array in arrays.items()}:
        raise UserError(f"{directory} was written by another version of mlnt_tf, whose networks "
                        "have other weights. Choose another --output_dir.")
    for name, variable in variables.items():
        variable.assign(arrays[name])


class Checkpoints(keras.callbacks.Callback):
    """Saves checkpoints every `every` steps, at the end of each epoch, and on SIGTERM.

    In the list of callbacks it belongs before those that save the best networks. It refuses
    weights that are not finite, and a network that was not saved is saved again on resuming.

    Args:
      directory: str or path, which no other training uses.
      position, arrays: from `read_newest`.
      every: int, the number of steps between checkpoints. 0 means only at the end of an epoch.
      clock: function without arguments that returns the seconds spent so far.
      devices: `Devices` of a run with several workers. They end after the same step, and only the
        chief writes. None means a single process.

    Raises:
      NonFiniteLoss: a weight or a variable of an optimizer is NaN or infinite.
      Terminated: the process received SIGTERM. The checkpoint is written.
      OSError: the checkpoint cannot be written.
    """

    def __init__(self, directory, position, arrays, *, every, clock, devices=None):
        super().__init__()
        self.directory = directory
        self.start = position
        self.metrics = {name: array for name, array in arrays.items()
                        if name.startswith("metrics/")}
        self.every = every
        self.clock = clock
        self.devices = devices
        self.history = list(position.history)
        self.logs = position.logs
        self.received_sigterm = False

    @contextlib.contextmanager
    def defer_sigterm(self):
        """Context manager in which SIGTERM only sets a flag, so training ends after the step.

        No-op outside the main thread.

        Raises:
          Terminated: on exit, if SIGTERM arrived after the last step.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows no signal handlers in other threads.
            return

        def request_end(*_):
            self.received_sigterm = True

        previous_handler = signal.signal(signal.SIGTERM, request_end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous_handler)
        if self.received_sigterm:
            raise Terminated

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.done = 0
        if epoch == self.start.epoch and self.start.step:
            self.done = self.start.step
            variables = named_variables(self.model)
            for name, array in self.metrics.items():  # `fit` has just reset them.
                variables[name].assign(array)
            self.skip_steps(self.start.step, self.start.logs)

    def skip_steps(self, steps, logs):
        """Makes `fit` count the first `steps` steps without running them.

        The input starts after these steps.

        Args:
          steps: int, a multiple of `steps_per_execution`.
          logs: dict, the logs that `fit` shows for the skipped steps.
        """
        train_function = self.model.train_function
        remaining = steps // self.model.steps_per_execution

        def skip_execution(iterator):
            nonlocal remaining
            remaining -= 1
            if not remaining:
                self.model.train_function = train_function
            return logs

        self.model.train_function = skip_execution

    def on_train_batch_end(self, batch, logs=None):
        previously_done = self.done
        done = batch + 1
        if done <= previously_done:
            return
        self.done = done
        self.logs = logs
        crosses_interval = self.every and done // self.every > previously_done // self.every
        is_due = crosses_interval and done < self.params["steps"]
        ends = self.all_workers_end(done)
        if is_due or ends:
            self.save(self.epoch, done, logs)
        if ends:
            raise Terminated

    def all_workers_end(self, done):
        """Whether this step is the last: all workers end at the same vote."""
        if self.is_single_process:
            return self.received_sigterm
        executions = (self.epoch * self.params["steps"] + done) // self.model.steps_per_execution
        return executions % VOTE_INTERVAL == 0 and self.devices.any(self.received_sigterm)

    @property
    def is_single_process(self):
        """Whether there is one worker."""
        return self.devices is None or self.devices.workers == 1

    def on_test_batch_end(self, batch, logs=None):
        if self.received_sigterm and self.is_single_process:
            self.save(self.epoch, self.done, self.logs)
            raise Terminated

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({name: float(value) for name, value in logs.items()})
        self.save(epoch + 1, 0, {})

    def save(self, epoch, step, logs):
        """Verifies that all weights are finite and writes a checkpoint. Only the chief writes.

        Raises:
          NonFiniteLoss: a weight or a variable of an optimizer is NaN or infinite.
          OSError: the checkpoint cannot be written.
        """
        variables = named_variables(self.model)
        arrays = {name: variable.numpy() for name, variable in variables.items()}
        for name, array in arrays.items():
            is_weight = array.dtype.kind == "f" and not name.startswith("metrics/")
            if is_weight and not np.isfinite(array).all():
                raise NonFiniteLoss(f"{variables[name].path} has values that are NaN or infinite "
                                    f"after step {int(self.model.step)}")
        if self.devices is not None and not self.devices.is_chief:
            return
        peak_memory_mb = max(host.peak_memory_mb(), self.start.peak_memory_mb)
        position = Position(epoch, step, tuple(self.history),
                            {name: float(value) for name, value in logs.items()},
                            seconds=self.clock(), peak_memory_mb=peak_memory_mb,
                            model=type(self.model).__name__)
        write(self.directory, position, arrays)
