"""Images of three kinds with one interface: arrays in memory, encoded files, shards of records.

Each kind has `shape`, the (height, width, channels) its pixels come in; `len`; `take(rows)`; and inside tf.data

  one_pass(key, kept)  every position once, in an order that the key alone decides: a data set of (position, handle)
  in_order()           every position once, in order: a data set of (position, handle)
  pixels(handle)       uint8 [height, width, channels]

A position is a row of the split. A handle is whatever leads to the pixels, so that what the filter drops is never decoded.
"""

import functools
import hashlib
import os

import numpy as np
import tensorflow as tf

from mlnt_tf.data.images.decode import decode, resize

MEAN_SAMPLE = 10_000  # images that a mean is taken over, where they must be decoded for it
INTERLEAVED_SHARDS = 16  # read in turn
IN_MEMORY_BELOW = 2**30  # bytes of pixels: a smaller set is decoded once
SHUFFLE_BLOCK = 8192  # records, still encoded, that are permuted as one block


def permutation(count, key):
    """0 ... count - 1 in an order that the key, int32 [2], alone decides: int32 [count]."""
    return tf.argsort(tf.random.stateless_uniform([count], key, minval=None, maxval=None, dtype=tf.int32, alg="philox"),
                      stable=True)


class Encoded:
    """What files and shards share: no pixels are kept, and the content is that of the encoded image."""

    nbytes = 0

    def digests(self):
        """Of each image's content: int64 [n]."""
        digests = self.in_order().map(lambda position, handle: content_digest(self.encoded(handle)),
                                      num_parallel_calls=tf.data.AUTOTUNE)
        return np.concatenate(list(digests.batch(1024).as_numpy_iterator()))


