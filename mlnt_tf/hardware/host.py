"""The host: memory of this process, and versions of the packages."""

import importlib.metadata
import pathlib
import platform
import resource

PACKAGES = ("tensorflow", "keras", "scann", "tensorflow-datasets", "numpy", "scikit-learn")


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
