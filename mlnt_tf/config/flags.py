"""Conversion between command lines and Config: one flag per setting, and errors in one line."""

import argparse
import dataclasses
import difflib
import os
import pathlib
import re
import sys
import textwrap

from absl import flags

from mlnt_tf.config import Config, UserError, recipes
from mlnt_tf.config.settings import format_value, heading, map_path, setting_fields


class _NumberOrWord(flags.ArgumentParser):
    """Parses a number. Any other text stays text, which Config checks."""

    def parse(self, argument):
        try:
            return float(argument)
        except ValueError:
            return argument

    def flag_type(self):
        return "number or word"


def _define_number_or_word(name, default, help, flag_values):
    flags.DEFINE(_NumberOrWord(), name, default, help, flag_values=flag_values)


DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float,
          str: flags.DEFINE_string, float | str: _define_number_or_word}
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number"}
# Comments in flags.txt, each followed by flags.
EXPLICIT_COMMENT = "# Given on the command line:"
RECIPE_COMMENT = "# Set by the recipe:"
LIMITS = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}


# Paths that may differ when a run is resumed, because the run compares the data themselves.
CONTENT_PATHS = ("data_dir", "class_names")
# The flags that --help lists first.
MOST_USED = ("recipe", "dataset", "data_dir", "image_size", "noise", "noise_rate", "model",
             "method", "iterations", "epochs", "batch_size", "num_synthetic", "seed", "output_dir")


@dataclasses.dataclass(frozen=True)
class Usage:
    """The head of a command's --help.

    Attributes:
      command: str, the module's name after "mlnt_tf.", for example "train".
      purpose: str, one sentence.
      examples: tuple of str, command lines without the command itself.
    """

    command: str
    purpose: str
    examples: tuple


TRAIN_USAGE = Usage(
    "train", "Trains on noisy labels, and lists the labels that are probably wrong.",
    ("", "--dataset=folder --data_dir=~/photos --image_size=64 --seed=1",
     "--dataset=cifar10 --data_dir=~/tfds --model=preact_resnet8 --augment",
     "--flagfile=runs/digits/flags.txt --output_dir=runs/again"))


