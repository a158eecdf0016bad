"""Three kinds of image storage with one interface: arrays in memory, encoded files, record shards.

Every kind has `shape`, the (height, width, channels) of its images, `len()` and

  take(rows)               the images of these rows, as the same kind
  shuffled(key, selected)  tf.data.Dataset of (position, handle): each position once, or each
                           selected one, in an order that only the key determines
  in_order()               tf.data.Dataset of (position, handle): each position once, in order
  pixels(handle)           uint8 [height, width, channels]
  full_size()              iterator of uint8 [height, width, channels], in order, not resized
  mean_image()             float32 [height, width, channels], the mean image in [0, 1]
  digests()                int64 [n], a digest of each image's content
  nbytes                   int, the bytes of the pixels that stay in memory

A position is a row of the split. A handle is what `pixels` needs to load the image. Images are
loaded after the selection, so an example that the filter drops is never decoded.
"""

import functools
import hashlib
import os

import numpy as np
import tensorflow as tf

from mlnt_tf.data.images.decode import decode, resize

MEAN_SAMPLE = 10_000  # The mean image of encoded images is estimated from about this many.
INTERLEAVED_SHARDS = 16  # Shards that are read in turn.
IN_MEMORY_BELOW = 2**30  # Bytes of pixels. A smaller data set is decoded only once.
BATCH_SIZE = 32  # Images read at once. Ctrl-C and SIGTERM wait for the end of a batch.
SHUFFLE_BLOCK = 8192  # Encoded records that are shuffled as one block.


