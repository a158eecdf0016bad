"""On-disk cache for results of scanning many files, such as which images can be decoded."""

import hashlib
import os
import pathlib
import time

from absl import logging

from mlnt_tf.files import artifacts

MIN_SECONDS = 10.0  # A scan faster than this is repeated instead of cached.


def directory():
    """Returns the path of the cache: `$XDG_CACHE_HOME/mlnt_tf`, by default `~/.cache/mlnt_tf`."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "mlnt_tf"


def cached_scan(name, paths, scan, *, version, is_lasting=None):
    """Returns `scan()`, or its stored result if no file has changed since.

    Results are stored under `$XDG_CACHE_HOME/mlnt_tf` (default `~/.cache/mlnt_tf`), never next to
    the data. A file counts as changed when its size or modification time differs.

    Args:
      name: str, a short name for this kind of scan. Part of the cache file's name.
      paths: list of str or bytes, the files that the result depends on.
      scan: function without arguments that returns a dict of NumPy arrays. Called on a cache miss.
      version: any value with a stable `repr`, for example the decoder's version. A new version
        invalidates old entries.
      is_lasting: function of the dict that returns whether it may be stored, or None to store every
        result. A file that could not be read for a moment should be read again by the next run.

    Returns:
      dict of NumPy arrays.
    """
    digest = _digest(paths, version)
    path = directory() / f"{name}_{digest[:32]}.npz"
    stored = artifacts.read(path, inputs=digest)
    if stored is not None:
        arrays, _ = stored
        logging.info("%d files have not changed since they were scanned; using %s.", len(paths),
                     path)
        return arrays
    start = time.monotonic()
    arrays = scan()
    is_slow = time.monotonic() - start > MIN_SECONDS
    if is_slow and (is_lasting is None or is_lasting(arrays)):
        _store(path, arrays, digest)
    return arrays


def _digest(paths, version):
    """Returns a hexadecimal digest of the version and of each file's path, size and time."""
    digest = hashlib.sha256(b"%s\n" % repr(version).encode())
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            digest.update(b"%s missing\n" % os.fsencode(path))
            continue
        digest.update(b"%s %d %d\n" % (os.fsencode(path), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def _store(path, arrays, digest):
    """Writes a cache entry. A failure is logged, because the scan can be repeated."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        artifacts.load_or_compute(path, lambda scratch: arrays, inputs=digest)
    except OSError as error:
        logging.warning("%s cannot be written (%s). The next run scans the files again.", path,
                        error.strerror or error)
