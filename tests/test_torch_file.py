"""Tensors are read from PyTorch files without PyTorch, and nothing else is ever built."""

import builtins
import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from mlnt_tf.models import torch_file
from mlnt_tf.models.torch_file import UnsafeFileError, read_tensors

WEIGHT = np.arange(24, dtype=np.float32).reshape(4, 6)
COUNT = np.array(7, np.int64)


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """A module with the names that a pickle of tensors refers to."""
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in torch_file.STORAGE_TYPES:
        setattr(module, name, type(name, (), {"__module__": "torch"}))
    rebuild = types.FunctionType((lambda *_: None).__code__, {})
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return module


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array
        self.kind = {"f": "FloatStorage", "i": "LongStorage"}[array.dtype.kind]


class Tensor:
    def __init__(self, storage, shape, strides, offset=0):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Call:
    """Makes its unpickler call a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TensorPickler(pickle.Pickler):
    def __init__(self, file, *, legacy):
        super().__init__(file, protocol=2)
        self.legacy, self.storages = legacy, {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value.array
        kind = getattr(sys.modules["torch"], value.kind)
        reference = ("storage", kind, value.key, "cpu", value.array.size)
        return (*reference, None) if self.legacy else reference


def write(path, content, *, legacy):
    """Writes what `torch.save` would."""
    pickled = io.BytesIO()
    pickler = TensorPickler(pickled, legacy=legacy)
    pickler.dump(content)
    if not legacy:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("name/data.pkl", pickled.getvalue())
            archive.writestr("name/byteorder", "little")
            for key, array in pickler.storages.items():
                archive.writestr(f"name/data/{key}", array.tobytes())
        return
    with open(path, "wb") as file:
        machine = {"little_endian": True}
        for header in (torch_file.LEGACY_MAGIC, torch_file.LEGACY_PROTOCOL, machine):
            pickle.dump(header, file, protocol=2)
        file.write(pickled.getvalue())
        pickle.dump(list(pickler.storages), file, protocol=2)
        for array in pickler.storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


def state_dict():
    weight = Storage("1", WEIGHT)
    state = collections.OrderedDict(
        weight=Tensor(weight, (4, 6), (6, 1)), transposed=Tensor(weight, (6, 4), (1, 6)),
        last_row=Tensor(weight, (6,), (1,), offset=18), count=Tensor(Storage("2", COUNT), (), ()))
    state._metadata = collections.OrderedDict(version=1)  # as PyTorch stores it
    return state


both_formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


@both_formats
def test_tensors_are_read_with_their_shapes_strides_and_offsets(tmp_path, legacy):
    write(tmp_path / "a.pth", state_dict(), legacy=legacy)
    tensors = read_tensors(tmp_path / "a.pth")
    expected = {"weight": WEIGHT, "transposed": WEIGHT.T, "last_row": WEIGHT[3], "count": COUNT}
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype


@both_formats
@pytest.mark.parametrize("function, arguments, name", [
    (os.system, ("touch HERE",), r"(posix|nt)\.system"),
    (builtins.eval, ("open('HERE', 'w')",), r"\w+\.eval"),
    (builtins.getattr, ("a", "upper"), r"\w+\.getattr"), (np.dtype, ("f4",), r"numpy\.dtype"),
    (collections.Counter, (), r"collections\.Counter")])
def test_every_other_name_is_refused_and_nothing_is_called(
        tmp_path, legacy, function, arguments, name):
    target = tmp_path / "called"
    arguments = [argument.replace("HERE", str(target)) for argument in arguments]
    write(tmp_path / "a.pth", {"weight": Call(function, *arguments)}, legacy=legacy)
    message = f"it names {name}, which is not part of a tensor"
    with pytest.raises(UnsafeFileError, match=message) as caught:
        read_tensors(tmp_path / "a.pth")
    assert "\n" not in str(caught.value) and not target.exists()


@pytest.mark.parametrize("name", [
    "torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict", "torch\nFloatStorage"])
@pytest.mark.parametrize("state", [b"}U\x01aK\x01s", b"N}U\x01aK\x01s\x86"],
                         ids=["attributes", "slots"])
def test_attributes_of_a_permitted_name_cannot_be_set(name, state):
    forged = b"\x80\x02c" + name.encode() + b"\n" + state + b"b."
    with pytest.raises((AttributeError, TypeError)):
        torch_file._TensorUnpickler(io.BytesIO(forged)).load()
    assert not hasattr(collections.OrderedDict, "a")


@both_formats
@pytest.mark.parametrize("shape, strides, offset", [
    ((5, 6), (6, 1), 0), ((4, 6), (6, 1), 1), ((100,), (0,), 0), ((4, 6), (6,), 0),
    ((4,), (-1,), 5), ((-1,), (1,), 0)])
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, legacy, shape, strides, offset):
    tensor = Tensor(Storage("1", WEIGHT), shape, strides, offset)
    write(tmp_path / "a.pth", {"weight": tensor}, legacy=legacy)
    with pytest.raises(UnsafeFileError, match="beyond its storage|contradict each other"):
        read_tensors(tmp_path / "a.pth")


@both_formats
@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {1: 2}, None])
def test_content_other_than_a_dict_of_tensors_is_refused(tmp_path, legacy, content):
    write(tmp_path / "a.pth", content, legacy=legacy)
    with pytest.raises(UnsafeFileError, match="instead of a dict of tensors|not a tensor"):
        read_tensors(tmp_path / "a.pth")


@both_formats
def test_a_damaged_file_is_refused_in_one_line(tmp_path, legacy):
    write(tmp_path / "a.pth", state_dict(), legacy=legacy)
    complete = (tmp_path / "a.pth").read_bytes()
    for length in range(0, len(complete) - 1, 37):
        (tmp_path / "cut.pth").write_bytes(complete[:length])
        with pytest.raises(UnsafeFileError, match=r"cut\.pth is not a readable") as caught:
            read_tensors(tmp_path / "cut.pth")
        assert "\n" not in str(caught.value)
