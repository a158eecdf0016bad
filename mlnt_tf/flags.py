"""Command line to Config and back: a flag for each field, errors in one line."""

import argparse
import dataclasses
import difflib
import os
import pathlib
import re
import sys

from absl import flags

from mlnt_tf.config import TRANSITIONS, WITHOUT_EFFECT, Config, UserError

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
PATH_UNLESS = {"pretrained_weights": ("none", "imagenet"), "transition_matrix": TRANSITIONS}  # flags and their words
PATHS = ("data_dir", "output_dir", "class_names")


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as all of mlnt_tf does."""

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags).")


def parse(argv):
    """The Config that a command line asks for; --help prints the flags and exits with 0.

    Args:
      argv: the program's name, then its flags; --flagfile=FILE stands for the lines of the file.

    Raises:
      UserError: an unknown flag, a value of the wrong type or out of range, a file that cannot be read.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("flagfile", "", "Read flags from this file; one given later on the command line wins.",
                        flag_values=values)
    flags.DEFINE_bool("help", False, "Print this and exit.", short_name="h", flag_values=values)
    for field in FIELDS.values():
        _define(field, values)
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, FIELDS, n=1)
        hint = f"; did you mean --{close[0]}?" if close else "; --help lists the flags."
        raise UserError(f"--{error.flagname} is not a flag{hint}") from error
    except UnicodeDecodeError as error:
        raise UserError("--flagfile is no text: name a file of flags, as configs/digits.flags.") from error
    except flags.CantOpenFlagFileError as error:
        raise UserError(f"--flagfile cannot be read ({str(error).partition('] ')[2]}): name a file of flags, as "
                        "configs/digits.flags.") from error
    except (flags.Error, OSError, ValueError) as error:
        raise UserError(f"{' '.join(str(error).split())} (--help lists the flags and their values)") from error
    if values.help:
        print(f"python -m mlnt_tf.train [--flagfile=FILE] [--FLAG=VALUE ...]\n\n{_help()}")
        sys.exit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is no flag: write --name=value, as in --flagfile=configs/digits.flags.")
    chosen = {name: values[name].value for name in FIELDS}
    if not values["output_dir"].present:
        named = [argument.partition("=")[2] or following for argument, following in zip(argv, [*argv[1:], ""])
                 if argument.lstrip("-").partition("=")[0] == "flagfile"]
        chosen["output_dir"] = f"runs/{pathlib.Path(named[-1]).stem if named else re.sub('[:/]+', '_', chosen['dataset'])}"
    for name in PATHS:
        chosen[name] = os.path.expanduser(chosen[name])
    for name, words in PATH_UNLESS.items():
        if chosen[name] not in words:
            chosen[name] = os.path.expanduser(chosen[name])
    if chosen["noise"].startswith("matrix:"):
        chosen["noise"] = f"matrix:{os.path.expanduser(chosen['noise'].removeprefix('matrix:'))}"
    return Config(**chosen)


def _define(field, values):
    """A boolean, number or string flag; choices stay with Config, whose refusal is one line."""
    define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float,
              str: flags.DEFINE_string}[field.type]
    define(field.name, field.default, field.metadata["help"], flag_values=values)


def _help():
    lines = []
    for name, field in FIELDS.items():
        choices = field.metadata["choices"]
        limits = {text: field.metadata[key] for key, text in
                  (("minimum", "at least"), ("above", "above"), ("maximum", "at most"), ("below", "below"))}
        ranges = [f"{text} {limit:g}" for text, limit in limits.items() if limit is not None]
        allowed = f" [{'|'.join(choices)}]" if choices else f" ({', '.join(ranges)})" if ranges else ""
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        lines.append(f"  --{name}={default}\n      {field.metadata['help']}{allowed}")
    return "\n".join(lines)


def to_flag_lines(config):
    """Every flag as --name=value, to be read again with --flagfile from any directory."""
    lines = []
    for name in FIELDS:
        value = getattr(config, name)
        if (name in PATHS and value and "://" not in value
                or name in PATH_UNLESS and value not in PATH_UNLESS[name]):
            value = pathlib.Path(value).resolve()
        if name == "noise" and value.startswith("matrix:"):
            value = f"matrix:{pathlib.Path(value.removeprefix('matrix:')).resolve()}"
        lines.append(f"--{name}={str(value).lower() if isinstance(value, bool) else value}")
    return lines


def differing(config, flagfile):
    """What tells a stored run from this one: ["--seed=0 there, --seed=1 here", ...], of flags with an effect.

    Raises:
      UserError: the stored flags are not those of this version.
    """
    try:
        there = parse(["stored", f"--flagfile={flagfile}"])
    except UserError as error:
        raise UserError(f"{flagfile} cannot be compared with this run ({error}): name another --output_dir.") from error
    # Read back, so that 0.30 is 0.3; as lines, so that a relative path is its absolute one.
    return [f"{stored} there, {asked} here" for stored, asked in zip(to_flag_lines(there), to_flag_lines(config))
            if stored != asked and stored.partition("=")[0].removeprefix("--") not in WITHOUT_EFFECT]
