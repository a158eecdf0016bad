"""Settings of the data set and of label noise."""

import dataclasses
import pathlib

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import PathFormat, Section, is_given, setting
from mlnt_tf.config.user_functions import check_name, is_function_name

DATASETS = ("digits", "cifar10", "cifar10_n", "clothing1m", "folder", "csv")
# The human label sets of CIFAR-10N and their fractions of wrong labels (Wei et al. 2022, table 1).
CIFAR10_N_LABELS = {
    "aggre": 0.0903, "worse": 0.4021, "random1": 0.1723, "random2": 0.1812, "random3": 0.1764}
MATRIX_PREFIX = "matrix:"
NOISE_KINDS = ("none", "symmetric", "asymmetric")  # The kinds that --noise names by a word.


class CroppedSize(tuple):
    """(height, width) of images whose aspect ratio is kept: the center is resized, edges are cut.

    An image that is resized to a plain tuple is stretched.
    """


@dataclasses.dataclass(frozen=True)
class DataSettings(Section):
    """Data"""

    dataset: str = setting(
        "digits", f"Data set: {', '.join(DATASETS)}, tfds:NAME or package.module:function.")
    data_dir: str = setting(
        "", "Directory of the data, or the table file for csv. Empty means the default directory "
        "of TFDS.", path=PathFormat())
    download: bool = setting(
        False, "Let TFDS download the data set if it is missing.", changes_results=False)
    csv_columns: str = setting(
        "path,label,split,true_label", "Columns of the csv table: path, label and, if present, "
        "split and true label. Two names suffice, and one for a one-hot table.")
    missing_values: str = setting(
        "nan,NaN,NA,N/A,<NA>,null,NULL,None,-1", "Cells of the csv table's labels that mean "
        "unknown, besides empty ones. -1 counts only in a column of integers.")
    group_column: str = setting(
        "", "Column of the csv table that names the patient, product or photographer of an image. "
        "Images of one group are held out together.")
    class_names: str = setting(
        "", "File of class names for a csv table or folder: one per line, JSON, or a table of "
        "id,name. It fixes the order of the classes.", path=PathFormat())
    use_clean_train: bool = setting(False, "Also train on the clean training images of Clothing1M.")
    max_bad_images: float = setting(
        0.001, "Refuse to train if more than this fraction of the images cannot be decoded. In a "
        "small data set, 2 % but at most 5 may be damaged, unless this is 0.",
        minimum=0, maximum=1)
    train_examples: int = setting(0, "Number of training examples to use; 0 means all.", minimum=0)
    validation_fraction: float = setting(
        0.1, "Fraction of the training split that is held out for validation.", above=0, below=1)
    test_fraction: float = setting(
        0.1, "Fraction of the training split that is held out for testing if the data set has no "
        "test split. The examples are the same for every seed.", above=0, below=1)
    validation_labels: str = setting(
        "clean", "Measure validation accuracy against the true labels where known (clean) or the "
        "given labels (noisy).", choices=("clean", "noisy"))
    image_size: int = setting(
        0, "Resize images to this height and width; 0 keeps their size.", minimum=0)
    crop_size: int = setting(
        0, "Crop images to this height and width: the center, or a random part with --augment; 0 "
        "means no crop.", minimum=0)
    keep_aspect_ratio: bool = setting(
        False, "Resize images by their shorter side and crop the center to --image_size, instead "
        "of stretching them. The exported network does the same.")
    augment: bool = setting(
        False, "Augment training images by a random flip and a random crop. Without --crop_size "
        "the crop is taken from the image padded by 4 pixels.")
    crop_scale: float = setting(
        1.0, "Smallest area of the random crop of --augment, as a fraction of the image. Below 1, "
        "the crop is a part of random area and aspect ratio (3/4 to 4/3), which is resized.",
        above=0, maximum=1)

    @property
    def resized(self):
        """Tuple (height, width) to which images are resized, or None if they keep their size."""
        if not self.image_size:
            return None
        size = (self.image_size, self.image_size)
        return CroppedSize(size) if self.keep_aspect_ratio else size

    def ineffective(self):
        if is_function_name(self.dataset):
            return {}  # The function may read any setting.
        readers = {
            "csv_columns": ("csv",), "missing_values": ("csv",), "group_column": ("csv",),
            "class_names": ("csv", "folder"), "use_clean_train": ("clothing1m",),
            "max_bad_images": ("csv", "folder", "clothing1m")}
        return {name: f"with --dataset={self.dataset}" for name, datasets in readers.items()
                if self.dataset not in datasets}

    def check(self):
        check_name("dataset", self.dataset, DATASETS, prefix="tfds:")
        if self.image_size and self.crop_size > self.image_size:
            raise UserError(f"--crop_size={self.crop_size} is larger than "
                            f"--image_size={self.image_size}. Lower --crop_size or raise "
                            "--image_size.")
        if is_given(self, "crop_scale") and self.crop_scale < 1 and not self.augment:
            raise UserError(f"--crop_scale={self.crop_scale} has no effect without --augment. Add "
                            "--augment, or omit it.")


