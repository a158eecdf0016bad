"""The runs of a grid, from the command line. All are checked before the first one starts."""

import collections
import dataclasses
import itertools
import os
import pathlib

from mlnt_tf.compare import summary
from mlnt_tf.config import (
    TRAINED_METHODS,
    Config,
    DataSettings,
    NetworkSettings,
    Noise,
    NoiseSettings,
    UserError,
    flags,
    setting_fields,
)
from mlnt_tf.experiment import record

# Flags of a run that the grid sets, and the flags of the grid that hold their values.
GRID_FLAGS = {"method": "methods", "seed": "seeds", "noise": "noises", "noise_rate": "noise_rates"}
# Settings that must be equal in all runs of a grid, so that the methods can be compared.
SHARED = tuple(name for section in (DataSettings, NoiseSettings, NetworkSettings)
               for name, field in setting_fields(section).items()
               if field.metadata["changes_results"] and name not in GRID_FLAGS)
NUMBER_NAMES = {int: "whole numbers", float: "numbers"}


@dataclasses.dataclass(frozen=True)
class Cell(summary.GridPoint):
    """One run of the grid.

    Attributes:
      config: its `Config`.
      arguments: tuple of str, its command-line flags.
    """

    config: Config
    arguments: tuple

    @property
    def directory(self):
        return pathlib.Path(self.config.output_dir)

    @property
    def log(self):
        """Path of the file that holds the run's output."""
        return self.directory.with_name(self.directory.name + ".log")

    def check_directory(self):
        """Raises UserError if the directory of the run holds a run with other flags."""
        try:
            record.find_recorded(self.config)
        except UserError as error:
            raise UserError(f"{error} Or move away only this run of the grid.") from error

    def outcome(self):
        """Returns a `summary.Outcome`: the results, or the reason why there are none."""
        results, failure = self._read_results()
        if results is None and not failure:
            failure = self._last_line() or "not run yet"
        return summary.Outcome(self.method, self.noise, self.rate, self.seed, results, failure)

    def _read_results(self):
        """Returns (results or None, the reason why they cannot be used or "")."""
        path = self.directory / "results.json"
        try:
            results = record.finished_results(self.config)
        except UserError as error:
            return None, str(error)
        missing = [key for key in summary.KEYS if results is not None and key not in results]
        if missing:
            return None, (f"{path} lacks {', '.join(missing)}, like that of an earlier version. "
                          "Move the directory away and run the command again.")
        return results, ""

    def _last_line(self):
        """Returns the last line of the run's log, which states why the run failed."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        lines = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
        if not lines:
            return ""
        return f"{lines[-1].removeprefix('mlnt_tf: ')[:300]} ({self.log})"


def parse(argv):
    """Parses the command line of the grid.

    Returns:
      (namespace of the grid's options, list of the flags that are passed on to every run).

    Raises:
      UserError: an option has an invalid value.
    """
    parser = flags.Parser(
        "compare", "Trains every combination of methods, noises, rates and seeds, and compares the "
        "results.",
        examples=("--methods=mlnt,cross_entropy,elr --seeds=0,1,2 --output_dir=runs/compare",
                  "--noises=symmetric,asymmetric --noise_rates=0.3,0.5 --epochs=20",
                  "--set=elr@asymmetric:--elr_lambda=1 --report_only"),
        note="Every flag of mlnt_tf.train, including --flagfile, is passed on to every run.")
    parser.add_argument("--methods", default=",".join(TRAINED_METHODS),
                        help="comma-separated methods to compare (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2",
                        help="comma-separated seeds of each method (default: %(default)s)")
    parser.add_argument("--noises", default="",
                        help="comma-separated kinds of noise, such as symmetric, or with a rate, "
                        "such as asymmetric:0.4 (default: --noise of the runs)")
    parser.add_argument("--noise_rates", default="",
                        help="comma-separated rates of symmetric and asymmetric noise (default: "
                        "--noise_rate of the runs)")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD:--FLAG=VALUE",
                        help="a flag for the runs of one method. METHOD@NOISE:--FLAG=VALUE applies "
                        "to one noise only, and takes precedence. --flagfile=FILE sets several "
                        "flags. Repeatable.")
    parser.add_argument("--jobs", type=int, default=1,
                        help="number of simultaneous runs, which share the cores (default: "
                        "%(default)s)")
    parser.add_argument("--output_dir", default="runs/compare",
                        help="directory of the runs and the comparison (default: %(default)s)")
    parser.add_argument("--report_only", action="store_true",
                        help="do not train; write the comparison of the finished runs")
    options, passed_on = parser.parse_known_args(argv[1:])
    if options.jobs < 1:
        raise UserError(f"--jobs={options.jobs} is too small. It must be at least 1.")
    if not options.output_dir:
        raise UserError("--output_dir= is empty. Name a directory.")
    options.output_dir = os.path.expanduser(options.output_dir)
    return options, passed_on


def cells(options, passed_on):
    """Returns the list of all runs. Each one's flags are checked.

    Args:
      options, passed_on: see `parse`.

    Returns:
      list of `Cell`.

    Raises:
      UserError: a list contains a mistake or a repeated value, or a run would be refused.
    """
    methods = parse_list("methods", options.methods)
    seeds = parse_list("seeds", options.seeds, int)
    for name, values in (("methods", methods), ("seeds", seeds)):
        if not values:
            raise UserError(f"--{name}= is empty. Name at least one.")
    refuse_grid_flags(passed_on)
    conditions = noise_conditions(options, passed_on, methods[0])
    own = own_flags(options.set, methods, conditions)
    runs = []
    # Seeds are outermost, so that an interrupted grid leaves a complete table of fewer seeds.
    for seed, condition, method in itertools.product(seeds, conditions, methods):
        arguments = (*passed_on, *own[method, *condition])
        runs.append(new_cell(method, *condition, seed, arguments, options.output_dir))
        check_shared(runs[0], runs[-1])
    if len({cell.directory for cell in runs}) < len(runs):
        raise UserError(f"--noises={options.noises}: two files with the same name would share a "
                        "directory. Rename one.")
    return runs


def new_cell(method, noise, rate, seed, arguments, output_dir):
    """Returns the `Cell` of one run. Raises UserError if the run would be refused."""
    point = summary.GridPoint(method, noise, rate, seed)
    # A recipe may choose among all stages, but each method is compared by its own network.
    arguments = ["--select=best", *arguments, f"--method={method}", f"--noise={noise}",
                 f"--seed={seed}", f"--output_dir={pathlib.Path(output_dir) / point.path}"]
    if rate is not None:
        arguments.append(f"--noise_rate={rate}")
    try:
        config = flags.parse(["compare", *arguments])
    except UserError as error:
        raise UserError(f"{error} (in the run {point.name})") from error
    if config.resume == "never":
        raise UserError("--resume=never: a grid always resumes its runs. Leave it out, or name "
                        "another --output_dir.")
    return Cell(method, noise, rate, seed, config, tuple(arguments))


def check_shared(first, cell):
    """Raises UserError if two cells differ in their data or network."""
    for name in SHARED:
        expected, value = getattr(first.config, name), getattr(cell.config, name)
        if value != expected:
            raise UserError(f"--{name}={value} for {cell.method}, but --{name}={expected} for "
                            f"{first.method}. Methods are compared on the same data and network. "
                            "Remove it from --set and its flag files.")


def noise_conditions(options, passed_on, method):
    """Returns the list of (noise, rate) of the grid. The rate is None if the noise has none.

    Raises:
      UserError: a condition is invalid or repeated, or no noise has a rate for --noise_rates.
    """
    noises = parse_list("noises", options.noises)
    rates = parse_list("noise_rates", options.noise_rates, float)
    first_noise = [f"--noise={split_rate(noise)[0]}" for noise in noises[:1]]
    base = flags.parse(["compare", *passed_on, f"--method={method}", *first_noise])
    conditions, rates_are_used = [], False
    for noise in noises or [base.noise]:
        kind, rate = split_rate(noise)
        if rate is None and dataclasses.replace(base, noise=kind).noise_source.has_rate:
            conditions += [(kind, each) for each in rates or [base.noise_rate]]
            rates_are_used = True
        else:
            conditions.append((kind, rate))
    if rates and not rates_are_used:
        raise UserError(f"--noise_rates={options.noise_rates}: noise "
                        f"{', '.join(noises or [base.noise])} has no rate, or has one already. "
                        "Leave it out, or add symmetric or asymmetric to --noises.")
    repeated = find_repeated(condition_names(condition)[-1] for condition in conditions)
    if repeated:
        raise UserError(f"--noises={options.noises} names {', '.join(repeated)} twice. Name each "
                        "once.")
    return conditions


def condition_names(condition):
    """Returns the names by which --set may refer to a condition: symmetric and symmetric:0.5."""
    noise, rate = condition
    return [noise] if rate is None else [noise, f"{noise}:{rate}"]


def split_rate(text):
    """Splits a noise of --noises or --set, such as symmetric:0.4, into (noise, rate or None).

    Raises:
      UserError: the rate is not a number.
    """
    kind, colon, rate = text.partition(":")
    if not colon or not Noise(kind).has_rate:
        return text, None
    try:
        return kind, float(rate)
    except ValueError as error:
        raise UserError(f"{text} of --noises or --set: the rate {rate!r} is not a number. Write "
                        f"{kind}:0.4.") from error


def parse_list(flag, text, kind=str):
    """Parses the values of --flag=one,two.

    Raises:
      UserError: a value is empty, repeated, or not a number although it should be one.
    """
    if not text:
        return []
    try:
        values = [kind(value.strip()) for value in text.split(",")]
    except ValueError as error:
        raise UserError(f"--{flag}={text} must be {NUMBER_NAMES[kind]}, separated by "
                        "commas.") from error
    if "" in values:
        raise UserError(f"--{flag}={text} has an empty value. Remove the extra comma.")
    repeated = find_repeated(values)
    if repeated:
        raise UserError(f"--{flag}={text} names {', '.join(repeated)} twice. Name each once.")
    return values


def find_repeated(values):
    """Returns the values that occur more than once, as text."""
    return [str(value) for value, count in collections.Counter(values).items() if count > 1]


def own_flags(settings, methods, conditions):
    """Returns the flags of --set by run: {(method, noise, rate): list of flags}.

    Flags for one noise come last, so that they take precedence.

    Raises:
      UserError: a value has neither the form METHOD:--FLAG=VALUE nor METHOD@NOISE:--FLAG=VALUE,
        names a method or noise that is not compared, or names a flag that the grid sets.
    """
    own = {(method, *condition): [] for method in methods for condition in conditions}
    for setting in sorted(settings, key=lambda setting: "@" in setting.partition(":--")[0]):
        condition, _, argument = setting.partition(":--")
        matching = [run for run in own if matches(condition, *run)]
        if not matching or not argument:
            names = itertools.chain(*map(condition_names, conditions))
            raise UserError(
                f"--set={setting} matches no run. Write METHOD:--FLAG=VALUE with one of "
                f"--methods={','.join(methods)}, or METHOD@NOISE:--FLAG=VALUE with one of "
                f"{', '.join(names)}.")
        for run in matching:
            own[run].append(f"--{argument}")
    refuse_grid_flags(itertools.chain(*own.values()))
    return own


def matches(condition, method, noise, rate):
    """Returns whether METHOD or METHOD@NOISE of --set refers to a run."""
    set_method, at, set_noise = condition.partition("@")
    if set_method != method:
        return False
    return not at or split_rate(set_noise) in ((noise, None), (noise, rate))


def refuse_grid_flags(arguments):
    """Raises UserError for --seed and the other flags that the grid sets for each run."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-"):
            continue
        if name in GRID_FLAGS:
            raise UserError(f"{argument} is set by the grid. Write --{GRID_FLAGS[name]}=… "
                            "instead.")
        if name == "output_dir":
            raise UserError(f"{argument} is set by the grid: every run has its own directory. "
                            "Leave it out.")
