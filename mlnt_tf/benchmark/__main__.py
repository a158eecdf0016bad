"""python -m mlnt_tf.benchmark step|input|neighbors|startup|all: tables a person can read, and JSON.

Each row is measured in a process of its own, one after another.
"""

import argparse
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

DEFAULTS = dict(model="preact_resnet32", width="32", image_size="32", batch_size="128", num_synthetic="0,1,4,10",
                precision="auto", meta_order="first", fast_weights="all", jit_compile="auto",
                synthetic_parallelism="1", meta_every="1")
LISTS = tuple(DEFAULTS)


def parse(argv):
    """The command line: a namespace.

    Raises:
      UserError
    """
    parser = Parser(prog="python -m mlnt_tf.benchmark", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("what", choices=(*MEASURES, "all"))
    for name in LISTS:
        parser.add_argument(f"--{name}", default=DEFAULTS[name],
                            help="of step, input and startup: a value, or some with commas between")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps, of which the median is told")
    parser.add_argument("--points", default="10000,100000,1000000", help="of neighbors: how many features")
    parser.add_argument("--features", type=int, default=512, help="of neighbors: their dimension")
    parser.add_argument("--json", default="", help="write the rows to this file too")
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.features < 1:
        raise UserError(f"--repeats={options.repeats}, --features={options.features}: both must be at least 1.")
    if options.image_size != DEFAULTS["image_size"] and options.what in ("input", "all"):
        raise UserError(f"--image_size={options.image_size}: input is measured on CIFAR-10's {DEFAULTS['image_size']} "
                        "pixels; leave it out.")
    if options.json and not pathlib.Path(options.json).resolve().parent.is_dir():
        raise UserError(f"--json={options.json}: there is no such directory; make it first.")
    return options


def configs(options):
    """Every combination of the lists, as a Config each.

    Raises:
      UserError
    """
    lists = {name: getattr(options, name).split(",") for name in LISTS}
    for name, values in lists.items():
        if type(getattr(Config, name)) is int:
            try:
                lists[name] = [int(value) for value in values]
            except ValueError as error:
                raise UserError(f"--{name}={','.join(values)} must be whole numbers, commas between.") from error
    if 0 in lists["image_size"]:
        raise UserError(f"--image_size={options.image_size}: each must be at least 1.")
    return [Config(**dict(zip(LISTS, values))) for values in itertools.product(*lists.values())]


def alone(function, *args, **kwargs):
    """Calls a function of a module in a process of its own, so that its peak of memory is its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def print_table(headings, rows):
    table = [headings, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    print(flush=True)


def steps(options):
    from mlnt_tf.benchmark import step
    from mlnt_tf.benchmark.step import resolved

    rows = []
    for config in configs(options):
        rows.append(alone(step.measure, resolved(config), repeats=options.repeats))
        print(f"  {len(rows)} measured: {rows[-1]['ms_per_step']:.1f} ms", file=sys.stderr, flush=True)
    print_table(step.HEADINGS, map(step.cells, rows))
    return rows


def startups(options):
    from mlnt_tf.benchmark import step
    from mlnt_tf.benchmark.step import resolved

    rows = [alone(step.start, resolved(config), launched=time.time()) for config in configs(options)]
    names = ("network", "width", "image_size", "batch_size", "num_synthetic", "precision", "import_seconds",
             "first_step_seconds", "seconds")
    print_table(names, [[f"{row[name]:.1f}" if name.endswith("seconds") else row[name] for name in names]
                        for row in rows])
    return rows


def inputs(options):
    from mlnt_tf.benchmark import feed
    from mlnt_tf.benchmark.step import resolved

    rows, steps = [], []
    for batch_size in sorted({config.batch_size for config in configs(options)}):
        print(f"two streams, batches of {batch_size}:")
        rates = alone(feed.measure, batch_size, repeats=options.repeats)
        print_table(feed.HEADINGS, map(feed.cells, rates))
        rows += rates
        steps += [alone(feed.measure_step, resolved(config), rates, repeats=options.repeats)
                  for config in configs(options) if config.batch_size == batch_size]
    print_table(feed.STEP_HEADINGS, map(feed.step_cells, steps))
    return rows + steps


def searches(options):
    from mlnt_tf.benchmark import search

    try:
        counts = [int(count) for count in options.points.split(",")]
    except ValueError as error:
        raise UserError(f"--points={options.points} must be whole numbers, commas between.") from error
    if min(counts) <= search.NUM_NEIGHBORS:
        raise UserError(f"--points={options.points}: each must be above {search.NUM_NEIGHBORS}.")
    rows = [alone(search.measure, count, options.features) for count in counts]
    print_table(search.HEADINGS, map(search.cells, rows))
    return rows


def main(argv=None):
    try:
        check_keras_backend()
        options = parse(argv)
        rows = []
        for name, measure in MEASURES.items():
            if options.what in (name, "all"):
                print(f"{name}:", flush=True)
                rows += [{"measure": name, **row} for row in measure(options)]
    except UserError as error:
        print(f"mlnt_tf.benchmark: {error}", file=sys.stderr)
        return 2
    if options.json:
        document = {"rows": rows, "machine": host.describe_machine(), "versions": host.versions()}
        pathlib.Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    return 0


MEASURES = {"step": steps, "input": inputs, "neighbors": searches, "startup": startups}

if __name__ == "__main__":
    sys.exit(main())
