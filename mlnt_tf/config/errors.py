"""The exceptions that end a run with one line and an exit code."""


class UserError(ValueError):
    """A mistake that the user can fix.

    The message is one line that states the flag or file, the value, the reason and the fix.

    Example:

    ```python
    try:
        mlnt_tf.Config(epochs=-1)
    except mlnt_tf.UserError as error:
        print(error)
    ```
    """


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite. The message names the step and the loss."""


class DiskError(Exception):
    """The output cannot be written, for example because the disk is full."""


class OutOfMemory(Exception):
    """The memory of the host or of a GPU is exhausted."""


class DataLost(Exception):
    """A file of the data can no longer be read."""


class WorkerLost(Exception):
    """Another worker ended before the run was finished."""


class Terminated(SystemExit):
    """The process received SIGTERM.

    Its exit code is 143 (128 + 15), as if the signal had ended it directly.
    """

    def __init__(self):
        super().__init__(143)
