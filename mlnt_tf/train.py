"""python -m mlnt_tf.train: trains as the flags say, and leaves a SavedModel, tables and logs in --output_dir."""

import contextlib
import errno
import json
import logging as stdlib_logging
import os
import pathlib
import signal
import sys

import absl.flags
from absl import logging

import mlnt_tf
from mlnt_tf import files, report
from mlnt_tf.config import NonFiniteLoss, Terminated, UserError, flags, unread_flags

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def main(argv=None):
    """Runs; the exit code: 0 done, 1 stopped by a loss that is not finite, a full disk or the loss of another worker,
    2 a mistake of the user's, 130 interrupted, 143 terminated."""
    quiet_but_for_progress()
    signal.signal(signal.SIGTERM, terminate)
    try:
        mlnt_tf.check_keras_backend()
        config = flags.parse(sys.argv if argv is None else argv)
        output_dir = pathlib.Path(config.output_dir)
        results = finished_results(output_dir, config)
        if results is None:
            results = train(config, output_dir)
        else:
            print(f"{output_dir} holds this very run, finished: nothing to train.")
    except (UserError, NonFiniteLoss, DiskError, WorkerLost) as error:
        print(f"mlnt_tf: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except (KeyboardInterrupt, Terminated) as error:
        how, code = ("terminated", error.code) if isinstance(error, Terminated) else ("interrupted", 130)
        print(f"mlnt_tf: {how}; the same command goes on from the last checkpoint.", file=sys.stderr)
        return code
    if results is not None:
        print(report.format_table(results))
        print(where_everything_lies(output_dir))
    return 0


class WorkerLost(Exception):
    """Another worker has ended before its time."""


class DiskError(Exception):
    """The output cannot be written."""


def terminate(*_):
    """On SIGTERM; while a network trains, the end of the step is waited for (`checkpoints.Checkpoints.watching`)."""
    raise Terminated


def quiet_but_for_progress():
    """Our lines without a prefix; TensorFlow's own chatter (an error for each missing GPU library) not at all."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl.flags.FLAGS(sys.argv[:1])  # absl's logging waits for it
    stdlib_logging.getLogger("tensorflow").setLevel(stdlib_logging.ERROR)
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(stdlib_logging.Formatter("%(message)s"))
    logging.set_verbosity(logging.INFO)


def finished_results(output_dir, config):
    """The results of this very run if it is finished there, None if it has yet to run or to go on.

    Raises:
      UserError: the directory holds another run, or something else.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output_dir={output_dir} is a file: name a directory.")
    flagfile = output_dir / "flags.txt"
    if not output_dir.exists() or {path.name for path in output_dir.iterdir()} <= {
            files.LOCK, files.SCRATCH + flagfile.name}:  # nothing there, or killed before it began
        return None
    if not flagfile.exists():
        raise UserError(f"--output_dir={output_dir} holds files that are no run of mlnt_tf: name another directory.")
    different = flags.differing(config, flagfile)
    if different:
        raise UserError(f"--output_dir={output_dir} holds another run ({'; '.join(different)}): name another directory.")
    if config.resume == "never":
        raise UserError(f"--output_dir={output_dir} holds this run already and --resume=never: name another directory, "
                        "or take --resume=auto.")
    results = output_dir / "results.json"
    return json.loads(results.read_text()) if results.exists() else None


def train(config, output_dir):
    """Checks what can be checked, then trains; the results, or None on a worker that is not the chief.

    Raises:
      UserError, NonFiniteLoss, DiskError, WorkerLost
    """
    # TensorFlow loads here, after the flags are known to be right
    from mlnt_tf import devices as hardware, examples, iterate, runtime

    devices = hardware.pick(config)
    if not devices.is_chief:
        logging.set_verbosity(logging.WARNING)  # the chief tells
    for flag in unread_flags(config):
        logging.warning("%s has no effect on training with --method=%s.", flag, config.method)
    jit_compile = runtime.prepare(config, replicas=devices.replicas)
    loaded = examples.load_examples(config)
    with devices.scope():
        iterate.check_network(config, loaded)
    with contextlib.ExitStack() as held:
        try:
            if devices.is_chief:
                output_dir.mkdir(parents=True, exist_ok=True)
                held.enter_context(files.locked(output_dir))
                files.write_text(output_dir / "flags.txt", "\n".join(flags.to_flag_lines(config)) + "\n")
        except OSError as error:
            raise UserError(f"--output_dir={output_dir} cannot be written ({error.strerror}): name another directory.")
        try:
            directory = held.enter_context(devices.directory(output_dir))
            results = iterate.run(config, jit_compile=jit_compile, devices=devices, examples=loaded,
                                  output_dir=directory, versions=runtime.versions())
            return results if devices.is_chief else None
        except NonFiniteLoss as error:
            raise NonFiniteLoss(
                f"{error}: the run stopped; what was saved before it lies in {output_dir}. "
                "Lower --learning_rate, --meta_rate or --inner_rate, and name another --output_dir.")
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DiskError(f"{output_dir} cannot be written ({os.strerror(error.errno)}): what was written before is "
                            "whole; make room, and the same command goes on from the last checkpoint.") from error
        except Exception as error:
            lost = hardware.lost_worker(error, devices)
            if not lost:
                raise
            raise WorkerLost(f"{lost} is gone, so worker {devices.worker} stops: the same command on every worker goes "
                             "on from the last checkpoint.") from error


def where_everything_lies(output_dir):
    """The end of a run's output: files, and the commands to look and to serve."""
    model = (output_dir / "saved_model").resolve()
    return f"""
In {output_dir}: results.json, noise.csv (the labels given), suspects.csv (labels most likely wrong first),
the best networks of every stage (*.keras), saved_model/1, flags.txt (to repeat the run).
  look:   tensorboard --logdir {output_dir}
  serve:  docker run -p 8501:8501 -v {model}:/models/mlnt -e MODEL_NAME=mlnt tensorflow/serving"""


if __name__ == "__main__":
    sys.exit(main())
