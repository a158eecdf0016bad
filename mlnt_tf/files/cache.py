"""What a look at many files found, kept for the next run."""

import hashlib
import os
import pathlib
import time

from absl import logging

from mlnt_tf.files import artifacts

MIN_SECONDS = 10.0  # seconds: what took less is found anew


def cached_scan(kind, paths, find, *, of):
    """`find()`, a dictionary of arrays, or what it gave before for files of the same names, sizes and times.

    Kept under ~/.cache/mlnt_tf (or XDG_CACHE_HOME), never beside the data.

    Args:
      kind: what is found, part of the file's name.
      paths: bytes or str, of the files it hangs on.
      find: called if nothing is kept.
      of: what else it hangs on, of a plain `repr`: what is read of the files, the version of what reads them.
    """
    key = hashlib.sha256(b"%s\n" % repr(of).encode())
    for path in paths:
        try:
            status = os.stat(path)
            key.update(b"%s %d %d\n" % (os.fsencode(path), status.st_size, status.st_mtime_ns))
        except OSError:
            key.update(b"%s missing\n" % os.fsencode(path))
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    place = pathlib.Path(home) / "mlnt_tf" / f"{kind}_{key.hexdigest()[:32]}.npz"
    inputs = key.hexdigest()
    stored = artifacts.read(place, inputs=inputs)
    if stored is not None:
        logging.info("%d files were looked at before (%s)", len(paths), place)
        return stored[0]
    began = time.monotonic()
    found = find()
    if time.monotonic() - began > MIN_SECONDS:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            artifacts.load_or_compute(place, lambda scratch: found, inputs=inputs)
        except OSError as error:
            logging.warning("what was found in %d files cannot be kept for the next run: %s", len(paths), error)
    return found
