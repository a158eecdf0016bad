"""Artifacts: results that are computed once, stored with a digest of their inputs, and then read.

An artifact is a `.npy`, `.npz` or `.json` file with a stamp: the digest of its inputs, and a
checksum of its content. A JSON artifact contains the stamp under the key "artifact". An array
artifact has a JSON file with the same stem next to it, which is written last. An artifact whose
stamp does not match is computed again, with a warning.
"""

import hashlib
import json
import pathlib
import zipfile
import zlib

import numpy as np
from absl import logging

from mlnt_tf.files import atomic

MAPPED_FROM = 2**30  # Bytes. Smaller arrays are read into memory.
STAMP = "artifact"  # A key that no content may use.
# What reading a damaged file may raise.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError,
              zipfile.BadZipFile, zlib.error)


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
    atomic.write_json(_sidecar(path), {**report, STAMP: _stamp(inputs, checksum)})
    return _load(path), report


def write(path, content, *, inputs):
    """Writes an array or a dict of arrays as an artifact, in place of an existing one.

    Args:
      path: pathlib.Path, `.npy` or `.npz`.
      content: array or dict of arrays.
      inputs: str, the digest of everything that the content depends on.

    Raises:
      OSError: the file cannot be written.
    """
    _sidecar(path).unlink(missing_ok=True)
    load_or_compute(path, lambda scratch: content, inputs=inputs)


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
    try:
        if not path.exists() or not sidecar.exists():
            return None
        report = json.loads(sidecar.read_text(encoding="utf-8"))
        reason = _mismatch(report.pop(STAMP), inputs, file_digest(path))
        return _warn(path, reason) if reason else (_load(path), report)
    except UNREADABLE as error:
        return _warn(path, _describe(error))


def write_json(path, content, *, inputs):
    """Writes a dict as a JSON artifact.

    Args:
      path: pathlib.Path.
      content: dict that JSON can represent, without the key "artifact".
      inputs: str, the digest of everything that the content depends on.

    Raises:
      OSError: the file cannot be written.
    """
    atomic.write_json(path, {**content, STAMP: _stamp(inputs, _json_checksum(content))})


def read_json(path, *, inputs, required=()):
    """Reads a JSON artifact.

    A file without a stamp was written by an earlier version. It is accepted if it has the required
    keys.

    Args:
      path: pathlib.Path or str.
      inputs: str, the digest of the inputs it must have been computed from.
      required: keys that a file without a stamp must have.

    Returns:
      dict, or None if there is no such file, or with a warning if it is damaged or was computed
      from other inputs.
    """
    path = pathlib.Path(path)
    try:
        if not path.exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        stamp = content.pop(STAMP, None)
        if stamp is None:
            missing = [key for key in required if key not in content]
            reason = f"it lacks {', '.join(missing)}" if missing else ""
        else:
            reason = _mismatch(stamp, inputs, _json_checksum(content))
    except UNREADABLE as error:
        reason = _describe(error)
    return _warn(path, reason) if reason else content


def _stamp(inputs, checksum):
    return {"inputs": inputs, "checksum": checksum}


def _mismatch(stamp, inputs, checksum):
    """Returns why a stored stamp does not match, or an empty str."""
    if stamp["checksum"] != checksum:
        return "its checksum does not match"
    if stamp["inputs"] != inputs:
        return "it was computed from other inputs"
    return ""


def _json_checksum(content):
    """Returns the checksum of a dict as JSON stores it, whatever the order of its keys."""
    stored = json.loads(json.dumps(content))  # Keys that are numbers become text.
    return digest_of(json.dumps(stored, sort_keys=True))


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
    """Reads an array or a dict of arrays. A large array is memory-mapped."""
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return dict(archive)
    return np.load(path, mmap_mode="r" if path.stat().st_size >= MAPPED_FROM else None)


def _describe(error):
    """Returns one line with the reason of an error of reading."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def _warn(path, reason):
    """Logs that an artifact cannot be used. Returns None."""
    logging.warning("%s is computed again: %s.", path, reason)
