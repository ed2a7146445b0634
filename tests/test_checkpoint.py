"""Checkpoints, both directions: what is saved is loaded, here and by PyTorch.

A case of `OBJECTS` is built from either library by the same lambda. Where PyTorch is installed,
each file is read by the other library and the bytes are compared.
"""

import collections
import gzip
import io
import os
import pickle
import pickletools
import stat
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtorch as mt
from microtorch.checkpoint import archive
from microtorch.checkpoint.archive import ArchiveWriter
from microtorch.checkpoint.pickler import Writer
from microtorch.tensor import wrap

DTYPES = "float64 float32 float16 int64 int32 int16 int8 uint8 bool".split()
WITHOUT_TORCH = "PyTorch is the oracle here: pip install torch"


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason=WITHOUT_TORCH)


def saved(obj, lib=mt):
    file = io.BytesIO()
    lib.save(obj, file)
    return file.getvalue()


def loaded(data, lib=mt, **options):
    return lib.load(io.BytesIO(data), **options)


def metadata(lib):
    state = collections.OrderedDict(weight=lib.ones(2, 3), bias=lib.zeros(2))
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    return state


def views(lib):
    x = lib.arange(12.0).reshape(3, 4)
    return [x, x.t(), x[1:, 2], x[:, ::2], x.reshape(12)[5], lib.ones(1, 3).expand(4, 3)]


def shared_tensor(lib):
    x = lib.ones(3)
    return {"a": x, "b": [x, (x,)]}


OBJECTS = {
    **{d: (lambda lib, d=d: lib.tensor([[0, 1], [1, 0]], dtype=getattr(lib, d))) for d in DTYPES},
    "views": views,
    "one tensor twice": shared_tensor,
    "0-d": lambda lib: lib.tensor(3),
    "empty": lambda lib: [lib.zeros(0), lib.zeros(2, 0, 3), lib.ones(4)[:0]],
    "fortran order": lambda lib: lib.ones(3, 4).t() + 1,
    "permuted": lambda lib: lib.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    "requires grad": lambda lib: lib.ones(2, requires_grad=True),
    "parameter": lambda lib: lib.nn.Parameter(lib.ones(2, 3)),
    "frozen parameter": lambda lib: lib.nn.Parameter(lib.ones(2), requires_grad=False),
    "integer parameter": lambda lib: lib.nn.Parameter(lib.tensor([1, 2]), requires_grad=False),
    "state dict": metadata,
    "more than 256 names": lambda lib: {f"layer.{i}": lib.ones(1) * i for i in range(70)},
    "numbers": lambda lib: [0, 255, 256, 65536, -1, -(2**31), 2**31, -(2**39), 2**70, 0.5, -0.0,
                            float("inf"), True, False, None, 1 + 2j],
    "strings": lambda lib: ["", "abc", "é\n雪", "\ud800", b"", b"a\x00\xff", bytearray(b"xy")],
    "containers": lambda lib: {"t": (), 1: (1,), None: (1, 2), (1, "a"): (1, 2, 3), 2.5: (1,) * 4,
                               "l": [], "m": [1], "n": [1, 2], "d": {}, "s": {1, 2}, "e": set()},
    "ordered": lambda lib: collections.OrderedDict(b=1, a=collections.OrderedDict()),
    "counter": lambda lib: collections.Counter([3, 3, 5]),
    "torch objects": lambda lib: [lib.Size([1, 2]), lib.Size([]), lib.device("cpu"), lib.float32,
                                  lib.device("cuda:1"), lib.bool, lib.ones(2, 3).shape],
}  # fmt: skip


def facts(obj):
    """What must survive, in terms that both libraries share."""
    if hasattr(obj, "storage_offset"):
        grad = obj.requires_grad
        plain = obj.detach().numpy()
        stride = tuple(obj.stride()) if obj.numel() else None
        return (type(obj).__name__, str(obj.dtype), tuple(obj.shape), stride, grad, plain.tolist())
    if isinstance(obj, dict):
        extra = facts(getattr(obj, "_metadata", None))
        return (type(obj), [(facts(k), facts(v)) for k, v in obj.items()], extra)
    if isinstance(obj, (list, tuple)):
        return (type(obj).__name__, [facts(item) for item in obj])
    if type(obj).__name__ in ("device", "dtype"):
        return str(obj)
    return (type(obj), repr(obj))


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_saved_is_loaded(name):
    obj = OBJECTS[name](mt)
    assert facts(loaded(saved(obj))) == facts(obj)