class RandomAccess:
    """What arrays and files share: a handle is the position itself."""

    def one_pass(self, key, kept=None):
        order = permutation(len(self), key)
        if kept is not None:
            order = tf.boolean_mask(order, tf.gather(kept, order))
        return tf.data.Dataset.from_tensor_slices((order, order))

    def in_order(self):
        return tf.data.Dataset.range(len(self), output_type=tf.int32).map(lambda position: (position, position))

    def mean_image(self):
        """The mean in 0 to 1 of a sample of the images: float32 [height, width, channels]."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(len(self), MEAN_SAMPLE)).astype(np.int32))
        pixels = tf.data.Dataset.from_tensor_slices(rows).map(self.pixels, num_parallel_calls=tf.data.AUTOTUNE)
        return mean_over_chunks(without_autotuner(pixels.batch(1024)).as_numpy_iterator())


class ArrayImages(RandomAccess):
    """Images in memory.

    Args:
      array: uint8 [n, height, width, channels].
      size: (height, width) to resize to, or None.
    """

    def __init__(self, array, *, size=None):
        self.array, self.size = array, size
        self.shape = (*(size or array.shape[1:3]), *array.shape[3:])

    def __len__(self):
        return len(self.array)

    def take(self, rows):
        return ArrayImages(self.array[rows], size=self.size)

    @property
    def nbytes(self):
        return 2 * self.array.nbytes  # NumPy's and, once they are trained on, TensorFlow's

    def digests(self):
        """Of each image's content: int64 [n]."""
        return np.array([int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), signed=True)
                         for image in self.array])

    @functools.cached_property
    def tensor(self):
        return eager_constant(self.array)

    def pixels(self, handle):
        return resize(self.tensor[handle], self.shape[:2])

    def mean_image(self):
        if self.size and tuple(self.size) != self.array.shape[1:3]:
            return super().mean_image()
        return mean_over_chunks(np.array_split(self.array, len(self.array) // 4096 + 1))


class FileImages(Encoded, RandomAccess):
    """Encoded images, a file each, read and decoded in TensorFlow.

    Args:
      paths: bytes [n], relative to the root.
      root: a directory.
      size: (height, width) to resize to.
    """

    def __init__(self, paths, *, root, size):
        self.paths, self.root, self.size = np.asarray(paths, "S"), os.fsencode(root), tuple(size)
        self.shape = (*self.size, 3)

    def __len__(self):
        return len(self.paths)

    def take(self, rows):
        return FileImages(self.paths[rows], root=self.root, size=self.size)

    def path(self, row):
        """bytes, from anywhere."""
        return os.path.join(self.root, self.paths[row])

    @functools.cached_property
    def tensor(self):
        return eager_constant(self.paths)

    def encoded(self, handle):
        return tf.io.read_file(tf.strings.join([self.root, self.tensor[handle]], separator="/"))

    def pixels(self, handle):
        return resize(decode(self.encoded(handle)), self.size)


class RecordImages(Encoded):
    """Encoded images in shards of TFRecords, streamed: a handle is the encoded image.

    Shards are read in turn, in an order of the key; blocks of records are then permuted by the key.

    Args:
      files: str [shards].
      lengths: int [shards], records of each.
      image_of: a function of a serialized record to the encoded image.
      size: (height, width) to resize to.
      rows: int64 [n], ascending: the record of each position, counted through the shards; None means all.
    """

    def __init__(self, files, lengths, image_of, *, size, rows=None):
        self.files, self.lengths, self.image_of, self.size = list(files), list(lengths), image_of, tuple(size)
        self.rows = np.arange(sum(self.lengths)) if rows is None else np.asarray(rows)
        self.shape = (*self.size, 3)

    def __len__(self):
        return len(self.rows)

    def take(self, rows):
        return RecordImages(self.files, self.lengths, self.image_of, size=self.size, rows=self.rows[rows])

    @functools.cached_property
    def position_of(self):
        """int32 [records], -1 where the record is not of this split."""
        positions = np.full(sum(self.lengths), -1, np.int32)
        positions[self.rows] = np.arange(len(self.rows))
        return eager_constant(positions)

    def one_pass(self, key, kept=None):
        shards = permutation(len(self.files), key)
        records = tf.data.Dataset.from_tensor_slices(shards).interleave(
            self.shard, cycle_length=INTERLEAVED_SHARDS, block_length=16, num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True)
        if kept is not None:
            records = records.filter(lambda position, serialized: kept[position])

        def shuffled(block, records):
            order = permutation(tf.shape(records[0])[0],
                                tf.random.experimental.stateless_fold_in(key, tf.cast(block, tf.int32), alg="philox"))
            return tf.nest.map_structure(lambda column: tf.gather(column, order), records)

        return records.batch(SHUFFLE_BLOCK).enumerate().map(shuffled).prefetch(1).unbatch()

    def in_order(self):
        return tf.data.Dataset.range(len(self.files), output_type=tf.int32).flat_map(self.shard)

    def shard(self, index):
        """The records of one shard that are of this split: a data set of (position, serialized)."""
        start = tf.constant(np.cumsum([0, *self.lengths[:-1]]), tf.int64)[index]
        records = tf.data.TFRecordDataset(tf.constant(self.files)[index], buffer_size=2**20).enumerate()
        records = records.map(lambda row, serialized: (self.position_of[start + row], serialized))
        return records.filter(lambda position, serialized: position >= 0)

    def encoded(self, handle):
        return self.image_of(handle)

    def pixels(self, handle):
        return resize(decode(self.encoded(handle)), self.size)

    def mean_image(self):
        every = max(len(self) // MEAN_SAMPLE, 1)
        sample = self.in_order().filter(lambda position, serialized: position % every == 0)
        pixels = sample.map(lambda position, serialized: self.pixels(serialized), num_parallel_calls=tf.data.AUTOTUNE)
        return mean_over_chunks(without_autotuner(pixels.batch(1024)).as_numpy_iterator())


def load_into_memory(images):
    """The same images, decoded once if they are few; as they are if not."""
    if not len(images) or len(images) * np.prod(images.shape) >= IN_MEMORY_BELOW:
        return images
    array, start = np.empty([len(images), *images.shape], np.uint8), 0
    pixels = images.in_order().map(lambda position, handle: images.pixels(handle), num_parallel_calls=tf.data.AUTOTUNE)
    for chunk in without_autotuner(pixels.batch(256)).as_numpy_iterator():
        array[start:start + len(chunk)] = chunk
        start += len(chunk)
    return ArrayImages(array)


def without_autotuner(dataset):
    """The data set without TensorFlow's tuner: AUTOTUNE is then a thread for each core.

    The tuner's thread sleeps for up to a minute, and the end of an iteration (a stage, a validation, the process) waits
    for it about one time in three.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.autotune.initial_parallelism = len(os.sched_getaffinity(0))  # 16 at most unless told
    return dataset.with_options(options)


def content_digest(encoded):
    """Of an encoded image's content: int64."""
    return tf.strings.to_hash_bucket_fast(encoded, 2**63 - 1)


def eager_constant(array):
    """A constant kept from one trace to the next, though the first to ask for it be within one."""
    with tf.init_scope():
        return tf.constant(array)


def mean_over_chunks(chunks):
    """The mean of uint8 images [n, height, width, channels] that come in chunks, in 0 to 1: float32."""
    total, count = 0, 0
    for chunk in chunks:
        total, count = total + chunk.sum(axis=0, dtype=np.float64), count + len(chunk)
    return (total / count / 255).astype(np.float32)
