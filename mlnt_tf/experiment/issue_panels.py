"""TensorBoard's images of label issues: the most suspicious labels, and given against predicted."""

import io

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from mlnt_tf.data.images.storage import RandomAccessImages

DIRECTORY = "label_issues"  # Below the run's directory, as one directory of events.
SUSPECTS_TAG = "label_issues/most_suspicious"
CONFUSION_TAG = "label_issues/given_and_predicted"
ROWS, COLUMNS = 5, 6
TILE, TEXT_HEIGHT = 112, 28  # Pixels of an image's longer side, and of the text above it.
CELL_WIDTH, CELL_HEIGHT = TILE + 24, TILE + TEXT_HEIGHT + 6
DPI = 100
MAX_NAME = 11  # Characters of a class name.
MAX_NAMED_CLASSES = 40  # With more classes, the axes of the confusion show numbers only.


def write_panels(path, judged, class_names):
    """Writes both images as step 0, in place of those of an earlier process.

    Args:
      path: pathlib.Path of the run.
      judged: `Judged`.
      class_names: sequence of str.
    """
    directory = path / DIRECTORY
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    writer = tf.summary.create_file_writer(str(directory))
    with writer.as_default(step=0):
        suspects = draw_suspects(judged, class_names)
        if suspects is not None:
            tf.summary.image(SUSPECTS_TAG, suspects[None])
        tf.summary.image(CONFUSION_TAG, draw_confusion(judged, class_names)[None])
    writer.close()


def draw_suspects(judged, class_names):
    """Returns a grid of the most suspicious images: uint8 [height, width, 3].

    Returns None for images in shards, which would have to be read completely.
    """
    if not all(isinstance(split.images, RandomAccessImages) for split in judged.splits.values()):
        return None
    columns = judged.columns
    order = np.argsort(columns["label_score"], kind="stable")[:ROWS * COLUMNS]
    pixels = _pixels(judged, order)
    # One picture with texts: an axes object per image would take seconds.
    picture = np.full([ROWS * CELL_HEIGHT, COLUMNS * CELL_WIDTH, 3], 255, np.uint8)
    figure = Figure(figsize=(picture.shape[1] / DPI, picture.shape[0] / DPI))
    for place, row in enumerate(order):
        top, left = place // COLUMNS * CELL_HEIGHT, place % COLUMNS * CELL_WIDTH
        tile = _fitted(pixels[row])
        corner = top + TEXT_HEIGHT, left + (CELL_WIDTH - tile.shape[1]) // 2
        picture[corner[0]:corner[0] + len(tile), corner[1]:corner[1] + tile.shape[1]] = tile
        given, suggested = (_short(class_names[columns[name][row]])
                            for name in ("given_label", "suggested_label"))
        figure.text((left + CELL_WIDTH / 2) / picture.shape[1], 1 - (top + 2) / picture.shape[0],
                    f"{given} → {suggested}\n{columns['label_score'][row]:.3f}",
                    ha="center", va="top", fontsize=7)
    figure.figimage(picture)
    return _render(figure)


def _fitted(image):
    """Returns an image enlarged or reduced to a side of TILE pixels at most, uint8 [h, w, 3]."""
    if image.shape[-1] == 1:
        image = np.repeat(image, 3, axis=-1)
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    rows = (np.arange(max(int(height * scale), 1)) / scale).astype(int)
    columns = (np.arange(max(int(width * scale), 1)) / scale).astype(int)
    return image[rows.clip(max=height - 1)][:, columns.clip(max=width - 1)]


def draw_confusion(judged, class_names):
    """Returns the counts of given label (rows) and predicted label: uint8 [height, width, 3]."""
    classes = len(class_names)
    counts = np.zeros([classes, classes])
    np.add.at(counts, (judged.columns["given_label"], judged.columns["predicted_label"]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("given label")
    if classes <= MAX_NAMED_CLASSES:
        names = [_short(name) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    figure.colorbar(image, label="share of the given label")
    return _render(figure)


def _pixels(judged, rows):
    """Returns {row: uint8 [height, width, channels]}. Rows count through all splits."""
    found, start = {}, 0
    for split in judged.splits.values():
        own = np.sort(rows[(rows >= start) & (rows < start + len(split))])
        images = split.images
        for row in own:
            position = tf.constant(row - start, tf.int32)
            found[row] = np.asarray(images.pixels(position)).astype(np.uint8)
        start += len(split)
    return found


def _short(name):
    """Returns a class name for a title. A dollar sign would begin a formula."""
    name = " ".join(name.split()).replace("$", "\\$")
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME - 1]}…"


def _render(figure):
    """Returns a figure as uint8 [height, width, 3]."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=DPI)
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3]