@pytest.mark.parametrize("name", OBJECTS)
def test_pytorch_reads_our_file(name, torch):
    assert facts(loaded(saved(OBJECTS[name](mt)), torch)) == facts(OBJECTS[name](torch))


@pytest.mark.parametrize("name", OBJECTS)
def test_we_read_pytorchs_file(name, torch):
    assert facts(loaded(saved(OBJECTS[name](torch), torch))) == facts(OBJECTS[name](mt))


@pytest.mark.parametrize("name", [n for n in OBJECTS if n not in ("empty", "strings", "numbers")])
def test_bytes_are_pytorchs(name, torch):
    """But for the serialization id, and for the strides of empty arrays and bytes of length 0."""
    ours, theirs = saved(OBJECTS[name](mt)), saved(OBJECTS[name](torch), torch)
    end = theirs.index(b"archive/.data/serialization_id")
    assert len(ours) == len(theirs)
    assert ours[:end] == theirs[:end]


def test_no_name_outside_the_packages_table_is_written():
    names = set()
    for make in OBJECTS.values():
        with zipfile.ZipFile(io.BytesIO(saved(make(mt)))) as file:
            for code, value, _ in pickletools.genops(file.read("archive/data.pkl")):
                if code.name == "GLOBAL":
                    names.add(value)
    assert {name.split()[0] for name in names} == {
        "torch", "torch._utils", "collections", "_codecs", "__builtin__"
    }  # fmt: skip


def test_views_share_memory_after_loading():
    x, transposed, column = loaded(saved(views(mt)[:3]))
    x[1, 2] = 100.0
    assert transposed[2, 1].item() == 100.0
    assert column[0].item() == 100.0


def test_a_tensor_that_occurs_twice_is_one_object_after_loading():
    found = loaded(saved(shared_tensor(mt)))
    assert found["a"] is found["b"][0] is found["b"][1][0]


def test_a_storage_is_saved_once():
    x = mt.zeros(1000)
    assert len(saved([x, x[1:], x[:5], x.detach()])) < 2 * 4000


def test_tensors_of_other_layouts_are_copied(torch):
    gapped = torch.arange(12.0).reshape(3, 4)[:, ::2].numpy()
    backwards = np.arange(4.0)[::-1]
    odd = np.arange(9, dtype=np.uint8)[1:].view(np.float32)
    for array in (gapped, backwards, odd):
        assert np.array_equal(loaded(saved(wrap(array)), torch).numpy(), array)
        assert np.array_equal(loaded(saved(wrap(array))).numpy(), array)


def test_two_dtypes_in_one_memory_are_refused():
    array = np.zeros(4, np.float32)
    with pytest.raises(RuntimeError, match=r"view the same data as different types.*clone\(\)"):
        mt.save([mt.from_numpy(array), mt.from_numpy(array.view(np.int32))], io.BytesIO())


def test_result_of_an_operation_is_a_leaf_after_loading():
    x = mt.ones(2, requires_grad=True)
    found = loaded(saved(x * 2))
    assert found.requires_grad and found.is_leaf


def test_loading_leaves_everything_writable_and_owned():
    x = loaded(saved(mt.ones(3)))
    x += 1
    assert x.tolist() == [2, 2, 2]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**300), 2**300) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    | st.sets(st.integers() | st.text(), max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_plain_data_survives(obj):
    pickled = Writer(lambda obj: None).dumps(obj)
    assert pickle.loads(pickled) == obj
    assert loaded(saved(obj)) == obj


def test_lists_that_hold_themselves():
    a = [1]
    a.append(a)
    found = loaded(saved(a))
    assert found[1] is found


# ------------------------------------------------------------------- modules and optimizers
def test_state_dicts_of_a_module():
    model = mt.nn.Sequential(mt.nn.Linear(3, 4), mt.nn.ReLU(), mt.nn.Linear(4, 1))
    other = mt.nn.Sequential(mt.nn.Linear(3, 4), mt.nn.ReLU(), mt.nn.Linear(4, 1))
    other.load_state_dict(loaded(saved(model.state_dict())))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a.tolist() == b.tolist()


OPTIMIZERS = {
    "SGD": lambda lib, p: lib.optim.SGD(p, lr=0.1),
    "SGD with momentum": lambda lib, p: lib.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda lib, p: lib.optim.Adam(p, lr=0.1, weight_decay=0.01),
    "AdamW": lambda lib, p: lib.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9)),
}


