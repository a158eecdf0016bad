"""Predictions for images without a label, which are not trained on."""

from mlnt_tf.files import atomic
from mlnt_tf.models import predict

UNLABELED_FILE = "unlabeled.csv"
HEADER = ("id", "record", "predicted_label", "predicted_class", "probability")


def write_predictions(run, network):
    """Writes unlabeled.csv: the exported network's class for each image that has no label.

    Args:
      run: the `Run`. Nothing is written if all of its images have a label.
      network: the exported network on one device, from preprocessed images to logits.
    """
    split, names = run.images.unlabeled, run.images.class_names
    if split is None:
        return
    batches = run.images.batches(split, run.config)
    probabilities = predict.predict_probabilities(network, batches)
    predictions = probabilities.argmax(axis=1)
    rows = [(split.ids[row], record, label, names[label], f"{probabilities[row, label]:.6f}")
            for row, (record, label) in enumerate(zip(split.record_names(), predictions))]
    atomic.write_csv(run.path / UNLABELED_FILE, HEADER, rows)
