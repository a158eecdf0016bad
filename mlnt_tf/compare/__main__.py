"""python -m mlnt_tf.compare: trains methods x noises x rates x seeds, and compares them.

Each run in a process of its own, and one line when it ends; table, figures and index.html when all have.
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

POLL = 0.1  # seconds


def start(cell, environment):
    """Starts the training of a cell; its output goes on at the end of the log."""
    command = [sys.executable, "-m", "mlnt_tf.train", *cell.arguments]
    with open(cell.log, "a", encoding="utf-8") as log:
        print("$", shlex.join(["python", *command[1:]]), file=log, flush=True)
        # A session of its own: Ctrl-C comes to us alone, and we end it as SIGTERM does, after the step.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                env=environment, start_new_session=True)


def shared_cores(jobs):
    """The environment of a run of which `jobs` go side by side; what is set already stays."""
    environment = dict(os.environ)
    if jobs > 1:
        threads = str(max(1, len(os.sched_getaffinity(0)) // jobs))
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
            environment.setdefault(name, threads)
    return environment


def run_all(cells, *, jobs, start, ended):
    """Runs the cells, `jobs` at a time; whatever ends this call ends the runs too.

    Args:
      start: cell → its process (poll, terminate and wait of a subprocess.Popen).
      ended: called with a cell and its exit code.
    """
    waiting, running = collections.deque(cells), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append((waiting[0], start(waiting.popleft())))
            for cell, process in list(running):
                if process.poll() is not None:
                    running.remove((cell, process))
                    ended(cell, process.returncode)
            time.sleep(POLL)
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def run(cells, output_dir, *, jobs, start):
    """Runs what is not finished, a line for each; raises UserError where nothing can be written."""
    try:
        for cell in cells:
            cell.directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written ({error.filename}: {error.strerror}): name "
                        "another directory.") from error
    number = itertools.count(1)

    def tell(outcome, when=""):
        said = f"failed: {outcome.failure}" if outcome.results is None else (
            "best {best_accuracy:.1%}, last {last_accuracy:.1%}, {seconds:.0f} s".format(**outcome.results) + when)
        print(f"[{next(number)} of {len(cells)}]  {outcome.name}:  {said}", flush=True)

    def ended(cell, code):
        if code < 0:
            with open(cell.log, "a", encoding="utf-8") as log:
                print(f"ended by {signal.Signals(-code).name}", file=log)
        tell(cell.outcome())

    with lock.hold_lock(output_dir):
        unfinished = []
        for cell in cells:
            outcome = cell.outcome()
            if outcome.results is None:
                unfinished.append(cell)
            else:
                tell(outcome, " (finished before)")
        if unfinished:
            note_machine(output_dir, jobs)
        environment = shared_cores(jobs)
        run_all(unfinished, jobs=jobs, start=lambda cell: start(cell, environment), ended=ended)


def note_machine(output_dir, jobs):
    """Keeps which machines trained, for the page."""
    here = report.describe_machine()
    line = f"{here['processor']}, {here['cores']} cores, {here['system']}, --jobs={jobs}"
    known = machines(output_dir)
    if line not in known:
        atomic.write_json(output_dir / "machines.json", [*known, line])


def machines(output_dir):
    path = output_dir / "machines.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # none yet, or damaged
        return []


def main(argv=None, *, start=start):
    """Runs the grid; the exit code: 0 every run is finished, 1 some are not, 2 a mistake of the user's, 130
    interrupted, 143 terminated."""
    argv = sys.argv if argv is None else argv
    signal.signal(signal.SIGTERM, cli.terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # the terminal is closed; under nohup it is ignored
        signal.signal(signal.SIGHUP, cli.terminate)
    try:
        mlnt_tf.check_keras_backend()
        options, passed_on = grid.parse(argv)
        cells, output_dir = grid.cells(options, passed_on), pathlib.Path(options.output_dir)
        if not options.report_only:
            run(cells, output_dir, jobs=options.jobs, start=start)
        elif not output_dir.is_dir():
            raise UserError(f"--output_dir={output_dir} is not there: leave out --report_only to run the grid.")
        outcomes = [cell.outcome() for cell in cells]
        command = [argument for argument in argv[1:] if argument != "--report_only"]
        summary.write(output_dir, outcomes, command=shlex.join(["python", "-m", "mlnt_tf.compare", *command]),
                      machines=machines(output_dir))
    except UserError as error:
        print(f"mlnt_tf: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mlnt_tf: stopped by {error}; once that is mended, the same command goes on.", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Terminated) as error:
        how, code = ("terminated", error.code) if isinstance(error, Terminated) else ("interrupted", 130)
        print(f"mlnt_tf: {how}; the same command goes on, with --report_only it tells what is finished.",
              file=sys.stderr)
        return code
    print(f"\n{report.align_columns([summary.COLUMNS, *map(summary.cells, summary.table_rows(outcomes))])}\n\n"
          f"In {output_dir}: index.html, table.md, table.csv, the figures, and every run with its log.")
    return 0 if all(outcome.results for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