class Parser(argparse.ArgumentParser):
    """An argument parser for the commands that do not take a run's flags.

    Its errors are UserErrors, and --help ends with examples.

    Args:
      command: str, the module's name after "mlnt_tf.".
      description: str, a sentence or two.
      examples: sequence of str, command lines without the command itself.
      note: str, a sentence after the examples.
    """

    def __init__(self, command, description, *, examples, note=""):
        module = f"python -m mlnt_tf.{command}"
        lines = ["examples:", *(f"  {module} {example}" for example in examples)]
        if note:
            lines += ["", note]
        super().__init__(prog=module, description=description, epilog="\n".join(lines),
                         allow_abbrev=False, formatter_class=_HelpFormatter)

    def error(self, message):
        raise UserError(f"{message}. --help lists the flags.")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the examples, and shows the defaults that say something."""

    def _get_help_string(self, action):
        if action.default in (None, "", False, argparse.SUPPRESS) or "%(default)" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


def parse(argv, *, settings=Config, usage=TRAIN_USAGE):
    """Returns the Config that a command line describes. --help prints the flags and exits with 0.

    Flags take effect in order, and the lines of a flag file count as flags in the place of its
    --flagfile. So a flag file replaces the defaults, and a flag after --flagfile replaces the
    file's value. A recipe replaces defaults only. One that depends on the data is applied later.

    Args:
      argv: list of str, the program's name and its flags.
      settings: the class to build, made by `config_class`.
      usage: `Usage`, the head of --help.

    Raises:
      UserError: an unknown flag, a value of the wrong type or outside its limits, or a file that
        cannot be read.
    """
    _refuse_special_flag_files(argv)
    fields = setting_fields(settings)
    command_line = _define(fields, _CommandLineValues())
    values = _define(fields, flags.FlagValues())
    try:
        command_line(argv)
        rest = values(argv)[1:]
    except (flags.Error, OSError, ValueError) as error:
        raise UserError(_explain(error, fields, command_line["flagfile"].value)) from error
    if values["help"].value:
        print(_help(settings, usage))
        sys.exit(0)
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag. Write --name=value, like --seed=1.")
    chosen = {name: map_path(field, values[name].value, os.path.expanduser)
              for name, field in fields.items()}
    config = settings(
        **chosen, explicit=frozenset(name for name in fields if command_line[name].present),
        given=frozenset(name for name in fields if values[name].present))
    recipe = recipes.RECIPES.get(config.recipe)
    if recipe is not None and not recipe.needs_survey:
        config = recipes.apply(config, config.recipe)
    if config.dataset == "digits" and "data_dir" in config.explicit:
        raise UserError(f"--data_dir={config.data_dir} has no effect with --dataset=digits. Add "
                        "--dataset=folder for a directory of images, --dataset=csv for a table, or "
                        "another data set.")
    if values["output_dir"].present:
        return config
    output_dir = _default_output_dir(command_line["flagfile"].value, config.dataset)
    return dataclasses.replace(config, output_dir=output_dir)


class _CommandLineValues(flags.FlagValues):
    """The flags on the command line itself. The file that --flagfile names is not read."""

    def read_flags_from_files(self, argv, force_gnu=True):
        return list(argv)


def _define(fields, values):
    """Defines --flagfile, --help and one flag per setting on `values`, and returns it.

    Config checks choices and limits.
    """
    flags.DEFINE_string("flagfile", "", "Read flags from this file.", flag_values=values)
    flags.DEFINE_bool("help", False, "Print this and exit.", short_name="h", flag_values=values)
    for name, field in fields.items():
        DEFINE[field.type](name, field.default, field.metadata["help"], flag_values=values)
    return values


def _refuse_special_flag_files(argv):
    """Raises UserError for a --flagfile such as /dev/zero or a pipe, whose reading may not end."""
    for argument, following in zip(argv, [*argv[1:], ""]):
        name, equals, path = argument.lstrip("-").partition("=")
        path = os.path.expanduser(path if equals else following)
        if name == "flagfile" and os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"--flagfile={path} is not a text file. It must hold one --flag=value "
                            "per line.")


def _explain(error, fields, flagfile):
    """Returns one line for an exception that was raised while the flags were parsed."""
    if isinstance(error, flags.UnrecognizedFlagError):
        close = difflib.get_close_matches(error.flagname, fields, n=1)
        hint = f"Did you mean --{close[0]}?" if close else "--help lists the flags."
        return f"--{error.flagname} is not a flag. {hint}"
    if isinstance(error, UnicodeDecodeError):
        return (f"--flagfile={flagfile} is not a text file. It must hold one --flag=value per "
                "line.")
    message = " ".join(str(error).split())
    if isinstance(error, flags.CantOpenFlagFileError):
        reason = message.partition("] ")[2]
        return (f"--flagfile cannot be read ({reason}). Name a text file with one --flag=value "
                "per line.")
    value = re.fullmatch(r"flag --(\w+)=(.*?): .*", message)
    if value and value[1] in fields:
        return f"--{value[1]}={value[2]} must be {TYPE_NAMES[fields[value[1]].type]}."
    return f"{message}. --help lists the flags and their values."


def _default_output_dir(flagfile, dataset):
    """Returns runs/NAME, named after the flag file, or after the data set without a flag file."""
    if flagfile:
        return f"runs/{pathlib.Path(flagfile).stem}"
    return "runs/" + re.sub("[:/]+", "_", dataset)


def _help(settings, usage):
    """Returns the text of --help: usage, examples, the most used flags, then every section."""
    module = f"python -m mlnt_tf.{usage.command}"
    fields = setting_fields(settings)
    lines = [f"usage: {module} [--flagfile=FILE] [--FLAG=VALUE ...]",
             f"   or: mlnt-{usage.command} ...", "", usage.purpose, "", "Examples:"]
    lines += [f"  {module} {example}".rstrip() for example in usage.examples]
    lines += ["", "Flags take effect in order: a flag after --flagfile replaces the file's value.",
              "", "Most used flags:"]
    for name in MOST_USED:
        if name in fields:
            lines += _describe(fields[name])
    lines += ["", "Recipes:"]
    lines += [f"  {name:17} {recipe.summary}" for name, recipe in recipes.RECIPES.items()]
    for section in settings.SECTIONS:
        rest = [field for name, field in setting_fields(section).items() if name not in MOST_USED]
        if rest:
            readers = f", for --method={'|'.join(section.METHODS)}" if section.METHODS else ""
            lines += ["", _wrap(f"{heading(section)}{readers}:", subsequent_indent=" " * 4)]
        for field in rest:
            lines += _describe(field)
    return "\n".join(lines)


def _describe(field):
    """Returns the lines of --help for one flag."""
    text = _wrap(f"{field.metadata['help']}{_allowed(field)}", initial_indent=" " * 6,
                 subsequent_indent=" " * 6)
    return [f"  --{field.name}={format_value(field.default)}", text]


def _wrap(text, **indents):
    """Wraps text at 100 columns without breaking a flag, a path or a list of choices."""
    return textwrap.fill(text, width=100, break_on_hyphens=False, break_long_words=False, **indents)


def _allowed(field):
    """Returns " [a|b]" for the choices of a setting, or " (at least 0)" for its limits."""
    choices = "|".join(field.metadata["choices"] or ())
    if choices and field.type != float | str:
        return f" [{choices}]"
    limits = [f"{text} {field.metadata[key]}" for key, text in LIMITS.items()
              if field.metadata[key] is not None]
    if choices:
        limits.append(f"or {choices}")
    return f" ({', '.join(limits)})" if limits else ""


def to_flag_lines(config):
    """Returns every setting as --name=value, with absolute paths, for --flagfile."""
    return [f"--{name}={text}" for name, text in _flag_texts(config).items()]


def flag_file(config):
    """Returns the text of flags.txt: every setting, after comments on where values come from."""
    comments = [f"{label} {' '.join(f'--{name}' for name in sorted(names or ())) or 'none'}"
                for label, names in ((EXPLICIT_COMMENT, config.explicit),
                                     (RECIPE_COMMENT, config.from_recipe))]
    return "\n".join([*comments, *to_flag_lines(config), ""])


def commented_flags(text, comment):
    """Returns the names of the flags that a comment of flags.txt lists, sorted.

    Args:
      text: str, the content of flags.txt.
      comment: EXPLICIT_COMMENT or RECIPE_COMMENT.
    """
    for line in text.splitlines():
        if line.startswith(comment):
            words = line.removeprefix(comment).split()
            return sorted(word.removeprefix("--") for word in words if word.startswith("--"))
    return []


def identity_lines(config):
    """Returns the settings that change a run's results, as --name=value with absolute paths.

    Those in CONTENT_PATHS are left out.
    """
    fields = setting_fields(config)
    return [f"--{name}={text}" for name, text in _flag_texts(config).items()
            if fields[name].metadata["changes_results"] and name not in CONTENT_PATHS]


def differing(recorded, config):
    """Returns how two Configs differ: ["--seed=0 there, --seed=1 here", ...].

    Settings that do not change the results are left out. Paths are compared as absolute paths.

    Args:
      recorded: the Config whose values are marked with "there".
      config: the Config whose values are marked with "here".
    """
    pairs = zip(identity_lines(recorded), identity_lines(config))
    return [f"{old} there, {new} here" for old, new in pairs if old != new]


def _flag_texts(config):
    """Returns {name: value as text}, with absolute paths."""
    return {name: map_path(field, format_value(getattr(config, name)), _absolute)
            for name, field in setting_fields(config).items()}


def _absolute(path):
    return pathlib.Path(path).resolve()