@dataclasses.dataclass(frozen=True)
class Noise:
    """The source of label noise that --noise names; see `parse_noise`.

    Attributes:
      kind: "none", "symmetric", "asymmetric", "matrix" or "human".
      path: str, the file of the transition matrix if the kind is "matrix", else empty.
      column: str, the label set of CIFAR-10N if the kind is "human", else empty.
    """

    kind: str
    path: str = ""
    column: str = ""

    @property
    def has_rate(self):
        """Whether --noise_rate applies."""
        return self.kind in ("symmetric", "asymmetric")

    @property
    def is_injected(self):
        """Whether labels are corrupted on purpose, by a known transition matrix."""
        return self.kind in ("symmetric", "asymmetric", "matrix")


def parse_noise(text):
    """Returns the `Noise` that a value of --noise names. Reads no file.

    Raises:
      UserError: the value is not known.
    """
    if text in NOISE_KINDS:
        return Noise(text)
    if text in CIFAR10_N_LABELS:
        return Noise("human", column=text)
    if text.startswith(MATRIX_PREFIX):
        return Noise("matrix", path=text.removeprefix(MATRIX_PREFIX))
    raise UserError(f"--noise={text} is not known. Choose one of {', '.join(NOISE_KINDS)}, or "
                    f"{MATRIX_PREFIX}FILE.")


@dataclasses.dataclass(frozen=True)
class NoiseSettings(Section):
    """Label noise"""

    noise: str = setting(
        "auto", "Label noise to inject: none, symmetric, asymmetric or matrix:FILE (row = true "
        "class, column = given class). For cifar10_n, the human labels: aggre, worse, random1, "
        "random2 or random3. auto means symmetric for digits and cifar10, and none for other data.",
        path=PathFormat(prefix=MATRIX_PREFIX))
    noise_rate: float = setting(
        0.5, "r: probability that a label is redrawn, for symmetric and asymmetric noise.",
        minimum=0, maximum=1)
    noise_sampling: str = setting(
        "exact", "Corrupt an exact fraction of each class (exact), or draw each label "
        "independently (bernoulli).",
        choices=("exact", "bernoulli"))
    symmetric_includes_true: bool = setting(
        True, "Symmetric noise redraws a label from all classes, including the true one.")

    @property
    def noise_source(self):
        """The parsed value of `noise`, a `Noise`."""
        return parse_noise(self.noise)

    def defaults(self):
        if self.noise != "auto" or self.dataset == "cifar10_n":
            return {}
        return {"noise": "symmetric" if self.dataset in ("digits", "cifar10") else "none"}

    def ineffective(self):
        source, reason = self.noise_source, f"with --noise={self.noise}"
        unused = {"noise_rate": not source.has_rate, "noise_sampling": not source.is_injected,
                  "symmetric_includes_true": source.kind != "symmetric"}
        return {name: reason for name, is_unused in unused.items() if is_unused}

    def check(self):
        if self.dataset == "cifar10_n":
            if self.noise not in CIFAR10_N_LABELS:
                raise UserError(f"--noise={self.noise} is not a label set of --dataset=cifar10_n. "
                                f"Choose one of {', '.join(CIFAR10_N_LABELS)}.")
            return
        source = self.noise_source
        if source.kind == "human":
            raise UserError(f"--noise={self.noise} needs --dataset=cifar10_n, but "
                            f"--dataset={self.dataset}. Choose one of {', '.join(NOISE_KINDS)}, or "
                            f"{MATRIX_PREFIX}FILE.")
        if source.kind == "matrix" and not pathlib.Path(source.path).is_file():
            raise UserError(f"--noise={self.noise} names a file that does not exist. Name an "
                            "existing .csv, .txt or .npy file.")
