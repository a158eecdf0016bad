"""The command line: every field of `Config` is a flag. Imports nothing heavy, so a mistake is told at once."""

import dataclasses
import difflib
import os
import pathlib
import re

from absl import flags as absl_flags

import mlnt_tf
from mlnt_tf.config import Config, UserError

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
DEFINE = {bool: absl_flags.DEFINE_boolean, int: absl_flags.DEFINE_integer, float: absl_flags.DEFINE_float,
          str: absl_flags.DEFINE_string}
WITHOUT_EFFECT_ON_RESULTS = ("output_dir", "resume", "download")


def parse(argv):
    """The settings that a command line gives; `--help` and `--version` print and exit with code 0.

    Args:
      argv: the program's name, then the flags; of a flag given twice (or in a --flagfile) the last counts.

    Returns:
      a Config. Its `output_dir` is runs/<stem of the last --flagfile> (runs/digits without one) unless given.

    Raises:
      UserError: an unknown flag, a value of the wrong type or outside its range, an unreadable --flagfile,
        or an argument that is no flag.
    """
    if {"-h", "--help", "--helpfull", "--helpshort"}.intersection(argv[1:]):
        print(help_text())
        raise SystemExit(0)
    if "--version" in argv[1:]:
        print(f"mlnt_tf {mlnt_tf.__version__}")
        raise SystemExit(0)
    values = _parse_values(argv)
    given = {name: values[name].value for name in FIELDS}
    if not values["output_dir"].present:
        given["output_dir"] = default_output_dir(argv)
    return Config(**{name: _on_path(name, value, os.path.expanduser) for name, value in given.items()})


def default_output_dir(argv):
    """runs/<stem of the last --flagfile of `argv`>, or runs/digits."""
    files = _flagfiles(argv)
    return f"runs/{pathlib.Path(files[-1]).stem}" if files else Config.output_dir


def help_text():
    """What --help prints: every flag with its default, meaning, choices and range."""
    lines = ["Usage: python -m mlnt_tf.train [--flagfile=FILE] [--name=value ...]", "",
             "Of a flag given twice the last counts; a flag that is false or true also goes as --noname or --name.", "",
             "  --flagfile=FILE", "      Flags from a file, one a line; # begins a comment line."]
    for name, field in FIELDS.items():
        default = "runs/<name of the flag file>" if name == "output_dir" else _text(field.default)
        lines += [f"  --{name}={default}", f"      {_describe(field)}"]
    return "\n".join(lines)


def to_flag_lines(config):
    """Every setting as --name=value: a flag file that repeats the run from any directory."""
    return [f"--{name}={_text(value)}" for name, value in _portable(dataclasses.asdict(config)).items()]


def differing(config, flagfile):
    """The flags by which a stored run is another one than `config`.

    Args:
      config: the run at hand.
      flagfile: path of the stored run's flags; a flag it leaves out has its default.

    Returns:
      a list such as ["--seed=0 there, --seed=1 here"], empty if both runs give the same result; if the file cannot
      be read as flags, the reason.
    """
    try:
        stored = _parse_values(["", f"--flagfile={flagfile}"])
    except UserError as error:
        return [f"in {flagfile}: {error}"]
    there = _portable({name: stored[name].value for name in FIELDS})
    here = _portable(dataclasses.asdict(config))
    return [f"--{name}={_text(there[name])} there, --{name}={_text(here[name])} here" for name in FIELDS
            if there[name] != here[name] and name not in WITHOUT_EFFECT_ON_RESULTS]


def _parse_values(argv):
    """absl's FlagValues for `argv`, a set of its own so that parsing can be repeated."""
    values = absl_flags.FlagValues()
    for name, field in FIELDS.items():
        DEFINE[field.type](name, field.default, _describe(field), flag_values=values)
    # Flags behind a stray argument are parsed too, so that the error names the stray one alone.
    values.set_gnu_getopt(True)
    try:
        stray = values(argv)[1:]
    except absl_flags.UnrecognizedFlagError as error:
        raise UserError(_one_line(_unknown(error.flagname, error.flagvalue))) from None
    except (absl_flags.Error, ValueError) as error:
        raise UserError(_one_line(_explain(error, argv))) from None
    if stray:
        raise UserError(_one_line(f"{stray[0]} is no flag: write flags as --name=value; --help lists them."))
    return values


def _unknown(name, argument):
    near = difflib.get_close_matches(name.split()[0], [*FIELDS, *(f"no{n}" for n in FIELDS if FIELDS[n].type is bool),
                                                       "flagfile", "help"], n=1)
    fix = f"did you mean --{near[0]}? (written --name=value)" if near else "--help lists the flags."
    return f"{argument} is not a known flag: {fix}"


def _explain(error, argv):
    """A line for what absl cannot parse; absl keeps the cause in the error's context."""
    cause = error.__context__
    if isinstance(cause, OSError):
        return f"--flagfile={cause.filename} cannot be read ({cause.strerror}): name a file of flags."
    if isinstance(error, UnicodeDecodeError):
        return f"--flagfile={_flagfiles(argv)[-1]} is not a text file: name a file of flags."
    illegal = re.match(r"flag (--(\w+)=)", str(error))
    if illegal and illegal.group(2) in FIELDS:
        kind = KINDS[FIELDS[illegal.group(2)].type]
        argument = str(error).removeprefix("flag ").removesuffix(f": {cause}")
        return f"{argument} is not {kind}: write {illegal.group(1)} and {kind}."
    missing = re.match(r"Missing value for flag (.+)", str(error))
    if missing or str(error).startswith("--flagfile with no"):
        name = missing.group(1).lstrip("-") if missing else "flagfile"
        return f"--{name} has no value: write --{name}=value."
    return f"{error}: --help lists the flags."


def _flagfiles(argv):
    """The flag files named on the command line itself, in order."""
    found = []
    for argument, following in zip(argv[1:], [*argv[2:], ""]):
        name, equals, value = argument.partition("=")
        if name in ("--flagfile", "-flagfile"):
            found.append(value if equals else following)
    return [name.strip() for name in found if name.strip()]


def _describe(field):
    """The help of a flag: its meaning, then its choices or range."""
    limits = field.metadata
    phrases = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
    bounds = [f"{phrase} {limits[key]}" for key, phrase in phrases.items() if limits[key] is not None]
    choices = [f"One of {', '.join(limits['choices'])}."] if limits["choices"] else []
    return " ".join([limits["help"], *choices, *([f"Range: {', '.join(bounds)}."] if bounds else [])])


def _portable(settings):
    """The settings with absolute paths."""
    return {name: _on_path(name, value, lambda path: path if "://" in path else os.path.abspath(path))
            for name, value in settings.items()}


def _on_path(name, value, change):
    """Applies `change` to the path that a setting holds, if it holds one."""
    if name in ("data_dir", "output_dir") and value:
        return change(value)
    if name == "noise" and value.startswith("matrix:"):
        return "matrix:" + change(value.removeprefix("matrix:"))
    return value


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_line(text):
    return " ".join(text.split())
