"""The scan before training: decodes every image file once.

It reports which files are damaged, how large the images are, and which have the same content.
"""

import dataclasses
import math
import os
import stat
import time

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.images.decode import DECODER_VERSION, decode
from mlnt_tf.data.images.header import CUT_OFF, NO_IMAGES, describe_content
from mlnt_tf.data.images.storage import content_digest, without_autotuner
from mlnt_tf.files.cache import cached_scan

LOG_INTERVAL = 15.0  # Seconds between two lines of progress.
MAX_EXAMPLES = 5  # Bad images that an error or a warning names.
# In a small data set, so many bad images are left out, whatever fraction --max_bad_images allows.
HANDFUL, HANDFUL_FRACTION = 5, 0.02
BATCH_SIZE = 16  # Ctrl-C and SIGTERM wait for the end of a batch.


@dataclasses.dataclass(frozen=True)
class ScanResult:
    """What a scan of n image files returns.

    Attributes:
      good: bool [n], whether the file can be decoded.
      sizes: int32 [n, 2], height and width in pixels; 0 if the file cannot be decoded.
      digests: int64 [n], see `content_digest`; 0 if the file cannot be decoded.
      unreadable: bool [n], whether the file exists, but could not be read during the scan.
    """

    good: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    unreadable: np.ndarray

    def bad_images(self, images):
        """Returns the files that cannot be decoded: list of (path relative to the root, reason).

        Args:
          images: the `FileImages` that were scanned.
        """
        return [(images.paths[row].decode("utf-8", "backslashreplace"),
                 _describe_failure(images.path(row))) for row in np.flatnonzero(~self.good)]


def scan_files(images):
    """Decodes all files of a `FileImages` on all cores, or reads the result from the cache.

    Returns:
      `ScanResult`.
    """
    paths = [images.path(row) for row in range(len(images))]
    arrays = cached_scan("images", paths, lambda: decode_all(images),
                         version=(DECODER_VERSION, tf.__version__),
                         is_lasting=lambda arrays: not arrays["unreadable"].any())
    return ScanResult(**arrays)


def decode_all(images):
    """Decodes all files of a `FileImages`. Returns the fields of a `ScanResult` as a dict.

    FIFOs, devices and sockets are not opened, because that may block for ever.
    """
    count = len(images)
    good = np.zeros(count, bool)
    sizes = np.zeros([count, 2], np.int32)
    digests = np.zeros(count, np.int64)
    unreadable = np.zeros(count, bool)
    is_regular = np.array([_is_regular(images.path(row)) for row in range(count)], bool)

    def scan(position):
        encoded = images.encoded(position)
        return position, tf.shape(decode(encoded))[:2], content_digest(encoded)

    scanned = tf.data.Dataset.from_tensor_slices(np.flatnonzero(is_regular)).map(
        scan, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    # Files that cannot be decoded are missing from the data set, so they stay marked as bad.
    batches = without_autotuner(scanned.ignore_errors().batch(BATCH_SIZE))
    start = last_logged = time.monotonic()
    for rows, batch_sizes, batch_digests in batches.as_numpy_iterator():
        good[rows] = True
        sizes[rows] = batch_sizes
        digests[rows] = batch_digests
        now = time.monotonic()
        if now - last_logged > LOG_INTERVAL:
            last_logged = now
            _log_progress(good.sum(), count, now - start)
    for row in np.flatnonzero(is_regular & ~good):
        unreadable[row] = _is_unreadable(images.path(row))
        if unreadable[row]:
            continue
        try:  # A network drive may have failed only for a moment.
            _, sizes[row], digests[row] = scan(row)
            good[row] = True
        except tf.errors.OpError:
            continue
    return {"good": good, "sizes": sizes, "digests": digests, "unreadable": unreadable}


def _is_regular(path):
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _is_unreadable(path):
    """Returns whether an existing file cannot be read."""
    try:
        with open(path, "rb") as file:
            file.read()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _log_progress(done, count, seconds):
    images_per_second = done / seconds
    logging.info("scan %9d / %d images  %6.0f images/s  ETA %.0f min", done, count,
                 images_per_second, (count - done) / images_per_second / 60)


def _describe_failure(path):
    """Returns the reason why a file cannot be decoded, in a few words."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "Is a directory" if os.path.isdir(path) else "not a regular file"
        reason = describe_content(path)
        if reason:
            return reason
        decode(tf.io.read_file(path))
    except OSError as error:
        return error.strerror
    except tf.errors.OpError as error:
        text = error.message.partition("}} ")[2] or error.message
        return " ".join(text.partition(" [Op:")[0].split())
    return "failed during the scan, but can be decoded now"


def check_bad_images(bad_images, count, max_fraction, *, lists="python -m mlnt_tf.check lists all"):
    """Refuses a data set with too many damaged images, and warns about fewer.

    In a data set of fewer than 5,000 images, 2 % but at most 5 may be damaged, unless
    --max_bad_images is 0.

    Args:
      bad_images: list of (path, reason).
      count: int, the number of images in the data set, damaged ones included.
      max_fraction: float, the value of --max_bad_images. With 1, nothing is logged, because then
        the caller lists the images.
      lists: str, where the error says that all damaged images are listed.

    Raises:
      UserError: the damaged images are more than this fraction, or all.
    """
    examples = "; ".join(f"{path}: {reason}" for path, reason in bad_images[:MAX_EXAMPLES])
    if len(bad_images) > MAX_EXAMPLES:
        examples += "; …"
    allowed = max_fraction * count
    if max_fraction:
        allowed = max(allowed, min(HANDFUL, HANDFUL_FRACTION * count))
    if len(bad_images) <= allowed:
        if bad_images and max_fraction < 1:
            logging.warning("%d of %d images cannot be decoded and are left out (%s).",
                            len(bad_images), count, examples)
        return
    if len(bad_images) == count:
        raise UserError(f"None of the {count} images can be read ({examples}). Paths are relative "
                        "to the directory of the table or to --data_dir: check them.")
    advice = f"Repair or remove them ({lists})"
    if not any(reason == CUT_OFF or reason in NO_IMAGES for _, reason in bad_images):
        sufficient = math.ceil(1e4 * len(bad_images) / count) / 1e4
        advice += f", or raise --max_bad_images to {sufficient:g}"
    raise UserError(f"--max_bad_images={max_fraction:g} is exceeded, because {len(bad_images)} of "
                    f"{count} images cannot be decoded ({examples}). {advice}.")