def permutation(count, key):
    """Returns 0 … count - 1 in an order that only the key, int32 [2], determines: int32 [count]."""
    draws = tf.random.stateless_uniform(
        [count], key, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    return tf.argsort(draws, stable=True)


class EncodedImages:
    """Base class of files and shards: pixels are decoded when they are needed."""

    nbytes = 0

    def full_size(self):
        """Returns an iterator of the decoded images in order, each at its own size."""
        images = self.in_order().map(lambda position, handle: decode(self.encoded(handle)),
                                     num_parallel_calls=tf.data.AUTOTUNE)
        return without_autotuner(images).as_numpy_iterator()

    def digests(self):
        """Returns a digest of each encoded image, int64 [n]."""
        digests = self.in_order().map(
            lambda position, handle: content_digest(self.encoded(handle)),
            num_parallel_calls=tf.data.AUTOTUNE)
        return np.concatenate(list(digests.batch(BATCH_SIZE).as_numpy_iterator()))


class RandomAccessImages:
    """Base class of arrays and files: the handle is the position itself."""

    def shuffled(self, key, selected=None):
        """Returns a data set of (position, handle) in an order that only the key determines.

        Args:
          key: int32 [2].
          selected: bool [n], the positions to include, or None for all.
        """
        order = permutation(len(self), key)
        if selected is not None:
            order = tf.boolean_mask(order, tf.gather(selected, order))
        return tf.data.Dataset.from_tensor_slices((order, order))

    def in_order(self):
        """Returns a data set of (position, handle), each position once and in order."""
        positions = tf.data.Dataset.range(len(self), output_type=tf.int32)
        return positions.map(lambda position: (position, position))

    def mean_image(self):
        """Returns the mean of evenly spaced images, float32 [height, width, channels] in [0, 1]."""
        sample_size = min(len(self), MEAN_SAMPLE)
        rows = np.unique(np.linspace(0, len(self) - 1, sample_size).astype(np.int32))
        pixels = tf.data.Dataset.from_tensor_slices(rows).map(
            self.pixels, num_parallel_calls=tf.data.AUTOTUNE)
        return _mean_of_batches(without_autotuner(pixels.batch(BATCH_SIZE)).as_numpy_iterator())


class ArrayImages(RandomAccessImages):
    """Images in memory.

    Args:
      array: uint8 [n, height, width, channels].
      size: (height, width) to which images are resized when they are read, or None.
      encoded_images: the files or records that the array was decoded from, or None.
    """

    def __init__(self, array, *, size=None, encoded_images=None):
        self.array = array
        self.size = size
        self.encoded_images = encoded_images
        self.shape = (*(size or array.shape[1:3]), *array.shape[3:])

    def __len__(self):
        return len(self.array)

    def take(self, rows):
        encoded_images = None if self.encoded_images is None else self.encoded_images.take(rows)
        return ArrayImages(self.array[rows], size=self.size, encoded_images=encoded_images)

    def full_size(self):
        """Returns an iterator of the images in order, each at the size it was stored with."""
        if self.encoded_images is not None:
            return self.encoded_images.full_size()
        return iter(self.array)

    @property
    def nbytes(self):
        return 2 * self.array.nbytes  # Training adds TensorFlow's copy to NumPy's.

    def digests(self):
        """Returns a digest of each image's pixels, int64 [n]."""
        hashes = [hashlib.blake2b(image.tobytes(), digest_size=8) for image in self.array]
        return np.array([int.from_bytes(hash.digest(), signed=True) for hash in hashes])

    @functools.cached_property
    def tensor(self):
        return _eager_constant(self.array)

    def pixels(self, handle):
        return resize(self.tensor[handle], self.size or self.shape[:2])

    def mean_image(self):
        """Returns the mean image, float32 [height, width, channels] in [0, 1].

        It is the mean of all images, or of a sample if they are resized.
        """
        if self.size and tuple(self.size) != self.array.shape[1:3]:
            return super().mean_image()
        return _mean_of_batches(np.array_split(self.array, len(self.array) // 4096 + 1))


class FileImages(EncodedImages, RandomAccessImages):
    """Images in one file each, read and decoded by TensorFlow.

    Args:
      paths: bytes [n], relative to the root.
      root: str, a directory.
      size: (height, width) to which images are resized.
    """

    def __init__(self, paths, *, root, size):
        self.paths = np.asarray(paths, "S")
        self.root = os.fsencode(root)
        self.size = size
        self.shape = (*self.size, 3)

    def __len__(self):
        return len(self.paths)

    def take(self, rows):
        return FileImages(self.paths[rows], root=self.root, size=self.size)

    def path(self, row):
        """Returns the path of a file including the root: bytes."""
        return os.path.join(self.root, self.paths[row])

    @functools.cached_property
    def tensor(self):
        return _eager_constant(self.paths)

    def encoded(self, handle):
        """Returns the bytes of an image file, a string scalar."""
        path = tf.strings.join([self.root, self.tensor[handle]], separator="/")
        return tf.io.read_file(path)

    def pixels(self, handle):
        return resize(decode(self.encoded(handle)), self.size)


class RecordImages(EncodedImages):
    """Encoded images in TFRecord shards, which are streamed. The handle is the serialized record.

    `shuffled` reads several shards in turn, in an order that the key determines. It then shuffles
    blocks of consecutive records, so memory is limited to one block instead of a complete epoch.

    Args:
      files: list of str, the paths of the shards.
      lengths: list of int, the number of records in each shard.
      extract_image: function of a serialized record, a string scalar, that returns the encoded
        image, a string scalar.
      size: (height, width) to which images are resized.
      rows: int64 [n], ascending, the record of each position, counted across all shards. None means
        all records.
    """

    def __init__(self, files, lengths, extract_image, *, size, rows=None):
        self.files = list(files)
        self.lengths = list(lengths)
        self.extract_image = extract_image
        self.size = size
        self.rows = np.arange(sum(self.lengths)) if rows is None else np.asarray(rows)
        self.shape = (*self.size, 3)

    def __len__(self):
        return len(self.rows)

    def take(self, rows):
        return RecordImages(self.files, self.lengths, self.extract_image, size=self.size,
                            rows=self.rows[rows])

    @functools.cached_property
    def positions(self):
        """The position of each record, int32 [records]; -1 if it is not part of this split."""
        positions = np.full(sum(self.lengths), -1, np.int32)
        positions[self.rows] = np.arange(len(self.rows))
        return _eager_constant(positions)

    def shuffled(self, key, selected=None):
        """Returns a data set of (position, handle) in an order that only the key determines.

        Args:
          key: int32 [2].
          selected: bool [n], the positions to include, or None for all.
        """
        shards = permutation(len(self.files), key)
        records = tf.data.Dataset.from_tensor_slices(shards).interleave(
            self._read_shard, cycle_length=INTERLEAVED_SHARDS, block_length=16,
            num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if selected is not None:
            records = records.filter(lambda position, serialized: selected[position])

        def shuffle_block(block, records):
            block_key = tf.random.experimental.stateless_fold_in(
                key, tf.cast(block, tf.int32), alg="philox")
            order = permutation(tf.shape(records[0])[0], block_key)
            return tf.nest.map_structure(lambda column: tf.gather(column, order), records)

        blocks = records.batch(SHUFFLE_BLOCK).enumerate()
        return blocks.map(shuffle_block).prefetch(1).unbatch()

    def in_order(self):
        """Returns a data set of (position, handle), each position once and in order."""
        shards = tf.data.Dataset.range(len(self.files), output_type=tf.int32)
        return shards.flat_map(self._read_shard)

    def _read_shard(self, index):
        """Returns the records of one shard that are part of this split: (position, serialized)."""
        start = tf.constant(np.cumsum([0, *self.lengths[:-1]]), tf.int64)[index]
        records = tf.data.TFRecordDataset(tf.constant(self.files)[index], buffer_size=2**20)
        records = records.enumerate().map(
            lambda row, serialized: (self.positions[start + row], serialized))
        return records.filter(lambda position, serialized: position >= 0)

    def encoded(self, handle):
        """Returns the encoded image of a record, a string scalar."""
        return self.extract_image(handle)

    def pixels(self, handle):
        return resize(decode(self.encoded(handle)), self.size)

    def mean_image(self):
        """Returns the mean of evenly spaced images, float32 [height, width, channels] in [0, 1]."""
        interval = max(len(self) // MEAN_SAMPLE, 1)
        sample = self.in_order().filter(lambda position, serialized: position % interval == 0)
        pixels = sample.map(lambda position, serialized: self.pixels(serialized),
                            num_parallel_calls=tf.data.AUTOTUNE)
        return _mean_of_batches(without_autotuner(pixels.batch(BATCH_SIZE)).as_numpy_iterator())


def load_into_memory(images):
    """Decodes the images into an `ArrayImages` if their pixels take less than IN_MEMORY_BELOW.

    Otherwise, and if there are no images, returns `images` itself.
    """
    if not len(images) or len(images) * np.prod(images.shape) >= IN_MEMORY_BELOW:
        return images
    array = np.empty([len(images), *images.shape], np.uint8)
    pixels = images.in_order().map(lambda position, handle: images.pixels(handle),
                                   num_parallel_calls=tf.data.AUTOTUNE)
    start = 0
    for batch in without_autotuner(pixels.batch(BATCH_SIZE)).as_numpy_iterator():
        array[start:start + len(batch)] = batch
        start += len(batch)
    return ArrayImages(array, encoded_images=images)


def without_autotuner(dataset):
    """Returns the data set with one thread per core for AUTOTUNE, and no tuning while it runs.

    The tuner's thread sleeps for up to a minute. About one time in three, the end of an iteration
    (after a stage or a validation, or at exit) waits for it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    # TensorFlow's own default is at most 16.
    options.autotune.initial_parallelism = len(os.sched_getaffinity(0))
    return dataset.with_options(options)


def content_digest(encoded):
    """Returns a digest of an encoded image, a string scalar: int64 scalar."""
    return tf.strings.to_hash_bucket_fast(encoded, 2**63 - 1)


def _eager_constant(array):
    """Returns a constant that outlives the tf.function or data set in which it is first used."""
    with tf.init_scope():
        return tf.constant(array)


def _mean_of_batches(batches):
    """Returns the mean of batches of uint8 images, float32 [height, width, channels] in [0, 1]."""
    total, count = 0, 0
    for batch in batches:
        total = total + batch.sum(axis=0, dtype=np.float64)
        count += len(batch)
    return (total / count / 255).astype(np.float32)
