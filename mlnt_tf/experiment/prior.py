"""The class prior of a run: the fractions of the true classes, for methods that assume one."""

import pathlib

import numpy as np

from mlnt_tf.config import PRIORS, UserError

# What reading a file of numbers may raise.
UNREADABLE = (OSError, ValueError, EOFError, TypeError)


def class_prior(config, examples):
    """Returns the prior that --class_prior asks for.

    Args:
      config: a Config.
      examples: `Examples`.

    Returns:
      float64 [classes] with the sum 1, or None for a uniform prior.

    Raises:
      UserError: the file cannot be read, or does not hold a positive number per class, or a class
        has no given label.
    """
    if config.class_prior == "uniform":
        return None
    names = examples.class_names
    if config.class_prior not in PRIORS:
        return read_prior(config.class_prior, len(names))
    counts = np.bincount(examples.train.labels, minlength=len(names))
    if not counts.all():
        raise UserError("--class_prior=given needs a given label of each class, but none is "
                        f"{names[counts.argmin()]}. Use --class_prior=uniform or a file.")
    return counts / counts.sum()


def read_prior(path, num_classes):
    """Reads one number per class, and divides them by their sum.

    Args:
      path: str, a .npy file, or a text file with numbers separated by white space or commas.
      num_classes: int.

    Returns:
      float64 [classes].

    Raises:
      UserError: see `class_prior`.
    """
    flag = f"--class_prior={path}"
    try:
        if pathlib.Path(path).suffix == ".npy":
            numbers = np.asarray(np.load(path), np.float64).reshape(-1)
        else:
            text = pathlib.Path(path).read_text(encoding="utf-8-sig")
            numbers = np.array([float(number) for number in text.replace(",", " ").split()])
    except UNREADABLE as error:
        raise UserError(f"{flag} cannot be read ({' '.join(str(error).split())}). Write one number "
                        "per class in a .csv, .txt or .npy file.") from error
    if len(numbers) != num_classes:
        raise UserError(f"{flag} holds {len(numbers)} numbers for {num_classes} classes. Write one "
                        "number per class, in the order of the classes.")
    if not (np.isfinite(numbers) & (numbers > 0)).all():
        raise UserError(f"{flag} holds a number that is not above 0. Write the fraction or count "
                        "of each class.")
    return numbers / numbers.sum()