def training(lib, optimizer):
    model = lib.nn.Linear(3, 2)
    opt = OPTIMIZERS[optimizer](lib, model.parameters())

    def step():
        opt.zero_grad()
        ((model(lib.arange(6.0).reshape(2, 3)) - 1) ** 2).mean().backward()
        opt.step()

    return model, opt, step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("forth", [True, False], ids=["from PyTorch", "to PyTorch"])
def test_training_goes_on_in_the_other_library(optimizer, forth, torch):
    first, second = (torch, mt) if forth else (mt, torch)
    model, opt, step = training(first, optimizer)
    step()
    step()
    data = saved({"model": model.state_dict(), "opt": opt.state_dict(), "epoch": 2}, first)
    checkpoint = loaded(data, second)
    other, other_opt, other_step = training(second, optimizer)
    other.load_state_dict(checkpoint["model"])
    other_opt.load_state_dict(checkpoint["opt"])
    step()
    other_step()
    assert checkpoint["epoch"] == 2
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------- files and paths
@pytest.mark.parametrize("kind", [str, lambda p: p])
def test_paths(tmp_path, kind):
    path = kind(tmp_path / "x.pt")
    mt.save({"a": mt.ones(2)}, path)
    assert mt.load(path)["a"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["x.pt"]


def test_path_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mt.save(1, "x.pt")
    assert mt.load("x.pt") == 1


def test_missing_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r"^Parent directory nodir does not exist\.$"):
        mt.save(1, "nodir/x.pt")


def test_old_file_survives_an_unsupported_object(tmp_path):
    path = tmp_path / "x.pt"
    mt.save(1, path)
    with pytest.raises(pickle.PicklingError):
        mt.save({"a": mt.ones(2), "b": object()}, path)
    assert mt.load(path) == 1
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_old_file_survives_a_failing_disk(tmp_path, monkeypatch, error):
    path = tmp_path / "x.pt"
    mt.save(1, path)

    def fail(self):
        raise error

    monkeypatch.setattr(ArchiveWriter, "close", fail)
    with pytest.raises(type(error)):
        mt.save(mt.ones(10), path)
    assert mt.load(path) == 1
    assert os.listdir(tmp_path) == ["x.pt"]


def test_replacing_keeps_mode_and_link(tmp_path):
    path, link = tmp_path / "x.pt", tmp_path / "link.pt"
    mt.save(1, path)
    path.chmod(0o600)
    link.symlink_to(path)
    mt.save(2, link)
    assert link.is_symlink() and mt.load(path) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_device_file_is_written_to_and_not_replaced():
    mt.save(mt.ones(2), os.devnull)
    assert not os.path.isfile(os.devnull)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError):
        mt.save(1, tmp_path)


def test_files_that_only_write_or_only_stream(tmp_path):
    class Pipe:
        def __init__(self):
            self.data = b""

        def write(self, data):
            self.data += data

    pipe = Pipe()
    mt.save(mt.ones(2), pipe)
    assert loaded(pipe.data).tolist() == [1, 1]
    with gzip.open(tmp_path / "x.gz", "wb") as file:
        mt.save(mt.ones(2), file)
    with gzip.open(tmp_path / "x.gz", "rb") as file:
        assert mt.load(file).tolist() == [1, 1]


def test_a_short_write_is_an_error():
    class Full(io.RawIOBase):
        def write(self, data):
            return len(data) // 2

    with pytest.raises(OSError, match=r"bytes could be written"):
        mt.save(1, Full())


def test_no_file_at_all():
    with pytest.raises(AttributeError, match=r"expected 'f' to be string, path, or a file-like"):
        mt.save(1, 3)
    with pytest.raises(AttributeError, match=r"You can only torch.load from a file that is seek"):
        mt.load(3)


def test_a_pipe_cannot_be_loaded():
    end, start = os.pipe()
    os.close(start)
    with os.fdopen(end, "rb") as file:
        with pytest.raises(OSError, match=r"You can only torch.load from a file"):
            mt.load(file)


