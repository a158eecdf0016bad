"""The open devices of a run: a strategy of tf.distribute, and communication between workers."""

import contextlib
import dataclasses
import functools
import pathlib
import re
import shutil
import tempfile
import warnings

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.files import lock
from mlnt_tf.hardware.joining import cannot_listen, wait_for_workers

# Files of --output_dir that workers other than the chief do not need.
COPY_PREFIX = "mlnt_tf_worker_"  # Begins the name of a worker's temporary directory.
NOT_COPIED = ("saved_model", "lock", "writing_*", "events.*")
# Errors that TensorFlow raises if another worker does not respond.
COMMUNICATION_ERRORS = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
    tf.errors.InternalError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of this process, and its place among the workers.

    Attributes:
      strategy: tf.distribute.Strategy, under whose scope networks and models are created.
      worker: int, the index of this process, from 0.
      workers: int, the number of processes.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self):
        """int, the number of replicas over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def is_chief(self):
        """bool, whether this process is the chief, the only one that writes results."""
        return self.worker == 0

    def scope(self):
        """Returns the strategy's scope, a context manager."""
        return self.strategy.scope()

    def parts(self, batches, *, sliced=False):
        """Cuts global batches into those of this worker's replicas, in order.

        With one worker the batches are returned as they are, because MirroredStrategy cuts them
        itself.

        Args:
          batches: tf.data.Dataset of nested tensors [batch, ...]. The replicas must be able to
            share the batch evenly.
          sliced: bool, whether the batches are already this worker's slices of the global batches.

        Returns:
          tf.data.Dataset with one element per replica of this worker and batch.
        """
        if self.workers == 1:
            return batches
        local_replicas = self.replicas // self.workers
        if sliced:
            first, count = 0, local_replicas
        else:
            first, count = self.worker * local_replicas, self.replicas

        def cut(value):
            size = -1 if value.shape[0] is None else value.shape[0] // count
            parts = tf.reshape(value, [count, size, *value.shape[1:]])
            return parts[first:][:local_replicas]

        def cut_batch(batch):
            return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(cut, batch))

        return batches.flat_map(cut_batch)

    def distributed(self, parts, *, endless=False):
        """Returns the data set that `fit` takes.

        Args:
          parts: tf.data.Dataset, see `parts`.
          endless: bool, whether to repeat it. Use it if the caller counts the steps. Otherwise
            TensorFlow does not keep shapes static over several workers.
        """
        if self.workers == 1:
            return parts

        def local_parts(context):
            del context
            return parts.repeat() if endless else parts

        return self.strategy.distribute_datasets_from_function(local_parts)

    def broadcast(self, array, *, source=0):
        """Returns one worker's array on every worker. Waits for all workers.

        Args:
          array: a numeric array of the same shape and dtype on every worker. Only the source's
            values are used.
          source: int, the worker whose array it is. By default the chief.

        Returns:
          np.ndarray.
        """
        if self.workers == 1:
            return np.asarray(array)
        is_source = self.worker == source
        contribution = tf.constant(array) if is_source else tf.zeros_like(array)
        total = self.sum(contribution)
        return total // (self.replicas // self.workers)  # Each of the source's replicas adds it.

    def gather_texts(self, text):
        """Returns the texts of all workers, a list of str in their order. Waits for all workers.

        Args:
          text: str, this worker's.
        """
        return [self._broadcast_text(text, source) for source in range(self.workers)]

    def _broadcast_text(self, text, source):
        """Returns one worker's text on every worker."""
        if self.workers == 1:
            return text
        encoded = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        length = int(self.broadcast(np.int64(len(encoded)), source=source))
        array = np.zeros(length, np.int64)
        if self.worker == source:
            array[:] = encoded
        return bytes(self.broadcast(array, source=source).astype(np.uint8)).decode()

    def any(self, flag):
        """Returns whether the flag is True on any worker, a bool. Waits for all workers."""
        if self.workers == 1:
            return flag
        return bool(self.sum(tf.constant(int(flag))))

    def sum(self, value):
        """Returns the sum of a numeric tensor over all replicas, as NumPy. Waits for all workers.

        Each replica of a worker contributes the worker's value.
        """
        total = _sum_function(self.strategy)(value)
        return self.strategy.experimental_local_results(total)[0].numpy()

    @contextlib.contextmanager
    def directory(self, output_dir):
        """Yields the directory that this worker writes to.

        The chief writes to `output_dir`. Other workers write to a temporary copy, so that they
        resume as the chief does. It is deleted at the end.

        Args:
          output_dir: pathlib.Path, locked by the chief.

        Yields:
          pathlib.Path.
        """
        self.wait_for_all()  # The chief has taken the lock.
        if self.is_chief:
            self.wait_for_all()
            yield output_dir
            self.wait_for_all()
            return
        lock.remove_abandoned(pathlib.Path(tempfile.gettempdir()).glob(f"{COPY_PREFIX}*"))
        with (tempfile.TemporaryDirectory(prefix=COPY_PREFIX) as copy, lock.hold_lock(copy)):
            if output_dir.exists():
                shutil.copytree(output_dir, copy, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns(*NOT_COPIED))
            self.wait_for_all()  # The chief may write from now on.
            yield pathlib.Path(copy)
            self.wait_for_all()

    def wait_for_all(self):
        """Waits until every worker has called this method."""
        self.broadcast(np.int64(0))


