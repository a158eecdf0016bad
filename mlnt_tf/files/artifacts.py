"""Artifacts: results that are computed once, stored with a digest of their inputs, and then read.

An artifact is a `.npy`, `.npz` or `.json` file with two more fields: the digest of its inputs, and
a checksum of its content. A JSON artifact contains the fields. An array artifact has a JSON file
with the same stem next to it, which is written last. An artifact whose fields do not match is
computed again, with a warning.
"""

import hashlib
import json
import pathlib
import zipfile
import zlib

import numpy as np
from absl import logging

from mlnt_tf.files import atomic

INPUTS = "inputs"
CHECKSUM = "checksum"
# What reading a damaged file may raise.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def digest_of(*parts):
    """Returns a hexadecimal digest, a str of 32 characters.

    Args:
      *parts: NumPy arrays, or values with a stable `repr`.
    """
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
    """Returns a hexadecimal digest of a file's bytes, a str of 32 characters."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def load_or_compute(path, compute, *, inputs):
    """Returns a stored result, or computes and stores it.

    Args:
      path: pathlib.Path, `.npy` for one array or `.npz` for a dict of arrays.
      compute: function of a scratch path that returns the array or dict, or a pair of it and a
        report (a dict). For a table that is too large to hold in memory twice, the function may
        write the `.npy` file to the scratch path itself, and return None in place of the array.
      inputs: str, the digest of everything that the result depends on (see `digest_of`).

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
    """Reads an array artifact.

    Args:
      path: pathlib.Path, `.npy` or `.npz`.
      inputs: str, the digest of the inputs it must have been computed from.

    Returns:
      (array or dict of arrays, report), or None if there is no such file, or with a warning if it
      is damaged or was computed from other inputs.
    """
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
    """Writes a dict as a JSON artifact.

    Args:
      path: pathlib.Path.
      content: dict that JSON can represent.
      inputs: str, the digest of everything that the content depends on.

    Raises:
      OSError: the file cannot be written.
    """
    atomic.write_json(path, {**content, INPUTS: inputs, CHECKSUM: _json_checksum(content)})


def read_json(path, *, inputs):
    """Reads a JSON artifact.

    A file without digest and checksum was written by an earlier version. It is accepted as it is.

    Args:
      path: pathlib.Path or str.
      inputs: str, the digest of the inputs it must have been computed from.

    Returns:
      dict, or None if there is no such file, or with a warning if it is damaged or was computed
      from other inputs.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored_inputs, checksum = content.pop(INPUTS, None), content.pop(CHECKSUM, None)
    except (*UNREADABLE, AttributeError, TypeError) as error:
        return _warn(path, " ".join(str(error).split()))
    if checksum is not None and checksum != _json_checksum(content):
        return _warn(path, "its checksum does not match")
    if stored_inputs is not None and stored_inputs != inputs:
        return _warn(path, "it was computed from other inputs")
    return content


def _json_checksum(content):
    """Returns the checksum of a dict, which does not depend on the order of its keys."""
    return digest_of(json.dumps(content, sort_keys=True))


def _sidecar(path):
    """Returns the path of the JSON file that belongs to an array artifact."""
    return pathlib.Path(path).with_suffix(".json")


def _save(path, content):
    """Writes an array or a dict of arrays."""
    with open(path, "wb") as file:
        if isinstance(content, dict):
            np.savez(file, **content)
        else:
            np.save(file, content)


def _load(path):
    """Reads an array or a dict of arrays."""
    if pathlib.Path(path).suffix == ".npz":
        with np.load(path) as archive:
            return dict(archive)
    return np.load(path)


def _warn(path, reason):
    """Logs that an artifact cannot be used. Returns None."""
    logging.warning("%s is computed again: %s.", path, reason)
