"""The settings that the machine decides: precision, XLA and neighbor backend."""

import dataclasses
import pathlib

import keras
import tensorflow as tf
from absl import logging


def prepare(config):
    """Sets Keras's precision and every global seed. `config` is resolved (see `mlnt_tf.hardware.planning.resolve`)."""
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)


def resolve(config, plan):
    """Returns the Config without an "auto" among strategy, precision, XLA and neighbor backend, and logs the choices.

    Args:
      config: a Config.
      plan: its DevicePlan.

    Raises:
      UserError: ScaNN is asked for and does not load.
    """
    from mlnt_tf.neighbors.scann import usable_scann

    precision, precision_reason = _precision(config, plan)
    jit_compile, jit_reason = _jit_compile(config, plan)
    logging.info("device %s; precision %s (%s); XLA %s (%s)", "GPU" if plan.uses_gpu else "CPU", precision,
                 precision_reason, "on" if jit_compile == "true" else "off", jit_reason)
    backend = config.neighbor_backend
    if backend != "exact" and config.method == "mlnt" and config.num_synthetic and config.neighbor_scope == "dataset":
        backend = "scann" if usable_scann(backend) else "exact"
    return dataclasses.replace(config, strategy=plan.strategy, precision=precision, jit_compile=jit_compile,
                               neighbor_backend=backend)


def _precision(config, plan):
    """Returns (precision, reason)."""
    if config.precision != "auto":
        return config.precision, "set by --precision"
    if plan.uses_gpu:
        native = gpu_has_tensor_cores(tf.config.list_physical_devices("GPU")[0])
    else:
        native = cpu_has_bfloat16()
    device = "GPU" if plan.uses_gpu else "CPU"
    if native:
        return "mixed_bfloat16", f"the {device} multiplies bfloat16 natively"
    return "float32", f"the {device} multiplies bfloat16 no faster"


def _jit_compile(config, plan):
    """Returns ("true" or "false", reason)."""
    if plan.replicas > 1 and config.sync_batch_norm:
        return "false", "replicas exchange batch statistics inside the step"
    if config.jit_compile != "auto":
        return config.jit_compile, "set by --jit_compile"
    if plan.uses_gpu:
        return "true", "faster on a GPU"
    return "false", "slower on a CPU, because it bypasses oneDNN's convolutions"


def cpu_has_bfloat16():
    """Returns whether /proc/cpuinfo lists AMX or AVX-512 units for bfloat16."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and any(unit in info.read_text() for unit in ("amx_bf16", "avx512_bf16"))


def gpu_has_tensor_cores(gpu):
    """Returns whether the GPU's compute capability (8.0 or later) includes bfloat16 tensor cores."""
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0)
