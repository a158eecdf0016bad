"""Settings whose "auto" depends on the machine: precision, XLA and neighbor backend."""

import contextlib
import dataclasses
import pathlib

import keras
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError


@contextlib.contextmanager
def prepared(config):
    """Applies a Config's precision and seed within a block, then restores the dtype policy.

    Args:
      config: a resolved Config.
    """
    policy = keras.config.dtype_policy()
    prepare(config)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def prepare(config):
    """Sets Keras's dtype policy and the seeds of Python, NumPy and TensorFlow.

    Args:
      config: a resolved Config.
    """
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)


def resolve(config, plan):
    """Returns the Config with "auto" replaced in all settings that the machine decides.

    Args:
      config: a Config.
      plan: its `DevicePlan`.

    Raises:
      UserError: --neighbor_backend=scann, but ScaNN cannot be loaded.
    """
    from mlnt_tf.neighbors.scann import usable_scann

    precision, _ = _precision(config, plan)
    jit_compile, _ = _jit_compile(config, plan)
    backend = config.neighbor_backend
    searches_dataset = config.has_meta_loss and config.neighbor_scope == "dataset"
    if backend != "exact" and (searches_dataset or config.votes_among_neighbors):
        try:
            backend = "scann" if usable_scann(backend) else "exact"
        except ValueError as error:
            raise UserError(f"--neighbor_backend={backend} cannot be used ({error}). Use "
                            "--neighbor_backend=exact.") from error
    return dataclasses.replace(config, strategy=plan.strategy, precision=precision,
                               jit_compile=jit_compile, neighbor_backend=backend)


def log_choices(config, plan):
    """Logs the device, and precision and XLA with the reason for each.

    Args:
      config: the Config with the settings that `resolve` started from.
      plan: its `DevicePlan`.
    """
    precision, precision_reason = _precision(config, plan)
    jit_compile, jit_reason = _jit_compile(config, plan)
    logging.info("device %s; precision %s (%s); XLA %s (%s)", "GPU" if plan.uses_gpu else "CPU",
                 precision, precision_reason, "on" if jit_compile == "true" else "off", jit_reason)


def _precision(config, plan):
    """Returns (precision, reason)."""
    if config.precision != "auto":
        return config.precision, "given or recorded"
    if plan.uses_gpu:
        device = "GPU"
        is_native = gpu_has_tensor_cores(tf.config.list_physical_devices("GPU")[0])
    else:
        device = "CPU"
        is_native = cpu_has_bfloat16()
    if is_native:
        return "mixed_bfloat16", f"the {device} multiplies bfloat16 natively"
    return "float32", f"the {device} multiplies bfloat16 no faster"


def _jit_compile(config, plan):
    """Returns ("true" or "false", reason)."""
    if plan.replicas > 1 and config.sync_batch_norm:
        return "false", "replicas exchange batch statistics inside the step"
    if config.jit_compile != "auto":
        return config.jit_compile, "given or recorded"
    if plan.uses_gpu:
        return "true", "faster on a GPU"
    return "false", "slower on a CPU, because it bypasses oneDNN's convolutions"


def cpu_has_bfloat16():
    """Returns whether /proc/cpuinfo lists AMX or AVX-512 units for bfloat16."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.exists():
        return False
    text = path.read_text()
    return any(unit in text for unit in ("amx_bf16", "avx512_bf16"))


def gpu_has_tensor_cores(gpu):
    """Returns whether a GPU has tensor cores for bfloat16: compute capability 8.0 or later."""
    details = tf.config.experimental.get_device_details(gpu)
    return details.get("compute_capability", (0, 0)) >= (8, 0)
