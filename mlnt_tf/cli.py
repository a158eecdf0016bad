"""What every command shares: logging, signals, and exit codes.

Exit codes: 0 done; 1 stopped by a loss that is not finite, a full disk or the loss of another worker; 2 a user's mistake;
130 interrupted; 143 terminated.
"""

import logging as stdlib_logging
import os
import signal
import sys

import absl.flags
from absl import logging

import mlnt_tf
from mlnt_tf.config import DiskError, NonFiniteLoss, Terminated, UserError, WorkerLost


def run_command(command, argv, *, name="mlnt_tf", resume=""):
    """Runs a command and turns what it raises into one line and an exit code.

    Args:
      command: function of argv that returns an exit code, or None for 0.
      argv: list of str, the program's name first; None means sys.argv.
      name: str, begins the line of an error.
      resume: str, what an interrupted user can do next.

    Returns:
      int, the exit code.
    """
    signal.signal(signal.SIGTERM, terminate)
    try:
        mlnt_tf.check_keras_backend()
        return command(sys.argv if argv is None else argv) or 0
    except (UserError, NonFiniteLoss, DiskError, WorkerLost) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except Terminated as error:
        print(f"{name}: terminated{resume}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"{name}: interrupted{resume}", file=sys.stderr)
        return 130


def terminate(*_):
    """Handles SIGTERM. While a network trains, `checkpoints.Checkpoints.watching` waits for the end of the step."""
    raise Terminated


def set_up_logging():
    """Shows this package's log lines without a prefix, and none of TensorFlow's own (an error per missing GPU library)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl.flags.FLAGS(sys.argv[:1])  # absl's logging waits for parsed flags
    stdlib_logging.getLogger("tensorflow").setLevel(stdlib_logging.ERROR)
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(stdlib_logging.Formatter("%(message)s"))
    logging.set_verbosity(logging.INFO)
