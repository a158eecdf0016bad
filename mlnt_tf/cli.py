"""What all commands share: logging, signals and exit codes.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | stopped by a loss that is not finite, a full disk, exhausted memory, a lost file or worker |
| 2 | a mistake of the user |
| 130, 143 | interrupted by Ctrl-C; terminated by SIGTERM |
"""

import contextlib
import logging
import os
import signal
import sys

import absl.flags
import absl.logging

import mlnt_tf
from mlnt_tf.config import (
    DataLost, DiskError, NonFiniteLoss, OutOfMemory, Terminated, UserError, WorkerLost)

MAX_PATH = 200  # The longest part of a path that an error shows.


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
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # A stream of a notebook or a test.
            stream.reconfigure(errors="backslashreplace")  # The terminal may not be UTF-8.
    try:
        mlnt_tf.check_keras_backend()
        code = command(sys.argv if argv is None else argv) or 0
        sys.stdout.flush()
        return code
    except (UserError, NonFiniteLoss, DiskError, DataLost, OutOfMemory, WorkerLost) as error:
        print_error(error)
        return 2 if isinstance(error, UserError) else 1
    except Terminated as error:
        print_error(f"terminated{resume}")
        return error.code
    except KeyboardInterrupt:
        print_error(f"interrupted{resume}")
        return 130
    except MemoryError:
        print_error("the memory is exhausted. Use less data, smaller images or a lower "
                    "--batch_size.")
        return 1
    except BrokenPipeError:  # The reader of the output, for example `head`, has seen enough.
        discard_output()
        return 0
    except OSError as error:
        print_error(describe_os_error(error))
        discard_output()
        return 1


def print_error(error):
    """Prints one line on standard error, if it is still open."""
    with contextlib.suppress(OSError):
        print(f"mlnt_tf: {error}", file=sys.stderr, flush=True)


def discard_output():
    """Lets Python end without an error although its standard output cannot be written."""
    with contextlib.suppress(OSError, ValueError):  # A stream without a file descriptor.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def describe_os_error(error):
    """Returns one line for an OSError: the file, if it is known, and the system's reason."""
    reason = error.strerror or " ".join(str(error).split())
    if error.filename is None:
        return f"a file or the output cannot be read or written ({reason})."
    path = os.fsdecode(error.filename)
    shown = path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}…"
    return f"{shown} cannot be used ({reason})."


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
    logging.raiseExceptions = False  # A log on a full disk is no reason for a stack trace.
    absl.flags.FLAGS(sys.argv[:1])  # absl buffers its log lines until its flags are parsed.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    absl.logging.use_absl_handler()
    absl.logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    absl.logging.set_verbosity(absl.logging.INFO)
