"""Accuracy of the exported network for each class, which the overall accuracy may hide."""

import numpy as np
from absl import logging

from mlnt_tf.models import predict


def score_classes(run, exported):
    """Returns the accuracy per class on the validation and the test split.

    Warns about classes that the network never predicts for any of these images.

    Args:
      run: the `Run`.
      exported: the `Candidate` that is exported.

    Returns:
      dict of split to the result of `class_accuracies`.
    """
    examples, network, predictions = run.examples, exported.load(), {}
    for name in ("validation", "test"):
        split = getattr(examples, name)
        batches = run.examples.batches(split, run.config, multiple=run.devices.replicas)
        predictions[name] = predict.predict_probabilities(network, batches).argmax(axis=1)
    never = find_never_predicted(
        np.concatenate([examples.validation.labels, examples.test.labels]),
        np.concatenate(list(predictions.values())), examples.class_names)
    if never:
        logging.warning("The exported network never predicts %s, although validation and test have "
                        "images of it. The accuracy hides this: see per_class in results.json.",
                        ", ".join(never))
    scores = {name: class_accuracies(getattr(examples, name).labels, predicted,
                                     examples.class_names)
              for name, predicted in predictions.items()}
    known = [entry for entry in scores["test"]["classes"] if entry["accuracy"] is not None]
    lowest = min(known, key=lambda entry: entry["accuracy"])
    logging.info("test accuracy per class: mean %.3f, lowest %.3f (%s)",
                 scores["test"]["macro_accuracy"], lowest["accuracy"], lowest["name"])
    return scores


def class_accuracies(labels, predictions, class_names):
    """Returns the accuracy of each class, and their mean.

    Args:
      labels, predictions: int [n].
      class_names: tuple of str [classes].

    Returns:
      {"macro_accuracy": float, "classes": [{"name", "examples", "predicted", "accuracy"}, …]}.
      `predicted` counts the images that are predicted to be of the class. The accuracy is that of
      the images labeled so, None without any; the macro average leaves such classes out.
    """
    classes = []
    for label, name in enumerate(class_names):
        members = labels == label
        accuracy = float(np.mean(predictions[members] == label)) if members.any() else None
        classes.append({"name": name, "examples": int(members.sum()),
                        "predicted": int((predictions == label).sum()), "accuracy": accuracy})
    known = [entry["accuracy"] for entry in classes if entry["accuracy"] is not None]
    return {"macro_accuracy": float(np.mean(known)) if known else None, "classes": classes}


def find_never_predicted(labels, predictions, class_names):
    """Returns the names of the classes that occur among the labels but not the predictions."""
    return [class_names[label] for label in np.setdiff1d(labels, predictions)]
