"""A SavedModel that takes encoded images and needs neither Keras nor this package."""

import pathlib
import shutil

import keras
import tensorflow as tf
from absl import logging

from mlnt_tf.data.images.decode import decode, resize

LUMINANCE = (0.299, 0.587, 0.114)  # sums to 1: a grey image keeps its values


def export_saved_model(network, directory, *, preprocess, class_names):
    """Writes directory/1, the layout TensorFlow Serving mounts; one that is there is replaced when the new is whole.

    Signatures: "serving_default" takes encoded images (JPEG, PNG, GIF, BMP or WebP bytes of any size, string [batch]),
    "images" uint8 [batch, height, width, channels]; both resize, crop and normalize as training did, and give float32
    "probabilities" [batch, classes], int32 "label" [batch] and string "class_name" [batch].

    Args:
      network: float images [batch, height, width, channels] to logits.
      directory: parent of the version directory.
      preprocess: the `Preprocess` it was trained with; 1 or 3 channels.
      class_names: in the order of the logits.

    Returns:
      the path written.

    Raises:
      ValueError: as many class names as logits are needed.
    """
    if len(class_names) != network.output_shape[-1]:
        raise ValueError(f"class_names must name the {network.output_shape[-1]} logits. Received: {class_names}")
    height, width, channels = preprocess.stored
    names = tf.constant([str(name) for name in class_names])

    def classify(images):
        images = tf.ensure_shape(images, [None, height, width, channels])
        batch = tf.shape(images)[0]
        # oneDNN's convolution fails on an empty batch: it gets one black image, whose answer is dropped
        images = tf.pad(images, [[0, tf.maximum(1 - batch, 0)], [0, 0], [0, 0], [0, 0]])
        logits = network(preprocess(images), training=False)[:batch]
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        label = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
        return {"probabilities": probabilities, "label": label, "class_name": tf.gather(names, label)}

    def stored(encoded):
        image = decode(encoded)
        if channels == 1:
            grey = tf.reduce_sum(tf.cast(image, tf.float32) * LUMINANCE, axis=-1, keepdims=True)
            image = tf.cast(tf.round(grey), tf.uint8)
        return resize(image, (height, width))

    image = tf.TensorSpec([height, width, channels], tf.uint8)

    def serving_default(encoded):
        return classify(tf.map_fn(stored, encoded, fn_output_signature=image))

    def images(images):
        return classify(resize(images, (height, width)))

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serving_default", serving_default, [tf.TensorSpec([None], tf.string, name="encoded")])
    archive.add_endpoint("images", images, [tf.TensorSpec([None, None, None, channels], tf.uint8, name="images")])
    target = pathlib.Path(directory) / "1"
    scratch, replaced = target.with_name("writing"), target.with_name("replaced")
    for leftover in (scratch, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells of every file it writes
    try:
        archive.write_out(str(scratch), verbose=False)
    finally:
        logging.set_verbosity(verbosity)
    if target.exists():  # renamed, not removed: a crash in between leaves both on disk
        target.rename(replaced)
    scratch.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
    return target
