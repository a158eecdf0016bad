"""What an output directory records of the run in it: its settings and, once finished, its results. No TensorFlow here.

A run's identity is its resolved settings. `flags.txt` holds them, so that a resumed run takes the recorded value where
the command says "auto", whatever this machine would choose.
"""

import dataclasses
import os
import pathlib

from mlnt_tf.config import UserError, flags
from mlnt_tf.files import artifacts, atomic, lock

FLAGS_FILE, RESULTS_FILE = "flags.txt", "results.json"
RESOLVED = ("precision", "jit_compile", "strategy", "neighbor_backend")  # settings whose "auto" the machine decides


def find_recorded(config):
    """Returns the Config of the run that --output_dir holds, or None if there is no run yet.

    Raises:
      UserError: the directory holds another run or other files, or --resume=never forbids to use it.
    """
    output_dir = pathlib.Path(config.output_dir)
    _check_writable(output_dir)
    before_the_run = {lock.LOCK_FILE, atomic.SCRATCH_PREFIX + FLAGS_FILE}
    if not output_dir.exists() or {path.name for path in output_dir.iterdir()} <= before_the_run:
        return None
    flagfile = output_dir / FLAGS_FILE
    if not flagfile.exists():
        raise UserError(f"--output_dir={output_dir} holds files that do not belong to a run of mlnt_tf. Choose another "
                        "directory.")
    try:
        recorded = flags.parse(["recorded", f"--flagfile={flagfile}"])
    except UserError as error:
        raise UserError(f"{flagfile} cannot be compared with this run ({error}) Choose another --output_dir.") from error
    different = flags.differing(recorded, adopt(config, recorded))
    if different:
        raise UserError(f"--output_dir={output_dir} holds another run ({'; '.join(different)}). Choose another directory.")
    if config.resume == "never":
        raise UserError(f"--output_dir={output_dir} already holds this run and --resume=never. Choose another directory, "
                        "or use --resume=auto.")
    return recorded


def _check_writable(output_dir):
    """Raises UserError unless the directory, or the nearest of its parents that exists, can be written."""
    nearest = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"--output_dir={output_dir} cannot be a directory, because {nearest} is a file. Choose another "
                        "directory.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"--output_dir={output_dir} cannot be written, because {nearest} is read-only for this user. "
                        "Choose another directory.")


def adopt(config, recorded):
    """Returns the Config with the recorded values in place of "auto"; `recorded` may be None."""
    if recorded is None:
        return config
    values = {name: getattr(recorded, name) for name in RESOLVED if getattr(config, name) == "auto"}
    return dataclasses.replace(config, **values)


def identity(config):
    """Returns the digest of the settings that change a run's result."""
    return artifacts.digest_of(flags.identity_lines(config))


def finished_results(config):
    """Returns the results of this very run if --output_dir holds it finished, else None.

    Raises:
      UserError: as `find_recorded`.
    """
    recorded = find_recorded(config)
    if recorded is None:
        return None
    return artifacts.read_json(pathlib.Path(config.output_dir) / RESULTS_FILE, inputs=identity(adopt(config, recorded)))
