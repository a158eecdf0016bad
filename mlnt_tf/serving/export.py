"""Exports a SavedModel that takes encoded images and needs neither Keras nor this package."""

import pathlib
import shutil

import keras
import tensorflow as tf
from absl import logging

from mlnt_tf.data.images.decode import decode, resize

LUMINANCE = (0.299, 0.587, 0.114)  # The sum is 1, so a gray image keeps its values.


def export_saved_model(network, directory, *, preprocess, class_names):
    """Writes directory/1, the layout that TensorFlow Serving mounts.

    An existing export is replaced once the new one is complete. There are two signatures, which
    resize, crop and normalize as in training:

    - "serving_default" takes encoded images, string [batch]: JPEG, PNG, GIF, BMP or WebP of any
      size.
    - "images" takes uint8 [batch, height, width, channels] of any height and width.

    Both return float32 "probabilities" [batch, classes], int32 "label" [batch] and string
    "class_name" [batch].

    Args:
      network: Keras model that maps float images [batch, height, width, channels] to logits
        [batch, classes].
      directory: str or path, the parent of the version directory.
      preprocess: the `Preprocess` of the training images, with 1 or 3 channels.
      class_names: sequence of str, in the order of the logits.

    Returns:
      pathlib.Path, the version directory.

    Raises:
      ValueError: the number of class names differs from that of the logits.
    """
    num_classes = network.output_shape[-1]
    if len(class_names) != num_classes:
        raise ValueError(f"class_names must contain a name for each of the {num_classes} logits. "
                         f"Received: {class_names}")
    archive = keras.export.ExportArchive()
    archive.track(network)
    _add_signatures(archive, network, preprocess, class_names)
    target = pathlib.Path(directory) / "1"
    scratch = target.with_name("writing")
    replaced = target.with_name("replaced")
    for leftover in (scratch, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    _write(archive, scratch)
    if target.exists():
        # Renaming leaves a complete export on disk if the process is killed in between.
        target.rename(replaced)
    scratch.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
    return target


def _add_signatures(archive, network, preprocess, class_names):
    """Adds the signatures of `export_saved_model` to a `keras.export.ExportArchive`."""
    height, width, channels = preprocess.stored
    names = tf.constant([str(name) for name in class_names])
    stored_image = tf.TensorSpec([height, width, channels], tf.uint8)

    def classify(images):
        images = tf.ensure_shape(images, [None, height, width, channels])
        batch = tf.shape(images)[0]
        # oneDNN's convolution fails on an empty batch, so it gets one black image.
        images = tf.pad(images, [[0, tf.maximum(1 - batch, 0)], [0, 0], [0, 0], [0, 0]])
        logits = network(preprocess(images), training=False)[:batch]
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        label = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"probabilities": probabilities, "label": label,
                "class_name": tf.gather(names, label)}

    def decode_and_resize(encoded):
        image = decode(encoded)
        if channels == 1:
            gray = tf.reduce_sum(tf.cast(image, tf.float32) * LUMINANCE, axis=-1, keepdims=True)
            image = tf.cast(tf.round(gray), tf.uint8)
        return resize(image, (height, width))

    def serving_default(encoded):
        return classify(tf.map_fn(decode_and_resize, encoded, fn_output_signature=stored_image))

    def classify_images(images):
        return classify(resize(images, (height, width)))

    archive.add_endpoint("serving_default", serving_default,
                         [tf.TensorSpec([None], tf.string, name="encoded")])
    archive.add_endpoint("images", classify_images,
                         [tf.TensorSpec([None, None, None, channels], tf.uint8, name="images")])


def _write(archive, path):
    """Writes an archive without TensorFlow's log line for every file."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        archive.write_out(str(path), verbose=False)
    finally:
        logging.set_verbosity(verbosity)
