"""The runs of a grid, from the command line, each looked at before the first begins."""

import collections
import dataclasses
import itertools
import os
import pathlib

from mlnt_tf import flags, train
from mlnt_tf.compare import summary
from mlnt_tf.config import METHODS, Config, UserError

OF_THE_DATA = ("dataset", "data_dir", "csv_columns", "class_names", "use_clean_train", "max_bad_images",
               "train_examples", "validation_fraction", "test_fraction", "validation_labels", "image_size", "crop_size",
               "noise_sampling", "symmetric_includes_true", "augment", "model", "width", "pretrained_weights")
OF_THE_GRID = {"method": "methods", "seed": "seeds", "noise": "noises", "noise_rate": "noise_rates"}


@dataclasses.dataclass(frozen=True)
class Cell(summary.Place):
    """A run of the grid, as it is asked for."""

    config: Config
    arguments: tuple  # of mlnt_tf.train

    @property
    def directory(self):
        return pathlib.Path(self.config.output_dir)

    @property
    def log(self):
        return self.directory.with_name(self.directory.name + ".log")

    def outcome(self):
        """What its files say: results, or why there are none."""
        results, failure = None, ""
        try:
            results = train.finished_results(self.directory, self.config)
        except UserError as error:
            failure = f"{error} Of a grid you may also move away that run alone."
        except ValueError as error:
            failure = f"{self.directory}/results.json cannot be read ({error}): remove it and run again."
        lacking = [key for key in summary.KEYS if results is not None and key not in results]
        if lacking:
            failure = (f"{self.directory}/results.json lacks {', '.join(lacking)}, as an earlier version's does: "
                       "move the directory away and run again.")
        if results is None or lacking:
            results, failure = None, failure or self._last_line() or "not run yet"
        return summary.Outcome(self.method, self.noise, self.rate, self.seed, results, failure)

    def _last_line(self):
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip() and not line.startswith("$ ")]
        return f"{said[-1].removeprefix('mlnt_tf: ')[:300]} ({self.log})" if said else ""


