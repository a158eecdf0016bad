"""A full disk: space that is reserved before it is used, and errors that mean there is none."""

import errno
import os

import numpy as np

# Errors of a file system that the user can fix before resuming.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# The file system cannot reserve space, or the system does not have the call.
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
INCOMPLETE = "requested and"  # From NumPy's message for a write that ended early, without an errno.


def create_memory_map(path, shape, dtype):
    """Creates a .npy file with its complete space on disk, and maps it into memory for writing.

    Without the reservation, the file has holes, and writing to one on a full disk ends the process
    with SIGBUS, without a message.

    Args:
      path: str or path.
      shape: tuple of int.
      dtype: NumPy dtype.

    Returns:
      A writable np.memmap. Its content is 0.

    Raises:
      OSError: the disk has no room.
    """
    table = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
    return table


def disk_failure(error):
    """Returns why an exception means that a file cannot be written, a str, or None if it does not.

    TensorFlow and HDF5 raise errors of their own, with the system's reason in their text.

    Args:
      error: an exception.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno in NO_ROOM else None
    text = str(error)
    if isinstance(error, OSError) and INCOMPLETE in text:
        return os.strerror(errno.ENOSPC)
    reasons = (os.strerror(number) for number in NO_ROOM)
    return next((reason for reason in reasons if reason in text), None)
