"""Which devices train: a strategy of tf.distribute, picked once, before TensorFlow has looked at any device."""

import contextlib
import dataclasses
import functools
import json
import os
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


def pick(config):
    """The devices that the flags ask for.

    Raises:
      UserError: they are not there, or the batch cannot be shared evenly among them.
    """
    if config.logical_devices:
        tf.config.set_visible_devices([], "GPU")
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * config.logical_devices)
    elif config.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    cluster = read_cluster(os.environ.get("TF_CONFIG", ""))
    found = tf.config.get_visible_devices("GPU") or [None] * max(config.logical_devices, 1)
    if config.num_devices > len(found):
        raise UserError(f"--num_devices={config.num_devices} is above the {len(found)} there are: lower it, or "
                        "rehearse with --logical_devices.")
    count = config.num_devices or len(found)
    kind = config.strategy
    if kind == "auto":
        kind = "multi_worker" if cluster else "mirrored" if count > 1 else "single"
    if kind == "multi_worker":
        devices = join(cluster, config, found[:count])
    elif kind == "mirrored":
        name = "CPU" if found[0] is None else "GPU"
        devices = Devices(tf.distribute.MirroredStrategy([f"{name}:{index}" for index in range(count)]))
    else:
        devices = Devices(tf.distribute.get_strategy())
    logging.info("--strategy=%s: %s, replicas: %d%s", config.strategy, kind, devices.replicas,
                 f", worker {devices.worker} of {devices.workers}" if devices.workers > 1 else "")
    check_shares(config, devices.replicas)
    return devices


def lost_worker(error, devices):
    """Who is gone, if that is what an error of TensorFlow's says: "worker 1", "a worker" or None."""
    gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
            tf.errors.InternalError, tf.errors.CancelledError)
    if devices.workers == 1 or not isinstance(error, gone):
        return None
    named = [int(number) for number in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", str(error))]
    others = [number for number in named if number != devices.worker]
    return f"worker {others[0]}" if others else "a worker"


def check_shares(config, replicas):
    """Raises UserError unless `replicas` can share the batch evenly, and take every step that the flags ask for."""
    batch = config.batch_size
    if batch % replicas:
        lower = batch // replicas * replicas
        raise UserError(f"--batch_size={batch} cannot be shared evenly by {replicas} replicas: the nearest sizes are "
                        f"{f'{lower} and ' * bool(lower)}{lower + replicas}.")
    if replicas > 1 and config.meta_every > 1 and config.method == "mlnt" and config.num_synthetic:
        raise UserError(f"--meta_every={config.meta_every} runs on one device, not on {replicas} replicas: take "
                        "--meta_every=1 or --strategy=single.")
    if replicas > 1 and config.sync_batch_norm and config.jit_compile == "true":
        raise UserError("--jit_compile=true cannot compile replicas that meet in --sync_batch_norm: leave one out.")


def read_cluster(text):
    """TF_CONFIG as (addresses of the workers, own number), or None where there is none or one worker alone.

    Raises:
      UserError: it cannot be read.
    """
    if not text:
        return None
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        index = int(task["index"])
        if task["type"] != "worker" or not 0 <= index < len(workers) or len(content["cluster"]) > 1:
            raise ValueError("workers alone, and the task one of them")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"TF_CONFIG={text[:200]} cannot be used ({error}): write "
                        '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, or let '
                        "launch/multi_worker.sh do it.") from error
    return (workers, index) if len(workers) > 1 else None


def join(cluster, config, gpus):
    """Joins the other workers, who are waited for."""
    if cluster is None:
        raise UserError("--strategy=multi_worker needs TF_CONFIG with two workers or more: set it, or let "
                        "launch/multi_worker.sh do it.")
    if config.logical_devices > 1:
        raise UserError(f"--logical_devices={config.logical_devices} is for one process: with several take a worker "
                        "for each CPU device.")
    if gpus[0] is not None:
        tf.config.set_visible_devices(gpus, "GPU")
    workers, index = cluster
    # of validation batches, which `fit` counts by running out of them; training batches are endless here
    warnings.filterwarnings("ignore", message="Your input ran out of data")
    try:
        return Devices(tf.distribute.MultiWorkerMirroredStrategy(), index, len(workers))
    except tf.errors.UnknownError as error:  # TensorFlow says no more than that its server does not start
        raise UserError(f"TF_CONFIG: worker {index} cannot listen at {workers[index]}: the port is taken, or the address "
                        "is another host's; name a free one.") from error
