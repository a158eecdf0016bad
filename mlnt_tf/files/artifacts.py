"""Results that are computed once and then read: stored atomically, with a digest of their inputs and a checksum.

An artifact is one file. Arrays (`.npy`, `.npz`) have a JSON file of the same stem next to them, written last; a JSON
artifact carries the two fields itself. An artifact that does not match is computed again, with a warning.
"""

import hashlib
import json
import pathlib
import zipfile
import zlib

import numpy as np
from absl import logging

from mlnt_tf.files import atomic

INPUTS, CHECKSUM = "inputs", "checksum"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def digest_of(*parts):
    """Returns a short hexadecimal digest of values with a stable `repr` and of NumPy arrays."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        else:
            total.update(repr(part).encode())
        total.update(b"\n")
    return total.hexdigest()[:32]


def file_digest(path):
    """Returns a short hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def load_or_compute(path, compute, *, inputs):
    """Returns a stored result, or computes and stores it.

    Args:
      path: pathlib.Path, `.npy` for one array or `.npz` for a dict of arrays.
      compute: function of a scratch path. It returns the array or dict, or writes the `.npy` file at the scratch path
        itself and returns None (for tables too large to hold twice). It may return a pair of this and a dict that is
        stored as the report.
      inputs: str, digest of everything the result depends on (see `digest_of`).

    Returns:
      (array or dict of arrays, report). The report is a dict, empty unless `compute` returned one.

    Raises:
      OSError: the result cannot be written.
    """
    stored = read(path, inputs=inputs)
    if stored is not None:
        return stored
    with atomic.replacing(path) as scratch:
        computed = compute(scratch)
        content, report = computed if isinstance(computed, tuple) else (computed, {})
        if content is not None:
            _save(scratch, content)
        checksum = file_digest(scratch)
    atomic.write_json(_sidecar(path), {**report, INPUTS: inputs, CHECKSUM: checksum})
    return _load(path), report


def read(path, *, inputs):
    """Returns (content, report) of a stored array artifact, or None, with a warning unless it is simply not there."""
    path, sidecar = pathlib.Path(path), _sidecar(path)
    if not path.exists() or not sidecar.exists():
        return None
    try:
        report = json.loads(sidecar.read_text(encoding="utf-8"))
        stored_inputs, checksum = report.pop(INPUTS), report.pop(CHECKSUM)
        if file_digest(path) != checksum:
            return _warn(path, "its checksum does not match")
        if stored_inputs != inputs:
            return _warn(path, "it was computed from other inputs")
        return _load(path), report
    except UNREADABLE as error:
        return _warn(path, str(error) or type(error).__name__)


def write_json(path, content, *, inputs):
    """Writes a dict as a JSON artifact. Raises OSError when it cannot be written."""
    atomic.write_json(path, {**content, INPUTS: inputs, CHECKSUM: _checksum_of(content)})


def read_json(path, *, inputs):
    """Returns the content of a JSON artifact, or None, with a warning unless it is simply not there.

    A file without the two fields comes from an earlier version and is taken as it is.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored_inputs, checksum = content.pop(INPUTS, None), content.pop(CHECKSUM, None)
    except (*UNREADABLE, AttributeError, TypeError) as error:
        return _warn(path, " ".join(str(error).split()))
    if checksum is not None and checksum != _checksum_of(content):
        return _warn(path, "its checksum does not match")
    if stored_inputs is not None and stored_inputs != inputs:
        return _warn(path, "it was computed from other inputs")
    return content


def _checksum_of(content):
    return digest_of(json.dumps(content, sort_keys=True))


def _sidecar(path):
    return pathlib.Path(path).with_suffix(".json")


def _save(path, content):
    with open(path, "wb") as file:
        if isinstance(content, dict):
            np.savez(file, **content)
        else:
            np.save(file, content)


def _load(path):
    if pathlib.Path(path).suffix == ".npz":
        with np.load(path) as archive:
            return dict(archive)
    return np.load(path)


def _warn(path, reason):
    logging.warning("%s is computed again: %s.", path, reason)