@functools.cache
def _sum_function(strategy):
    """Returns a compiled function that sums a tensor over the replicas of a strategy."""
    def add(value):
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

    @tf.function
    def sum_over_replicas(value):
        return strategy.run(add, args=(value,))

    return sum_over_replicas


def open_devices(plan):
    """Opens the devices of a plan. With several workers, waits until all of them have joined.

    Call it before TensorFlow uses any device.

    Args:
      plan: a `DevicePlan`.

    Returns:
      `Devices`.

    Raises:
      UserError: this worker cannot listen at its address.
      WorkerLost: another worker does not join in time.
    """
    if not plan.uses_gpu:
        tf.config.set_visible_devices([], "GPU")
    if plan.logical_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * plan.logical_devices)
    if plan.strategy == "multi_worker":
        devices = _join(plan)
    elif plan.strategy == "mirrored":
        devices = Devices(tf.distribute.MirroredStrategy(list(plan.devices)))
    else:
        devices = Devices(tf.distribute.get_strategy())
    replicas = "1 replica" if devices.replicas == 1 else f"{devices.replicas} replicas"
    worker = ""
    if devices.workers > 1:
        worker = f"; this is worker {devices.worker} ({devices.workers} workers, counted from 0)"
    logging.info("strategy %s; %s%s", plan.strategy, replicas, worker)
    return devices


def _join(plan):
    """Returns the `Devices` of one of several workers."""
    if plan.uses_gpu:
        gpus = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(gpus[:len(plan.devices)], "GPU")
    # `fit` counts the validation batches by exhausting them. The training batches are endless.
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    wait_for_workers(plan.workers, plan.worker, timeout=plan.worker_timeout)
    try:
        return Devices(tf.distribute.MultiWorkerMirroredStrategy(), plan.worker, len(plan.workers))
    except tf.errors.UnknownError as error:  # TensorFlow only reports that its server failed.
        raise cannot_listen(plan.worker, plan.workers[plan.worker]) from error


def out_of_memory(error):
    """Returns whether an exception means that the memory of the host or of a GPU is exhausted."""
    return isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError))


def lost_worker(error, devices):
    """Returns which worker has ended according to an error of TensorFlow.

    Args:
      error: an exception.
      devices: `Devices`.

    Returns:
      "worker 1", "a worker" if the error names none, or None if it has another cause.
    """
    if devices.workers == 1 or not isinstance(error, COMMUNICATION_ERRORS):
        return None
    tasks = re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", str(error))
    others = [int(task) for task in tasks if int(task) != devices.worker]
    return f"worker {others[0]}" if others else "a worker"
