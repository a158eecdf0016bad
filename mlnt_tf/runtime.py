"""What the machine can do: device, precision and XLA, picked once before anything is built."""

import importlib.metadata
import pathlib
import platform

import keras
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError

PACKAGES = ("tensorflow", "keras", "scann", "tensorflow-datasets", "numpy", "scikit-learn")


def prepare(config, *, replicas=1):
    """Takes the device, sets the seed and the precision; True if XLA is to compile the step (of each of `replicas`).

    Raises:
      UserError: a GPU is asked for and there is none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if config.device == "gpu" and not gpus:
        raise UserError("--device=gpu: TensorFlow sees no GPU; install with pip install .[gpu], check the driver, "
                        "or take --device=auto.")
    if config.device == "cpu" or config.logical_devices:
        gpus = []
    precision, why = config.precision, "asked for"
    if precision == "auto":
        native = gpu_has_tensor_cores(gpus[0]) if gpus else cpu_has_bfloat16()
        precision = "mixed_bfloat16" if native else "float32"
        why = f"the {'GPU' if gpus else 'CPU'} multiplies bfloat16 {'natively' if native else 'no faster'}"
    keras.config.set_dtype_policy(precision)
    can_compile = bool(gpus) and not (replicas > 1 and config.sync_batch_norm)
    jit_compile = can_compile if config.jit_compile == "auto" else config.jit_compile == "true"
    logging.info("device %s; precision %s (%s); XLA %s (--jit_compile=%s)", "GPU" if gpus else "CPU", precision, why,
                 "on" if jit_compile else "off", config.jit_compile)
    keras.utils.set_random_seed(config.seed)
    return jit_compile


def cpu_has_bfloat16():
    """Whether /proc/cpuinfo lists AMX or AVX512 units for bfloat16."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and any(unit in info.read_text() for unit in ("amx_bf16", "avx512_bf16"))


def gpu_has_tensor_cores(gpu):
    """Whether the GPU's compute capability (8.0 on) has bfloat16 tensor cores."""
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0)


def versions():
    """{package: version} of Python and what the results hang on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
