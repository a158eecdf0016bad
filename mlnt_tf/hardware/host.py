"""The host: memory of this process, processor, and versions of the packages.

Commands use this module before they load TensorFlow, so it does not import TensorFlow or Keras.
"""

import importlib.metadata
import os
import pathlib
import platform
import resource

# The packages that results may depend on.
PACKAGES = ("tensorflow", "keras", "scann", "tensorflow-datasets", "numpy", "scikit-learn")


def peak_memory_mb():
    """Returns the highest resident memory of this process so far in MiB, a float."""
    status = pathlib.Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    if "VmHWM:" in text:
        return int(text.partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def versions():
    """Returns the versions of Python and of `PACKAGES`, {name: str, or None if not installed}."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def describe_machine():
    """Returns {"processor": str, "cores": int, "system": str} of this machine."""
    return {"processor": _processor_name(), "cores": os.cpu_count(), "system": platform.platform()}


def cpu_has_avx512():
    """Returns whether /proc/cpuinfo lists AVX-512 units."""
    path = pathlib.Path("/proc/cpuinfo")
    return path.exists() and "avx512f" in path.read_text()


def _processor_name():
    """Returns the processor's model name, or its architecture if that is unknown."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
