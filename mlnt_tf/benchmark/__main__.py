"""Measures training steps, the input pipeline, the neighbor search and the start of a process.

Prints tables, and writes a JSON file with --json. Rows are measured one after another, each in its
own process. Example: python -m mlnt_tf.benchmark step --num_synthetic=0,10
"""

import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from mlnt_tf import check_keras_backend
from mlnt_tf.config import Config, UserError
from mlnt_tf.config.flags import Parser
from mlnt_tf.hardware import host

# Settings that take a list of values.
DEFAULTS = dict(model="preact_resnet32", width="32", image_size="32", batch_size="128",
                num_synthetic="0,1,4,10", precision="auto", meta_order="first",
                fast_weights="all", jit_compile="auto", synthetic_parallelism="1", meta_every="1")


def parse(argv):
    """Returns the options of a command line: argparse.Namespace.

    Args:
      argv: list of str without the program's name, or None for that of the process.

    Raises:
      UserError: a flag is unknown or has a bad value.
    """
    parser = Parser(
        "benchmark", "Measures the training step, the input pipeline, the neighbor search or the "
        "start-up. Each row is measured in its own process.",
        examples=("step --model=preact_resnet32 --width=32 --num_synthetic=0,1,4,10",
                  "input --num_synthetic=0,10", "neighbors --points=10000,100000",
                  "startup --num_synthetic=10 --json=startup.json"))
    parser.add_argument("benchmark", choices=(*BENCHMARKS, "all"), help="benchmark to run")
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", default=default,
                            help="step, input, startup: comma-separated values; every combination "
                                 "is a row")
    parser.add_argument("--repeats", type=int, default=5,
                        help="step, input: number of timed repeats; the median is reported")
    parser.add_argument("--points", default="10000,100000,1000000",
                        help="neighbors: comma-separated numbers of points")
    parser.add_argument("--features", type=int, default=512,
                        help="neighbors: number of features of a point")
    parser.add_argument("--json", default="", help="path of a JSON file for the rows")
    options = parser.parse_args(argv)
    for name in ("repeats", "features"):
        value = getattr(options, name)
        if value < 1:
            raise UserError(f"--{name}={value} must be at least 1. Raise --{name}.")
    measures_input = options.benchmark in ("input", "all")
    if measures_input and options.image_size != DEFAULTS["image_size"]:
        raise UserError(f"--image_size={options.image_size} cannot be combined with the input "
                        f"benchmark, whose images have {DEFAULTS['image_size']} pixels like "
                        "CIFAR-10's. Omit --image_size.")
    if options.json and not pathlib.Path(options.json).resolve().parent.is_dir():
        raise UserError(f"--json={options.json} is in a directory that does not exist. Create it "
                        "first.")
    return options


def configs(options):
    """Returns a Config for every combination of the listed settings: list.

    Raises:
      UserError: a value is not allowed.
    """
    lists = {name: getattr(options, name).split(",") for name in DEFAULTS}
    for name, values in lists.items():
        if type(getattr(Config, name)) is int:
            lists[name] = integers(name, ",".join(values))
    if 0 in lists["image_size"]:
        raise UserError(f"--image_size={options.image_size} must contain values of at least 1. "
                        "Remove the 0.")
    combinations = itertools.product(*lists.values())
    return [Config(**dict(zip(lists, values))) for values in combinations]


def integers(flag, text):
    """Returns the integers in a comma-separated list.

    Raises:
      UserError: an item is not an integer.
    """
    try:
        return [int(value) for value in text.split(",")]
    except ValueError as error:
        raise UserError(f"--{flag}={text} is not a comma-separated list of integers. "
                        "Example: 1,2,4.") from error


def run_in_process(function, *args, **kwargs):
    """Calls a module's function in a new process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def print_table(headings, rows):
    """Prints rows of values in right-aligned columns."""
    table = [headings, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    print(flush=True)


def measure_steps(options):
    """Prints the table of training steps and returns its rows."""
    from mlnt_tf.benchmark import step

    rows = []
    for config in configs(options):
        row = run_in_process(step.measure, step.resolved(config), repeats=options.repeats)
        rows.append(row)
        print(f"row {len(rows)}: {row['ms_per_step']:.1f} ms per step", file=sys.stderr,
              flush=True)
    print_table(step.HEADINGS, map(step.cells, rows))
    return rows


def measure_startups(options):
    """Prints the table of process starts and returns its rows."""
    from mlnt_tf.benchmark import step

    rows = [run_in_process(step.start, step.resolved(config), launched=time.time())
            for config in configs(options)]
    settings = ("network", "width", "image_size", "batch_size", "num_synthetic", "precision")
    times = ("import_seconds", "first_step_seconds", "seconds")
    cells = [[row[name] for name in settings] + [f"{row[name]:.1f}" for name in times]
             for row in rows]
    print_table(settings + times, cells)
    return rows


def measure_inputs(options):
    """Prints the tables of the input pipeline and of its steps, and returns their rows."""
    from mlnt_tf.benchmark import input_pipeline, step

    input_rows = []
    step_rows = []
    for batch_size in sorted({config.batch_size for config in configs(options)}):
        print(f"two streams, batch size {batch_size}:")
        rows = run_in_process(input_pipeline.measure, batch_size, repeats=options.repeats)
        print_table(input_pipeline.HEADINGS, map(input_pipeline.cells, rows))
        input_rows += rows
        for config in configs(options):
            if config.batch_size == batch_size:
                step_rows.append(run_in_process(
                    input_pipeline.measure_step, step.resolved(config), rows,
                    repeats=options.repeats))
    print_table(input_pipeline.STEP_HEADINGS, map(input_pipeline.step_cells, step_rows))
    return input_rows + step_rows


def measure_searches(options):
    """Prints the table of neighbor searches and returns its rows."""
    from mlnt_tf.benchmark import search

    counts = integers("points", options.points)
    if min(counts) <= search.NUM_NEIGHBORS:
        raise UserError(f"--points={options.points} must contain values above "
                        f"{search.NUM_NEIGHBORS}, the number of neighbors. Raise --points.")
    rows = [run_in_process(search.measure, count, options.features) for count in counts]
    print_table(search.HEADINGS, map(search.cells, rows))
    return rows


def main(argv=None):
    """Runs the benchmarks of a command line and returns the exit code."""
    try:
        check_keras_backend()
        options = parse(argv)
        rows = []
        for name, measure in BENCHMARKS.items():
            if options.benchmark in (name, "all"):
                print(f"{name}:", flush=True)
                rows += [{"measure": name, **row} for row in measure(options)]
    except UserError as error:
        print(f"mlnt_tf: {error}", file=sys.stderr)
        return 2
    if options.json:
        document = {"rows": rows, "machine": host.describe_machine(), "versions": host.versions()}
        pathlib.Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    return 0


BENCHMARKS = {"step": measure_steps, "input": measure_inputs, "neighbors": measure_searches,
              "startup": measure_startups}

if __name__ == "__main__":
    sys.exit(main())
