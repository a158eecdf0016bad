"""What all commands share: logging, signals and exit codes.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | stopped by a loss that is not finite, a full disk or the loss of another worker |
| 2 | a mistake of the user |
| 130, 143 | interrupted by Ctrl-C; terminated by SIGTERM |
"""

import logging
import os
import signal
import sys

import absl.flags
import absl.logging

import mlnt_tf
from mlnt_tf.config import DiskError, NonFiniteLoss, Terminated, UserError, WorkerLost


def run_command(command, argv, *, resume=""):
    """Runs a command, and turns its exceptions into one line and an exit code.

    Args:
      command: function of argv that returns an exit code, or None for 0.
      argv: list of str, starting with the program's name. None means sys.argv.
      resume: str, printed after "interrupted" or "terminated", for example how to resume.

    Returns:
      int, the exit code.
    """
    signal.signal(signal.SIGTERM, terminate)
    try:
        mlnt_tf.check_keras_backend()
        return command(sys.argv if argv is None else argv) or 0
    except (UserError, NonFiniteLoss, DiskError, WorkerLost) as error:
        print(f"mlnt_tf: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except Terminated as error:
        print(f"mlnt_tf: terminated{resume}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"mlnt_tf: interrupted{resume}", file=sys.stderr)
        return 130


def terminate(*_):
    """Handles SIGTERM by raising Terminated.

    While a network trains, `Checkpoints.defer_sigterm` defers it to the end of the step.
    """
    raise Terminated


def set_up_logging():
    """Shows the package's log lines without a prefix, and hides those of TensorFlow.

    TensorFlow logs an error for every GPU library that is missing.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl.flags.FLAGS(sys.argv[:1])  # absl buffers its log lines until its flags are parsed.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    absl.logging.use_absl_handler()
    absl.logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    absl.logging.set_verbosity(absl.logging.INFO)
