"""The record of a run in its output directory: settings and, once it has finished, results.

A run is identified by its resolved settings, which flags.txt holds. A resumed run replaces "auto"
by the recorded value, whatever this machine would choose. This module does not import TensorFlow.
"""

import dataclasses
import os
import pathlib

from mlnt_tf.config import UserError, flags
from mlnt_tf.files import artifacts, atomic, lock

FLAGS_FILE = "flags.txt"
RESULTS_FILE = "results.json"
# Settings whose "auto" depends on the machine.
RESOLVED = ("precision", "jit_compile", "strategy", "neighbor_backend")


def find_recorded(config):
    """Returns the Config of the run in --output_dir, or None if no run has begun there.

    Raises:
      UserError: the directory cannot be written, holds another run or other files, or holds this
        run although --resume=never.
    """
    output_dir = pathlib.Path(config.output_dir)
    _check_writable(output_dir)
    if not output_dir.exists():
        return None
    files = {path.name for path in output_dir.iterdir()}
    # A process that is killed before it has recorded its settings leaves these two files at most.
    if files <= {lock.LOCK_FILE, atomic.SCRATCH_PREFIX + FLAGS_FILE}:
        return None
    recorded = _read_flags(output_dir)
    different = flags.differing(recorded, adopt(config, recorded))
    if different:
        raise UserError(f"--output_dir={output_dir} holds another run ({'; '.join(different)}). "
                        "Choose another directory.")
    if config.resume == "never":
        raise UserError(f"--output_dir={output_dir} already holds this run, and --resume=never. "
                        "Choose another directory, or use --resume=auto.")
    return recorded


def _read_flags(output_dir):
    """Returns the Config of flags.txt. Raises UserError if it is missing or cannot be parsed."""
    flagfile = output_dir / FLAGS_FILE
    if not flagfile.exists():
        raise UserError(f"--output_dir={output_dir} holds files that do not belong to a run of "
                        "mlnt_tf. Choose another directory.")
    try:
        return flags.parse(["recorded", f"--flagfile={flagfile}"])
    except UserError as error:
        raise UserError(f"{flagfile} cannot be read by this version of mlnt_tf: {error} Choose "
                        "another --output_dir.") from error


def _check_writable(output_dir):
    """Raises UserError unless the directory, or its nearest existing parent, can be written."""
    parents = (output_dir, *output_dir.absolute().parents)
    nearest = next(path for path in parents if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--output_dir={output_dir} cannot be a directory, because {nearest} is a "
                        "file. Choose another directory.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--output_dir={output_dir} cannot be written, because {nearest} is "
                        "read-only for this user. Choose another directory.")


def adopt(config, recorded):
    """Returns the Config with recorded values in place of "auto".

    Args:
      config: a Config.
      recorded: the Config of `find_recorded`, or None.
    """
    if recorded is None:
        return config
    automatic = [name for name in RESOLVED if getattr(config, name) == "auto"]
    return dataclasses.replace(config, **{name: getattr(recorded, name) for name in automatic})


def identity(config):
    """Returns the digest of the settings that change a run's results."""
    return artifacts.digest_of(flags.identity_lines(config))


def finished_results(config):
    """Returns the results of this run if --output_dir holds them, else None.

    Raises:
      UserError: see `find_recorded`.
    """
    recorded = find_recorded(config)
    if recorded is None:
        return None
    path = pathlib.Path(config.output_dir) / RESULTS_FILE
    return artifacts.read_json(path, inputs=identity(adopt(config, recorded)))
