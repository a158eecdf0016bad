"""python -m mlnt_tf.compare: trains methods × noises × rates × seeds, and compares them.

Each run is a process, and is reported in one line when it ends. The table, the figures and
index.html are written when all runs have ended.
"""

import collections
import itertools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import mlnt_tf
from mlnt_tf import cli, report
from mlnt_tf.compare import grid, summary
from mlnt_tf.config import Terminated, UserError
from mlnt_tf.files import atomic, lock
from mlnt_tf.hardware import host

POLL_SECONDS = 0.1
THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")

RESUME = "; the same command resumes. With --report_only it summarizes the finished runs."


def start(cell, environment):
    """Starts the training of a cell, and appends its output to the cell's log.

    Args:
      cell: a `grid.Cell`.
      environment: dict of environment variables.

    Returns:
      subprocess.Popen.
    """
    command = [sys.executable, "-m", "mlnt_tf.train", *cell.arguments]
    with open(cell.log, "a", encoding="utf-8") as log:
        print("$", shlex.join(["python", *command[1:]]), file=log, flush=True)
        # In a session of its own the run does not receive Ctrl-C. `run_all` ends it by SIGTERM,
        # which lets it write a checkpoint.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def shared_cores(jobs):
    """Returns the environment of a run, whose threads leave cores to the other runs.

    Variables that are already set keep their values.

    Args:
      jobs: int, the number of simultaneous runs.
    """
    environment = dict(os.environ)
    if jobs > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        for name in THREAD_VARIABLES:
            environment.setdefault(name, str(threads))
    return environment


def run_all(cells, *, jobs, start, on_end):
    """Runs the cells, `jobs` at a time. An exception ends the running processes as well.

    Args:
      cells: list of `grid.Cell`.
      jobs: int.
      start: function of a cell that returns its process, with `poll`, `terminate` and `wait` of
        subprocess.Popen.
      on_end: function of a cell and its exit code, called when it has ended.
    """
    waiting = collections.deque(cells)
    running = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.popleft()
                running.append((cell, start(cell)))
            for cell, process in list(running):
                if process.poll() is not None:
                    running.remove((cell, process))
                    on_end(cell, process.returncode)
            time.sleep(POLL_SECONDS)
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def run(cells, output_dir, *, jobs, start):
    """Runs the cells that have not finished, and prints one line for each cell.

    Args:
      cells: list of `grid.Cell`.
      output_dir: pathlib.Path of the grid.
      jobs: int, the number of simultaneous runs.
      start: function of a cell and an environment that returns its process; see `start`.

    Raises:
      UserError: the directory cannot be written, or another process uses it.
    """
    try:
        for cell in cells:
            cell.directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written ({error.filename}: "
                        f"{error.strerror}). Choose another directory.") from error
    number = itertools.count(1)

    def print_outcome(outcome, note=""):
        print(f"[{next(number)} of {len(cells)}]  {outcome.name}:  {describe(outcome)}{note}",
              flush=True)

    def on_end(cell, code):
        if code < 0:
            with open(cell.log, "a", encoding="utf-8") as log:
                print(f"ended by {signal.Signals(-code).name}", file=log)
        print_outcome(cell.outcome())

    with lock.hold_lock(output_dir):
        unfinished = []
        for cell in cells:
            outcome = cell.outcome()
            if outcome.results is None:
                unfinished.append(cell)
            else:
                print_outcome(outcome, " (finished before)")
        if unfinished:
            record_machine(output_dir, jobs)
        environment = shared_cores(jobs)
        run_all(unfinished, jobs=jobs, start=lambda cell: start(cell, environment), on_end=on_end)


def describe(outcome):
    """Returns the accuracies of a run, or why it failed."""
    if outcome.results is None:
        return f"failed: {outcome.failure}"
    results = outcome.results
    return (f"best {results['best_accuracy']:.1%}, last {results['last_accuracy']:.1%}, "
            f"{results['seconds']:.0f} s")


def record_machine(output_dir, jobs):
    """Adds this machine to machines.json, from which index.html lists the machines that trained."""
    machine = host.describe_machine()
    line = (f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
            f"--jobs={jobs}")
    recorded = read_machines(output_dir)
    if line not in recorded:
        atomic.write_json(output_dir / "machines.json", [*recorded, line])


def read_machines(output_dir):
    """Returns the contents of machines.json, or [] if it does not exist or is damaged."""
    try:
        return json.loads((output_dir / "machines.json").read_text())
    except (FileNotFoundError, ValueError):
        return []


def main(argv=None, *, start=start):
    """Runs the grid.

    Args:
      argv: list of str, the program's name first. None means sys.argv.
      start: see `run`.

    Returns:
      The exit code: 0 if every run has finished, 1 if some have not, 2 after a mistake of the user,
      130 if interrupted and 143 if terminated.
    """
    argv = sys.argv if argv is None else argv
    signal.signal(signal.SIGTERM, cli.terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # Not under nohup, which ignores it.
        signal.signal(signal.SIGHUP, cli.terminate)
    try:
        outcomes, output_dir = compare(argv, start)
    except UserError as error:
        return _end(str(error), 2)
    except OSError as error:
        return _end(f"stopped by {error}. Fix this and run the same command, which resumes.", 1)
    except KeyboardInterrupt:
        return _end(f"interrupted{RESUME}", 130)
    except Terminated as error:
        return _end(f"terminated{RESUME}", error.code)
    table = report.align_columns(
        [summary.COLUMNS, *map(summary.cells, summary.table_rows(outcomes))])
    print(f"\n{table}\n\nResults are in {output_dir}: index.html, table.md, table.csv, the "
          "figures, and every run with its log.")
    return 0 if all(outcome.results for outcome in outcomes) else 1


def compare(argv, start):
    """Runs the grid and writes the comparison. See `main` for the arguments.

    Returns:
      (list of `summary.Outcome`, pathlib.Path of the grid).

    Raises:
      UserError: a flag is wrong, or --output_dir holds runs with other flags.
    """
    mlnt_tf.check_keras_backend()
    options, passed_on = grid.parse(argv)
    cells = grid.cells(options, passed_on)
    output_dir = pathlib.Path(options.output_dir)
    for cell in cells:  # Before anything is written: a page of runs with other flags is kept.
        cell.check_directory()
    if not options.report_only:
        run(cells, output_dir, jobs=options.jobs, start=start)
    elif not output_dir.is_dir():
        raise UserError(f"--output_dir={output_dir} does not exist. Leave out --report_only to run "
                        "the grid.")
    outcomes = [cell.outcome() for cell in cells]
    arguments = [argument for argument in argv[1:] if argument != "--report_only"]
    command = shlex.join(["python", "-m", "mlnt_tf.compare", *arguments])
    summary.write(output_dir, outcomes, command=command, machines=read_machines(output_dir))
    return outcomes, output_dir


def _end(message, code):
    """Prints an error. Returns the exit code."""
    print(f"mlnt_tf: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
