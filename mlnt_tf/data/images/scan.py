"""Every image file decoded once before training: which are bad, how large they are, which have the same content."""

import dataclasses
import math
import os
import time

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.images.decode import DECODER_VERSION, decode
from mlnt_tf.data.images.storage import content_digest, without_autotuner
from mlnt_tf.files.cache import cached_scan

LOG_INTERVAL = 15.0  # seconds


@dataclasses.dataclass(frozen=True)
class ScanResult:
    """Of n files: `good` bool [n]; `sizes` int32 [n, 2], height and width, 0 if bad; `digests` int64 [n], of the content."""

    good: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray

    def bad_images(self, images):
        """[(path relative to the root, reason)] of the files that do not decode."""
        return [(images.paths[row].decode("utf-8", "backslashreplace"), describe_failure(images.path(row)))
                for row in np.flatnonzero(~self.good)]


def scan_files(images):
    """Decodes all of a `FileImages` on all cores, or remembers having done so (see `memory.py`)."""
    paths = [images.path(row) for row in range(len(images))]
    return ScanResult(**cached_scan("images", paths, lambda: decode_all(images),
                                   of=(DECODER_VERSION, tf.__version__)))


def decode_all(images):
    began = told = time.monotonic()
    good, sizes, digests = (np.zeros([len(images), *more], kind)
                            for more, kind in (((), bool), ((2,), np.int32), ((), np.int64)))

    def look(position):
        encoded = images.encoded(position)
        return position, tf.shape(decode(encoded))[:2], content_digest(encoded)

    looked = tf.data.Dataset.range(len(images)).map(look, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    for rows, *found in without_autotuner(looked.ignore_errors().batch(256)).as_numpy_iterator():  # what is missing is bad
        good[rows], (sizes[rows], digests[rows]) = True, found
        if time.monotonic() - told > LOG_INTERVAL:
            told = time.monotonic()
            logging.info("checked %d of %d images, %.0f a second", good.sum(), len(images), good.sum() / (told - began))
    return {"good": good, "sizes": sizes, "digests": digests}


def describe_failure(path):
    """Why a file does not decode, in a few words."""
    try:
        if not os.path.getsize(path):
            return "empty file"
        decode(tf.io.read_file(path))
    except OSError as error:
        return error.strerror
    except tf.errors.OpError as error:
        text = error.message.partition("}} ")[2] or error.message
        return " ".join(text.partition(" [Op:")[0].split())
    return "decodes now"


def check_bad_images(bad, count, allowed, *, lists="python -m mlnt_tf.check lists all"):
    """Raises UserError if the (path, reason) pairs are more than the allowed share of `count`; tells of fewer."""
    told = "; ".join(f"{path}: {reason}" for path, reason in bad[:3]) + ("; …" if bad[3:] else "")
    if len(bad) > allowed * count:
        if len(bad) == count:
            raise UserError(f"none of the {count} images decodes ({told}): are the paths right, which count from the folder "
                            "of the table or --data_dir?")
        enough = math.ceil(1e4 * len(bad) / count) / 1e4
        raise UserError(f"{len(bad)} of {count} images do not decode ({told}): mend or remove them ({lists}), or raise "
                        f"--max_bad_images={allowed:g}, the share that may be left out, to {enough:g}.")
    if bad and allowed < 1:  # by 1 only `check` asks, which judges later
        logging.warning("%d of %d images do not decode and are left out: %s", len(bad), count, told)
