"""The host: memory of this process, processor, and versions of the packages.

Commands use this module before they load TensorFlow, so it does not import TensorFlow or Keras.
"""

import importlib.metadata
import os
import pathlib
import platform
import resource

CONTROL_GROUPS = "/sys/fs/cgroup"
# The packages that results may depend on.
PACKAGES = ("tensorflow", "keras", "scann", "tensorflow-datasets", "numpy", "scikit-learn")


def peak_memory_mb():
    """Returns the highest resident memory of this process so far in MiB, a float."""
    status = pathlib.Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    if "VmHWM:" in text:
        return int(text.partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def available_memory():
    """Returns the number of bytes that a new process can use, or None if that is unknown.

    It is the memory that the host has left, or less within a container's limit.
    """
    amounts = [_host_memory(), *_container_memory()]
    known = [amount for amount in amounts if amount is not None]
    return min(known) if known else None


def _host_memory():
    """Returns the bytes that Linux reports as available, or None."""
    text = _read_system_file("/proc/meminfo")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if "MemAvailable" not in fields:
        return None
    return int(fields["MemAvailable"].split()[0]) * 1024


def _container_memory():
    """Yields the bytes that each control group of this process has left, of both versions."""
    group = "/"
    for line in _read_system_file("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            group = line.removeprefix("0::")
    path = pathlib.PurePosixPath(group)
    for each in (path, *path.parents):
        place = CONTROL_GROUPS + str(each).rstrip("/")
        yield _remaining(f"{place}/memory.max", f"{place}/memory.current", f"{place}/memory.stat",
                         "inactive_file")
    place = f"{CONTROL_GROUPS}/memory"
    yield _remaining(f"{place}/memory.limit_in_bytes", f"{place}/memory.usage_in_bytes",
                     f"{place}/memory.stat", "total_inactive_file")


def _remaining(limit, usage, statistics, reclaimable):
    """Returns the bytes between a control group's usage and its limit, or None without a limit.

    Cached files count as used, but the inactive ones are dropped when memory is needed.
    """
    limit, usage = _read_system_file(limit).strip(), _read_system_file(usage).strip()
    if not limit.isdigit() or not usage.isdigit():
        return None
    fields = dict(line.split() for line in _read_system_file(statistics).splitlines()
                  if len(line.split()) == 2)
    cached = int(fields.get(reclaimable, 0))
    return max(int(limit) - max(int(usage) - cached, 0), 0)


def _read_system_file(path):
    """Returns the text of a file of the system, or an empty str if it cannot be read."""
    try:
        return pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


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