def test_storages_are_aligned(tmp_path):
    data = saved({f"{i}": mt.arange(i + 1) for i in range(5)})
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for info in file.infolist():
            name, extra = struct.unpack_from("<2H", data, info.header_offset + 26)
            assert (info.header_offset + 30 + name + extra) % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED
        assert file.testzip() is None
        assert file.read("archive/version") == b"3\n"
        assert len(file.read("archive/.data/serialization_id")) == 40


@pytest.mark.parametrize("name", ["views", "empty", "state dict"])
def test_mapped_files(tmp_path, name):
    path = tmp_path / "x.pt"
    mt.save(OBJECTS[name](mt), path)
    assert facts(mt.load(path, mmap=True)) == facts(OBJECTS[name](mt))


def test_pytorch_maps_our_file_and_computes_its_layout(tmp_path, torch):
    path = tmp_path / "x.pt"
    state = {"a": mt.ones(3), "e": mt.zeros(0), "b": mt.arange(100), "c": mt.tensor([True])}
    mt.save(state, path)
    found = torch.load(path, mmap=True)
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in state.items()}
    offsets = {
        k: v.untyped_storage()._checkpoint_offset
        for k, v in torch.load(path, map_location="meta").items()
    }
    data = path.read_bytes()
    assert np.frombuffer(data, np.float32, 3, offsets["a"]).tolist() == [1, 1, 1]
    assert np.frombuffer(data, np.int64, 100, offsets["b"]).tolist() == list(range(100))
    assert data[offsets["c"]] == 1


def test_changes_to_a_mapped_tensor_stay_in_memory(tmp_path):
    path = tmp_path / "x.pt"
    mt.save(mt.ones(3), path)
    x = mt.load(path, mmap=True)
    x += 1
    assert x.tolist() == [2, 2, 2]
    mt.save(x, tmp_path / "y.pt")
    assert mt.load(tmp_path / "y.pt").tolist() == [2, 2, 2]
    assert (tmp_path / "y.pt").stat().st_size == path.stat().st_size
    assert mt.load(path).tolist() == [1, 1, 1]


def test_only_paths_are_mapped():
    with pytest.raises(ValueError, match=r"f must be a file path in order to use the mmap"):
        loaded(saved(1), mmap=True)


@pytest.mark.parametrize("start", [0, 500, 1000])
def test_large_file_fields(monkeypatch, torch, start):
    """The 64-bit fields of files above 4 GiB, at a size that a test can hold."""
    monkeypatch.setattr(archive, "ZIP64_FROM", start)
    data = saved([mt.arange(200), mt.ones(3)])
    for lib in (mt, torch):
        a, b = loaded(data, lib)
        assert a.tolist() == list(range(200)) and b.tolist() == [1, 1, 1]


# -------------------------------------------------------------------------- what is refused
class Unknown:
    pass


def unknown_function():
    pass


UNSUPPORTED = {
    "microtorch.nn.linear.Linear": lambda: mt.nn.Linear(1, 1),
    "builtins.function": lambda: unknown_function,
    "test_checkpoint.Unknown": Unknown,
    "builtins.type": lambda: Unknown,
    "builtins.module": lambda: os,
    "numpy.ndarray": lambda: np.ones(2),
    "numpy.datetime64": lambda: np.datetime64(1, "s"),
    "collections.defaultdict": lambda: collections.defaultdict(list),
    "builtins.frozenset": lambda: frozenset([1]),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_objects_are_named(name):
    for obj in (UNSUPPORTED[name](), {"a": [UNSUPPORTED[name]()]}):
        with pytest.raises(pickle.PicklingError, match=rf"type {name}: .*state_dict\(\)"):
            mt.save(obj, io.BytesIO())


def test_an_int_without_end():
    with pytest.raises(pickle.PicklingError, match=r"too long for a checkpoint"):
        mt.save(1 << 3000, io.BytesIO())


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        mt.load(tmp_path / "none.pt")


def test_numbers_of_numpy_are_saved_as_those_of_python():
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    given = {
        "loss": np.float64(3.5),
        "step": np.int64(7),
        "on": np.bool_(True),
        "x": [np.float32(2)],
    }
    file = io.BytesIO()
    mt.save(given, file, _use_new_zipfile_serialization=False)
    for library in (mt, pytorch):
        file.seek(0)
        found = library.load(file)
        assert found == {"loss": 3.5, "step": 7, "on": True, "x": [2.0]}
        assert [type(v) for v in found.values()] == [float, int, bool, list]
