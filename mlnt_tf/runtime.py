"""What the machine can do: device, precision and XLA, picked once before anything is built."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import resource

import keras
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError

PACKAGES = ("tensorflow", "keras", "scann", "tensorflow-datasets", "numpy", "scikit-learn")


def prepare(config, *, replicas=1):
    """Takes the device, sets the seed and the precision; True if XLA is to compile the step of each replica.

    Raises:
      UserError: a GPU is asked for and there is none.
    """
    if replicas > 1 and config.sync_batch_norm:  # they meet in the midst of what XLA would compile
        config = dataclasses.replace(config, jit_compile="false")
    config = resolve(config)
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)
    return config.jit_compile == "true"


def resolve(config):
    """The config with `precision` and `jit_compile` decided by what the device does well, and says so; takes the device.

    Raises:
      UserError: a GPU is asked for and there is none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if config.device == "gpu" and not gpus:
        raise UserError("--device=gpu: TensorFlow sees no GPU; install with pip install .[gpu], check the driver, "
                        "or take --device=auto.")
    if config.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
        gpus = []
    precision, why = config.precision, "asked for"
    if precision == "auto":
        native = gpu_has_tensor_cores(gpus[0]) if gpus else cpu_has_bfloat16()
        precision = "mixed_bfloat16" if native else "float32"
        why = f"the {'GPU' if gpus else 'CPU'} multiplies bfloat16 {'natively' if native else 'no faster'}"
    jit_compile, why_xla = config.jit_compile, "asked for"
    if jit_compile == "auto":
        jit_compile = "true" if gpus else "false"
        why_xla = "faster on a GPU" if gpus else "slower on a CPU, whose own convolutions it does without"
    logging.info("device %s; precision %s (%s); XLA %s (%s)", "GPU" if gpus else "CPU", precision, why,
                 "on" if jit_compile == "true" else "off", why_xla)
    return dataclasses.replace(config, precision=precision, jit_compile=jit_compile)


def cpu_has_bfloat16():
    """Whether /proc/cpuinfo lists AMX or AVX512 units for bfloat16."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and any(unit in info.read_text() for unit in ("amx_bf16", "avx512_bf16"))


def gpu_has_tensor_cores(gpu):
    """Whether the GPU's compute capability (8.0 on) has bfloat16 tensor cores."""
    return tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0)


def peak_memory_mb():
    """The most resident memory that this process has had, in MiB."""
    status = pathlib.Path("/proc/self/status")
    if status.exists() and "VmHWM:" in (told := status.read_text()):
        return int(told.partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def versions():
    """{package: version} of Python and what the results hang on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
