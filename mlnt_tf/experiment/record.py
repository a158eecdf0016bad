"""The record of a run in its output directory: settings and, once it has finished, results.

A run is identified by its resolved settings, which flags.txt holds, and by its data (see
`data_record`). A resumed run replaces "auto"
by the recorded value, whatever this machine would choose. This module does not import TensorFlow.
"""

import dataclasses
import os
import pathlib

from mlnt_tf.config import UserError, flags, recipes
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
    # An earlier version recorded "auto". It then agrees with whatever this machine chooses.
    different = flags.differing(adopt(recorded, config), adopt(config, recorded))
    if different:
        remedy = "Choose another directory."
        if not _is_trained(output_dir):
            remedy = "It has not trained a single epoch: delete it, or choose another directory."
        raise UserError(f"--output_dir={output_dir} holds another run ({'; '.join(different)}). "
                        f"{remedy}")
    if config.resume == "never":
        raise UserError(f"--output_dir={output_dir} already holds this run, and --resume=never. "
                        "Choose another directory, or use --resume=auto.")
    return recorded


def _is_trained(output_dir):
    """Returns whether a stage of the run has a checkpoint or a result."""
    return any(next(output_dir.glob(pattern), None)
               for pattern in ("results.json", "*/result.json", "*/checkpoints/*"))


def _read_flags(output_dir):
    """Returns the Config of flags.txt. Raises UserError if it is missing or cannot be parsed."""
    flagfile = output_dir / FLAGS_FILE
    if not flagfile.exists():
        raise UserError(f"--output_dir={output_dir} holds files that do not belong to a run of "
                        "mlnt_tf. Choose another directory.")
    try:
        config = flags.parse(["recorded", f"--flagfile={flagfile}"])
        text = flagfile.read_text(encoding="utf-8")
        return dataclasses.replace(config, from_recipe=frozenset(
            flags.commented_flags(text, flags.RECIPE_COMMENT)))
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
    """Returns the Config with recorded values in place of "auto" and of a recipe's values.

    Args:
      config: a Config.
      recorded: the Config of `find_recorded`, or None.
    """
    if recorded is None:
        return config
    names = [name for name in RESOLVED if getattr(config, name) == "auto"]
    if config.from_recipe is None and config.recipe in ("auto", recorded.recipe):
        given = recipes.given_settings(config)
        names += [name for name in recorded.from_recipe or () if name not in given]
        return dataclasses.replace(config, **{name: getattr(recorded, name) for name in names},
                                   recipe=recorded.recipe, from_recipe=recorded.from_recipe)
    return dataclasses.replace(config, **{name: getattr(recorded, name) for name in names})


def identity(config):
    """Returns the digest of a run's settings: of those that change its results.

    Settings at their default are left out, so that a later version with one more setting still
    accepts the results of this one.
    """
    defaults = flags.identity_lines(type(config)())
    return artifacts.digest_of(sorted(set(flags.identity_lines(config)) - set(defaults)))


def has_moved(recorded, config):
    """Returns whether the data or the class names are at another path than when the run began."""
    old, new = (set(flags.to_flag_lines(settings)) - set(flags.identity_lines(settings))
                for settings in (recorded, config))
    names = tuple(f"--{name}=" for name in flags.CONTENT_PATHS)
    return any(line.startswith(names) for line in old ^ new)


def data_digest(examples):
    """Returns the digest of the training examples' ids and given labels.

    Results depend on it. `data_record` compares the complete data before a run is resumed.
    """
    return artifacts.digest_of(examples.train.ids, examples.train.labels)


def explicit_flags(config):
    """Returns the names of the flags with which the run in --output_dir was begun, sorted.

    A resumed run may have been given others, such as --flagfile=flags.txt.
    """
    text = (pathlib.Path(config.output_dir) / FLAGS_FILE).read_text(encoding="utf-8")
    return flags.commented_flags(text, flags.EXPLICIT_COMMENT)


def finished_results(config):
    """Returns the results of this run if --output_dir holds them, else None.

    Raises:
      UserError: see `find_recorded`.
    """
    recorded = find_recorded(config)
    if recorded is None:
        return None
    return read_results(pathlib.Path(config.output_dir), adopt(config, recorded))


def read_results(directory, config):
    """Returns the content of results.json in a directory, or None if there is no usable one.

    Args:
      directory: pathlib.Path.
      config: the resolved Config of the run.
    """
    return artifacts.read_json(directory / RESULTS_FILE, inputs=identity(config),
                               required=("stages", "exported", "test_accuracy"))
