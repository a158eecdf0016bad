"""Decides which devices a run uses, without opening them."""

import dataclasses
import json
import os
import re

import tensorflow as tf

from mlnt_tf.config import UserError


@dataclasses.dataclass(frozen=True)
class DevicePlan:
    """The devices of one process and its place among the workers.

    Attributes:
      strategy: "single", "mirrored" or "multi_worker".
      devices: tuple of str, the devices of this process by their names in tf.distribute, for
        example ("GPU:0", "GPU:1").
      logical_devices: int, the number of logical devices that the CPU is split into, or 0 for none.
      workers: tuple of str, the addresses of all workers, or empty for a single process.
      worker: int, the index of this process among the workers.
      worker_timeout: float, seconds that workers wait for each other at the start.
    """

    strategy: str
    devices: tuple
    logical_devices: int = 0
    workers: tuple = ()
    worker: int = 0
    worker_timeout: float = 300.0

    @property
    def replicas(self):
        """int, the number of replicas over all workers."""
        if self.strategy == "single":
            return 1
        return len(self.devices) * max(len(self.workers), 1)

    @property
    def uses_gpu(self):
        """bool, whether this process trains on GPUs."""
        return self.devices[0].startswith("GPU")


def plan_devices(config, *, environment=os.environ):
    """Returns the DevicePlan that the settings ask for.

    Args:
      config: a Config.
      environment: mapping with the environment variable TF_CONFIG, if there are several workers.

    Raises:
      UserError: the devices do not exist, TF_CONFIG is invalid, or the replicas cannot share the
        batch.
    """
    devices = _choose_devices(config)
    cluster = read_cluster(environment.get("TF_CONFIG", ""))
    strategy = config.strategy
    if strategy == "auto":
        strategy = _strategy_for(cluster, len(devices))
    workers, worker = (), 0
    if cluster and strategy != "multi_worker":
        raise UserError(f"--strategy={strategy} is for one process, but TF_CONFIG has "
                        f"{len(cluster[0])} workers. Unset TF_CONFIG, or use "
                        "--strategy=multi_worker.")
    if strategy == "multi_worker":
        if cluster is None:
            raise UserError("--strategy=multi_worker needs TF_CONFIG with at least two workers. "
                            "Set it, or start the run with launch/multi_worker.sh.")
        if config.logical_devices > 1:
            raise UserError(f"--logical_devices={config.logical_devices} is for one process. With "
                            "several workers, start one worker per CPU device.")
        workers, worker = cluster
    plan = DevicePlan(strategy, devices, config.logical_devices, tuple(workers), worker,
                      config.worker_timeout)
    _check_replicas(config, plan.replicas)
    return plan


def _choose_devices(config):
    """Returns the names of this process's devices, a tuple of str. Raises UserError."""
    gpus = []
    if not config.logical_devices and config.device != "cpu":
        gpus = tf.config.list_physical_devices("GPU")
    if config.device == "gpu" and not gpus:
        raise UserError("--device=gpu needs a GPU, but TensorFlow detects none. Install with "
                        "`pip install .[gpu]` and check the driver, or use --device=auto.")
    kind = "GPU" if gpus else "CPU"
    available = len(gpus) or max(config.logical_devices, 1)
    if config.num_devices > available:
        raise UserError(f"--num_devices={config.num_devices} is above the {available} available. "
                        "Lower it, or rehearse with --logical_devices.")
    count = config.num_devices or available
    return tuple(f"{kind}:{index}" for index in range(count))


def _strategy_for(cluster, count):
    """Returns the strategy for a cluster of workers, or None, and the number of local devices."""
    if cluster:
        return "multi_worker"
    return "mirrored" if count > 1 else "single"


def _check_replicas(config, replicas):
    """Raises UserError unless the replicas can share the batch and take the steps of the flags."""
    batch = config.batch_size
    if batch % replicas:
        lower = batch // replicas * replicas
        choices = [str(size) for size in (lower, lower + replicas) if size]
        raise UserError(f"--batch_size={batch} cannot be shared evenly by {replicas} replicas. Use "
                        f"{' or '.join(choices)}.")
    if replicas == 1:
        return
    if config.meta_every > 1 and config.has_consistency_loss:
        raise UserError(f"--meta_every={config.meta_every} runs on one device, not on {replicas} "
                        "replicas. Use --meta_every=1 or --strategy=single.")
    if config.mixup and batch // replicas % 2:
        raise UserError(f"--mixup={config.mixup} averages pairs of images, but --batch_size="
                        f"{batch} gives each of {replicas} replicas an odd number of them. Use "
                        f"{batch + replicas}, or --mixup=0.")
    if config.sync_batch_norm and config.jit_compile == "true":
        raise UserError("XLA cannot compile a step in which replicas exchange statistics. Omit "
                        "--jit_compile=true or --sync_batch_norm.")


def read_cluster(text):
    """Parses TF_CONFIG.

    Args:
      text: str, the value of TF_CONFIG. May be empty.

    Returns:
      (list of the workers' addresses, index of this worker), or None if TF_CONFIG is empty or has a
      single worker.

    Raises:
      UserError: it cannot be parsed, or has other tasks than workers.
    """
    if not text:
        return None
    try:
        content = json.loads(text)
        workers, task = content["cluster"]["worker"], content["task"]
        index = int(task["index"])
        if task["type"] != "worker" or not 0 <= index < len(workers) or len(content["cluster"]) > 1:
            raise ValueError("the cluster may hold workers only, and the task must be one of them")
        if not isinstance(workers, list) or not all(map(_is_address, workers)):
            raise ValueError("the workers must be a list of host:port")
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        shown = " ".join(text.split())[:200]
        raise UserError(
            f"TF_CONFIG={shown} cannot be used ({reason}). Write "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, '
            "or start the run with launch/multi_worker.sh.") from error
    return (workers, index) if len(workers) > 1 else None


def _is_address(value):
    """Returns whether a value is a str of the form host:port."""
    return isinstance(value, str) and re.fullmatch(r".+:\d+", value) is not None
