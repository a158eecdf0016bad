"""The devices of a run: a strategy of tf.distribute and what workers exchange."""

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

from mlnt_tf.config import UserError


@dataclasses.dataclass(frozen=True)
class Devices:
    """The `strategy` networks and models are made under; this process is `worker` (from 0) of `workers`."""

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self):
        """In all: of every worker."""
        return self.strategy.num_replicas_in_sync

    @property
    def is_chief(self):
        """Whether this process is the one that writes."""
        return self.worker == 0

    def scope(self):
        return self.strategy.scope()

    def parts(self, batches, *, sliced=False):
        """Cuts batches into those of the replicas of this worker, in order, where there are several workers.

        Args:
          batches: a data set of nested arrays [batch, ...], of a size that the replicas can share evenly.
          sliced: whether they are this worker's part of the global batches already.
        """
        if self.workers == 1:
            return batches  # MirroredStrategy cuts them itself
        here = self.replicas // self.workers
        first, count = (0, here) if sliced else (self.worker * here, self.replicas)

        def cut(value):
            size = -1 if value.shape[0] is None else value.shape[0] // count
            return tf.reshape(value, [count, size, *value.shape[1:]])[first:][:here]

        return batches.flat_map(lambda batch: tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(cut, batch)))

    def distributed(self, parts, *, endless=False):
        """What `fit` takes of `parts`; `endless` where the caller counts the steps: only then does TensorFlow keep sizes
        static over workers."""
        if self.workers == 1:
            return parts
        return self.strategy.distribute_datasets_from_function(lambda _: parts.repeat() if endless else parts)

    def of_chief(self, array):
        """The chief's array of numbers, as every worker gets it; each waits here for all."""
        if self.workers == 1:
            return np.asarray(array)
        total = self.sum(tf.constant(array) if self.is_chief else tf.zeros_like(array))
        return total // (self.replicas // self.workers)  # each replica of the chief has brought it

    def text_of_chief(self, text):
        """Returns the chief's text on every worker. Each waits here for all.

        Args:
          text: str, used on the chief only.
        """
        if self.workers == 1:
            return text
        encoded = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        length = int(self.of_chief(np.int64(len(encoded))))
        mine = np.zeros(length, np.int64)
        if self.is_chief:
            mine[:] = encoded
        return bytes(self.of_chief(mine).astype(np.uint8)).decode()

    def any(self, flag):
        """Whether the flag is set on any worker; each waits here for all."""
        return flag if self.workers == 1 else bool(self.sum(tf.constant(int(flag))))

    def sum(self, mine):
        summed = _summed_over(self.strategy)(mine)
        return self.strategy.experimental_local_results(summed)[0].numpy()

    @contextlib.contextmanager
    def directory(self, output_dir):
        """Where this worker writes: the chief to `output_dir`, the others, who end alike, to a copy that goes."""
        self.wait_for_all()  # the chief has the lock
        with contextlib.nullcontext(output_dir) if self.is_chief else \
                tempfile.TemporaryDirectory(prefix="mlnt_tf_worker_") as directory:
            if not self.is_chief and output_dir.exists():
                shutil.copytree(output_dir, directory, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns("saved_model", "lock", "writing_*", "events.*"))
            self.wait_for_all()
            yield pathlib.Path(directory)
            self.wait_for_all()

    def wait_for_all(self):
        self.of_chief(np.int64(0))


@functools.cache
def _summed_over(strategy):
    def add(mine):
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(mine))

    @tf.function
    def over_replicas(mine):
        return strategy.run(add, args=(mine,))

    return over_replicas


def open_devices(plan):
    """Takes the devices of a DevicePlan and, with several workers, joins the others, who are waited for.

    Call it before TensorFlow has used any device.

    Raises:
      UserError: this worker cannot listen at its address.
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
    place = f", worker {devices.worker} of {devices.workers}" if devices.workers > 1 else ""
    logging.info("strategy %s, replicas: %d%s", plan.strategy, devices.replicas, place)
    return devices


def _join(plan):
    if plan.uses_gpu:
        gpus = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(gpus[:len(plan.devices)], "GPU")
    # Validation batches are counted by running out of them; training batches are endless here.
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    try:
        return Devices(tf.distribute.MultiWorkerMirroredStrategy(), plan.worker, len(plan.workers))
    except tf.errors.UnknownError as error:  # TensorFlow says no more than that its server does not start
        raise UserError(f"TF_CONFIG: worker {plan.worker} cannot listen at {plan.workers[plan.worker]}: the port is "
                        "taken, or the address belongs to another host. Name a free one.") from error


def lost_worker(error, devices):
    """Who is gone, if that is what an error of TensorFlow's says: "worker 1", "a worker" or None."""
    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
            tf.errors.InternalError, tf.errors.CancelledError)
    if devices.workers == 1 or not isinstance(error, gone):
        return None
    named = [int(number) for number in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", str(error))]
    others = [number for number in named if number != devices.worker]
    return f"worker {others[0]}" if others else "a worker"