def parse(argv):
    """(options of the grid, flags passed on to every run).

    Raises:
      UserError
    """
    parser = flags.Parser(
        prog="python -m mlnt_tf.compare", allow_abbrev=False,
        description="Trains methods x noises x rates x seeds, and compares them.",
        epilog="Every flag of mlnt_tf.train, --flagfile among them, is passed on to every run.")
    parser.add_argument("--methods", default=",".join(METHODS), help="what to compare, commas between (%(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="each method is trained with each of them (%(default)s)")
    parser.add_argument("--noises", default="", help="kinds of noise, as symmetric, or with a rate of its own as "
                        "asymmetric:0.4 (that of the flags)")
    parser.add_argument("--noise_rates", default="", help="rates of symmetric and asymmetric noise (that of the flags)")
    parser.add_argument("--set", action="append", default=[], metavar="METHOD:--FLAG=VALUE",
                        help="a flag for the runs of one method, or METHOD@NOISE:--FLAG=VALUE of those under one "
                        "noise, which wins; --flagfile=FILE for several; repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, which share the cores (%(default)s)")
    parser.add_argument("--output_dir", default="runs/compare", help="where everything goes (%(default)s)")
    parser.add_argument("--report_only", action="store_true", help="train nothing: table and page of what is finished")
    options, passed_on = parser.parse_known_args(argv[1:])
    if options.jobs < 1:
        raise UserError(f"--jobs={options.jobs} is too small: it must be at least 1.")
    if not options.output_dir:
        raise UserError("--output_dir= is empty: name a directory.")
    options.output_dir = os.path.expanduser(options.output_dir)
    return options, passed_on


def cells(options, passed_on):
    """Every run, looked at before the first begins: [Cell].

    Raises:
      UserError: a list with a mistake or a repeated value, or flags that a run would refuse.
    """
    methods, seeds = listed("methods", options.methods), listed("seeds", options.seeds, int)
    noises, rates = listed("noises", options.noises), listed("noise_rates", options.noise_rates, float)
    if not methods or not seeds:
        raise UserError(f"--{'seeds' if methods else 'methods'}= is empty: name one or more, commas between.")
    refuse_flags_of_the_grid(passed_on)
    base = flags.parse(["compare", *passed_on, f"--method={methods[0]}", *(
        f"--noise={with_rate(noise)[0]}" for noise in noises[:1])])
    if rates and not any(map(has_rate, noises or [base.noise])):
        raise UserError(f"--noise_rates={options.noise_rates}: noise {', '.join(noises or [base.noise])} has no rate; "
                        "leave it out, or add symmetric or asymmetric to --noises.")
    found = []
    conditions = [condition for noise in noises or [base.noise] for condition in (
        [(noise, rate) for rate in rates or [base.noise_rate]] if has_rate(noise) else [with_rate(noise)])]
    twice = [names_of(condition)[-1] for condition, count in collections.Counter(conditions).items() if count > 1]
    if twice:
        raise UserError(f"--noises={options.noises}: {', '.join(twice)} is there twice; name each once.")
    own = own_flags(options.set, methods, conditions)
    # Seeds outermost: a grid that is stopped leaves a whole table of fewer seeds.
    for seed, (noise, rate), method in itertools.product(seeds, conditions, methods):
        place = summary.Place(method, noise, rate, seed)
        arguments = (*passed_on, *own[method, noise, rate], f"--method={method}", f"--noise={noise}",
                     *([] if rate is None else [f"--noise_rate={rate}"]), f"--seed={seed}",
                     f"--output_dir={pathlib.Path(options.output_dir) / place.path}")
        try:
            config = flags.parse(["compare", *arguments])
        except UserError as error:
            raise UserError(f"{error} (in the run {place.name})") from error
        if config.resume == "never":
            raise UserError("--resume=never: a grid goes on where it stopped; leave it out, or name another "
                            "--output_dir.")
        found.append(Cell(method, noise, rate, seed, config, arguments))
        for name in OF_THE_DATA:
            here, first = getattr(config, name), getattr(found[0].config, name)
            if here != first:
                raise UserError(f"--{name}={here} for {method}, --{name}={first} for {found[0].method}: methods are "
                                "compared on the same data and network; leave it out of --set and its flag files.")
    if len({cell.directory for cell in found}) < len(found):
        raise UserError(f"--noises={options.noises}: two files of one name would share a directory; rename one.")
    return found


def names_of(condition):
    """symmetric and symmetric:0.5, as --set takes them."""
    noise, rate = condition
    return [noise] if rate is None else [noise, f"{noise}:{rate}"]


def has_rate(noise):
    """Whether --noise_rates are of this noise."""
    return noise in ("symmetric", "asymmetric")


def with_rate(noise):
    """A noise of --noises or --set as (noise, rate of its own or None).

    Raises:
      UserError: the rate is no number.
    """
    kind, colon, rate = noise.partition(":")
    if not colon or not has_rate(kind):
        return noise, None
    try:
        return kind, float(rate)
    except ValueError as error:
        raise UserError(f"{noise} of --noises or --set: the rate {rate!r} is no number; write {kind}:0.4.") from error


def listed(flag, text, kind=str):
    """The values of --flag=one,two,….

    Raises:
      UserError: one is no number where it should be, empty, or there twice.
    """
    try:
        values = [kind(value.strip()) for value in text.split(",")] if text else []
    except ValueError as error:
        numbers = {int: "whole numbers", float: "numbers"}[kind]
        raise UserError(f"--{flag}={text}: these must be {numbers}, commas between.") from error
    if "" in values:
        raise UserError(f"--{flag}={text}: there is nothing between two commas, or at an end.")
    repeated = [str(value) for value, count in collections.Counter(values).items() if count > 1]
    if repeated:
        raise UserError(f"--{flag}={text}: {', '.join(repeated)} is there twice; name each once.")
    return values


def own_flags(settings, methods, conditions):
    """What --set asks for: {(method, noise, rate): [flags]}.

    Raises:
      UserError: neither METHOD:--FLAG=VALUE nor METHOD@NOISE:--FLAG=VALUE, of a method or noise that is not compared, or
        a flag that the grid sets.
    """
    own = {(method, *condition): [] for method, condition in itertools.product(methods, conditions)}
    for setting in sorted(settings, key=lambda setting: "@" in setting.partition(":--")[0]):  # those of one noise win
        place, _, argument = setting.partition(":--")
        its_method, at, its_noise = place.partition("@")
        meant = [arguments for (method, noise, rate), arguments in own.items() if method == its_method and (
            not at or with_rate(its_noise) in ((noise, None), (noise, rate)))]
        if not meant or not argument:
            raise UserError(
                f"--set={setting}: write METHOD:--FLAG=VALUE with one of --methods={','.join(methods)}, or "
                f"METHOD@NOISE:--FLAG=VALUE with one of {', '.join(itertools.chain(*map(names_of, conditions)))}.")
        for arguments in meant:
            arguments.append(f"--{argument}")
    refuse_flags_of_the_grid(itertools.chain(*own.values()))
    return own


def refuse_flags_of_the_grid(arguments):
    """Raises UserError for --seed and its kind, which each run gets from the grid."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in (*OF_THE_GRID, "output_dir"):
            raise UserError(f"{argument} is set by the grid: " + (
                f"write --{OF_THE_GRID[name]}=…" if name in OF_THE_GRID else "every run has a directory of its own."))
