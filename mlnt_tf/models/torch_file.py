"""Reads the tensors of a PyTorch file (.pth) without PyTorch and without running code from it.

A .pth file is a pickle, and unpickling can call any function on the machine. The unpickler here
knows the types of storage, `OrderedDict` and the function that makes a tensor from a storage. It
refuses every other name. It reads both formats: the zip archive of PyTorch 1.6 and later, and the
sequence of pickles that earlier versions wrote.
"""

import collections
import io
import math
import os
import pickle
import struct
import zipfile

import numpy as np

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGE_TYPES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
                 "LongStorage": "<i8", "IntStorage": "<i4", "ByteStorage": "|u1"}
# A damaged pickle can raise nearly anything.
UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, OSError, EOFError,
              ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
              MemoryError, NotImplementedError, RecursionError)


class UnsafeFileError(Exception):
    """The file is damaged, or it names something that is not part of a tensor."""


def read_tensors(path):
    """Returns the state dict of a PyTorch file.

    Args:
      path: str or path, a file that `torch.save(module.state_dict(), path)` wrote.

    Returns:
      dict from str to NumPy array, in the order of the file.

    Raises:
      UnsafeFileError: the file names a class or function that is not part of a tensor, is damaged,
        or does not hold a dict of tensors. The message is one line.
    """
    try:
        with open(path, "rb") as file:
            is_zip = zipfile.is_zipfile(file)
            file.seek(0)
            tensors = _read_zip(file) if is_zip else _read_legacy(file)
        if not isinstance(tensors, dict):
            raise ValueError(f"it holds a {type(tensors).__name__} instead of a dict of tensors")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
                raise ValueError(f"its entry {name!r} is a {type(tensor).__name__}, not a tensor")
        return {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsafeFileError(f"{path} is not a readable PyTorch state dict: {reason}.") from error


class _RebuildTensor:
    """Stands for `torch._utils._rebuild_tensor_v2`: makes a view of a storage.

    It has no attributes, because a pickle may set those of the objects it gets.
    """

    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, *_):
        # What follows the strides (gradients, hooks, metadata) has no meaning for an array.
        if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
            raise ValueError("the shape and strides of a tensor contradict each other")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
        if math.prod(shape) > storage.size or (0 not in shape and last >= storage.size):
            raise ValueError("a tensor reaches beyond its storage")
        return np.lib.stride_tricks.as_strided(
            storage[offset:], shape, [stride * storage.itemsize for stride in strides])


class _TensorUnpickler(pickle.Unpickler):
    """Builds views of storages, and dicts and lists of these.

    Args:
      file: binary file, at the beginning of a pickle.
      load_storage: function of (key, dtype, count) that returns a flat array.
    """

    def __init__(self, file, load_storage=None):
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if module == "torch" and name in STORAGE_TYPES:
            return name  # A string, because a pickle could change the state of a NumPy dtype.
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of a tensor")

    def persistent_load(self, reference):
        kind, storage_type, key, _, count, *view = reference
        if kind != "storage" or any(view) or self._load_storage is None:
            raise pickle.UnpicklingError("it refers to something that is not a tensor's storage")
        return self._load_storage(key, np.dtype(STORAGE_TYPES[storage_type]), count)


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"the archive holds {len(pickles)} files named data.pkl instead of 1")
        directory = pickles[0].removesuffix("data.pkl")
        if f"{directory}byteorder" in names and archive.read(f"{directory}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")

        def load_storage(key, dtype, count):
            return np.frombuffer(archive.read(f"{directory}data/{key}"), dtype, count)

        return _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), load_storage).load()


def _read_legacy(file):
    """Reads a magic number, a version, the machine, the state dict, the keys and the storages."""
    available = os.fstat(file.fileno()).st_size
    storages = {}

    def new_storage(key, dtype, count):  # The elements come later in the file.
        if not 0 <= count * dtype.itemsize <= available:
            raise ValueError("a storage is larger than the file")
        return storages.setdefault(key, np.zeros(count, dtype))

    if _TensorUnpickler(file).load() != LEGACY_MAGIC:
        raise ValueError("it does not begin like a PyTorch file")
    if _TensorUnpickler(file).load() != LEGACY_PROTOCOL:
        raise ValueError("its version is unknown")
    if not _TensorUnpickler(file).load()["little_endian"]:
        raise ValueError("it was written on a big-endian machine")
    tensors = _TensorUnpickler(file, new_storage).load()
    for key in _TensorUnpickler(file).load():
        storage = storages[key]
        count, = struct.unpack("<q", file.read(8))
        if count != storage.size or file.readinto(memoryview(storage).cast("B")) != storage.nbytes:
            raise ValueError(f"the storage {key} is not complete")
    return tensors
