"""Checkpoints that are damaged or mean harm: an error of the documented kinds, never more.

Files are made with Python's own pickle and zip modules, or with the package's writers fed with
lies; a sample is cut at every byte and changed in every byte.
"""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtorch as mt
from microtorch.checkpoint.archive import ArchiveReader
from microtorch.checkpoint.pickler import Call, Global, Persistent, Writer

REFUSALS = (pickle.UnpicklingError, RuntimeError, EOFError)
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


def edited(data, changes, compression=zipfile.ZIP_STORED):
    """The archive with records replaced, or left out where the change is None."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", compression) as new:
        records = {name: old.read(name) for name in old.namelist()}
        records |= {f"archive/{name}": change for name, change in changes.items()}
        for name, record in records.items():
            if record is not None:
                new.writestr(name, record)
    return file.getvalue()


def test_empty_file_and_file_read_to_its_end(tmp_path):
    (tmp_path / "empty.pt").touch()
    with pytest.raises(EOFError, match=r"^Ran out of input"):
        mt.load(tmp_path / "empty.pt")
    file = io.BytesIO()
    mt.save(1, file)
    with pytest.raises(EOFError, match=r"^Ran out of input"):
        mt.load(file)


def test_rubbish():
    with pytest.raises(pickle.UnpicklingError, match=r"^Weights only load failed.*no checkpoint"):
        loaded(b"RUBBISH" * 100)


def test_the_format_before_zip(torch):
    file = io.BytesIO()
    torch.save(torch.ones(2), file, _use_new_zipfile_serialization=False)
    with pytest.raises(pickle.UnpicklingError, match=r"PyTorch before version 1.6"):
        loaded(file.getvalue())


def test_an_explicit_pickle_module():
    with pytest.raises(RuntimeError, match=r"when explicit pickle_module is specified"):
        loaded(saved(1), pickle_module=pickle)


LOST = r"PytorchStreamReader failed locating file data/1: file not found\. .*corrupted"
DAMAGED_ARCHIVES = {
    "lost record": ({"data/1": None}, LOST),
    "lost pickle": ({"data.pkl": None}, r"failed locating file data\.pkl: file not found"),
    "short record": ({"data/0": b"ab"}, r"record size \(2 bytes\) does not match expected size"),
    "big-endian": ({"byteorder": b"big"}, "big.*-endian numbers"),
    "unknown order": ({"byteorder": b"bog"}, "bog.*-endian numbers"),
    "TorchScript": ({"constants.pkl": b""}, "TorchScript archives"),
}


@pytest.mark.parametrize("name", DAMAGED_ARCHIVES)
def test_damaged_archives(name):
    changes, message = DAMAGED_ARCHIVES[name]
    with pytest.raises(RuntimeError, match=message):
        loaded(edited(saved([mt.ones(2), mt.zeros(2)]), changes))


def test_records_that_are_longer_or_without_byte_order():
    data = edited(saved(mt.ones(2)), {"data/0": b"\0" * 11, "byteorder": None})
    assert loaded(data).tolist() == [0, 0]


def test_compressed_records_are_refused():
    data = edited(saved(mt.zeros(1000)), {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(RuntimeError, match=r"compressed"):
        loaded(data)


def test_a_wrong_checksum():
    data = saved(mt.ones(2))
    at = data.index(np.ones(2, np.float32).tobytes())
    with pytest.raises(RuntimeError, match=r"failed reading zip archive: Bad CRC-32"):
        loaded(data[:at] + b"x" + data[at + 1 :])


def test_a_directory_that_lists_the_same_bytes_often():
    """The whole file as one record is possible once, not twice."""
    data = bytearray(with_pickle(Writer(lambda obj: None).dumps(rebuild()), bytes(5000)))
    archive_size = len(data)
    reader = ArchiveReader(io.BytesIO(data))
    assert reader.read("data/0").size == 5000 < archive_size < 2 * 5000
    with pytest.raises(RuntimeError, match=r"longer than the file can hold"):
        reader.read("data/0")


@pytest.fixture(scope="module")
def sample():
    x = mt.arange(12.0).reshape(3, 4)
    state = collections.OrderedDict(weight=x, column=x[1:, 2], bias=mt.nn.Parameter(mt.ones(2)))
    state._metadata = {"": {"version": 1}}
    data = [(), (1,), {None: (1, 2), (1, "a"): 2.5}, {3}, b"\xff", 2**70, True, mt.float32]
    return saved({"state": state, "again": x, "data": data, "place": mt.device("cpu")})


def inspect(obj):
    """Read every element, so that a view of memory that is not there would show."""
    if isinstance(obj, mt.Tensor):
        assert obj.numel() > 10**6 or len(str(obj.detach().numpy().tolist())) > 0
    elif isinstance(obj, (list, tuple)):
        for item in obj:
            inspect(item)
    elif isinstance(obj, dict):
        inspect([*obj.keys(), *obj.values()])


def test_every_truncation_is_refused(sample):
    for size in range(len(sample)):
        with pytest.raises(REFUSALS):
            loaded(sample[:size])


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF, 0x10])
@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
def test_every_changed_byte_is_refused_or_harmless(sample, flip, mapped, tmp_path):
    """Nothing but an error of the documented kinds, or tensors that can be read."""
    for at in range(len(sample)):
        data = sample[:at] + bytes([sample[at] ^ flip]) + sample[at + 1 :]
        try:
            if mapped:
                path = tmp_path / "x.pt"
                path.write_bytes(data)
                found = mt.load(path, mmap=True)
            else:
                found = loaded(data)
        except REFUSALS:
            continue
        inspect(found)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_pickles_are_refused_or_harmless(sample, data):
    """As above, with the checksums made right, so that the pickle is read to the end."""
    with zipfile.ZipFile(io.BytesIO(sample)) as file:
        pickled = bytearray(file.read("archive/data.pkl"))
    for _ in range(data.draw(st.integers(1, 3))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = loaded(edited(sample, {"data.pkl": bytes(pickled)}))
    except REFUSALS:
        return
    inspect(found)


# ------------------------------------------------------------------------- files that mean harm
def with_pickle(pickled, storage=bytes(16)):
    """A valid archive around any pickle, with one storage of four float32."""
    return edited(saved(mt.ones(4)), {"data.pkl": pickled, "data/0": storage})


class Reduces:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("name, call", {
    f"{os.name}.system": (os.system, ("touch harm",)),
    "builtins.eval": (eval, ("open('harm', 'w')",)),
    "builtins.getattr": (getattr, (1, "real")),
    "builtins.bytes.fromhex": (bytes.fromhex, ("00",)),
}.items())  # fmt: skip
def test_calls_are_refused_by_name(name, call, weights_only, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = with_pickle(pickle.dumps({"a": Reduces(*call)}, 2))
    names = "builtins.getattr" if "fromhex" in name else name
    with pytest.raises(pickle.UnpicklingError, match=f"^Weights only load failed.*GLOBAL {names} "):
        loaded(data, weights_only=weights_only)
    assert os.listdir(tmp_path) == []


def test_a_whole_module_of_pytorch_is_refused(torch):
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL torch\.nn\.modules\.linear\.Linear"):
        loaded(saved(torch.nn.Linear(1, 1), torch))


def test_a_dtype_that_we_lack_is_named(torch):
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL torch\.BFloat16Storage"):
        loaded(saved(torch.ones(2, dtype=torch.bfloat16), torch))


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
FLOATS = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 4))


def rebuild(storage=FLOATS, offset=0, size=(4,), stride=(1,), grad=False, *more):
    return Call(REBUILD, (storage, offset, size, stride, grad, collections.OrderedDict(), *more))


def test_the_forged_tensor_is_a_good_one_when_it_tells_the_truth():
    data = with_pickle(Writer(lambda obj: None).dumps(rebuild()))
    assert loaded(data).tolist() == [0, 0, 0, 0]


FORGED = {
    "too long": rebuild(size=(5,)),
    "offset": rebuild(offset=1),
    "offset of a 0-d": rebuild(offset=4, size=(), stride=()),
    "stride": rebuild(size=(2,), stride=(4,)),
    "two strides": rebuild(size=(2, 2), stride=(2, 2)),
    "negative stride": rebuild(offset=3, stride=(-1,)),
    "negative offset": rebuild(offset=-1),
    "negative size": rebuild(size=(-1,)),
    "no stride": rebuild(stride=()),
    "overflow": rebuild(size=(2**62, 2**62), stride=(0, 0)),
    "overflow of stride": rebuild(size=(1, 4), stride=(2**70, 1)),
    "big sizes": rebuild(size=(2**40,)),
    "float size": rebuild(size=(4.0,)),
    "bool size": rebuild(size=(True,)),
    "list for a size": rebuild(size=[4]),
    "int for a storage": rebuild(storage=5),
    "int for a flag": rebuild(grad=1),
    "metadata": rebuild(FLOATS, 0, (4,), (1,), False, {"neg": True}),
    "no arguments": Call(REBUILD, ()),
    "lying count": rebuild(Persistent((*FLOATS.identity[:4], 2**40)), 0, (2**40,)),
    "negative count": rebuild(Persistent((*FLOATS.identity[:4], -1)), 0, (0,)),
    "wider storage": rebuild(
        Persistent(("storage", Global("torch", "DoubleStorage"), "0", "cpu", 4))
    ),
    "storage by an int": rebuild(Persistent((*FLOATS.identity[:2], 0, "cpu", 4))),
    "storage of no type": rebuild(Persistent(("storage", 1, "0", "cpu", 4))),
    "storage elsewhere": rebuild(Persistent(("file", *FLOATS.identity[1:]))),
    "storage outside": rebuild(Persistent((*FLOATS.identity[:2], "../data.pkl", "cpu", 4))),
    "integer with gradient": rebuild(
        Persistent(("storage", Global("torch", "IntStorage"), "0", "cpu", 4)), grad=True
    ),
    "parameter of a list": Call(Global("torch._utils", "_rebuild_parameter"), ([], True, {})),
    "size of a list": Call(Global("torch", "Size"), ([1],)),
    "device of an int": Call(Global("torch", "device"), (1,)),
    "unknown device": Call(Global("torch", "device"), ("toaster",)),
    "zeros without end": Call(Global("__builtin__", "bytearray"), (2**50,)),
    "other codec": Call(Global("_codecs", "encode"), ("a", "idna")),
    "set of a string": Call(Global("__builtin__", "set"), ("abc",)),
    "set of lists": Call(Global("__builtin__", "set"), ([[]],)),
    "counter of a list": Call(Global("collections", "Counter"), ([],)),
    "complex of strings": Call(Global("__builtin__", "complex"), ("1", "2")),
    "ordered dict of pairs": Call(Global("collections", "OrderedDict"), ([],)),
    "call of a dtype": Call(Global("torch", "float32"), ()),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_calls_are_refused(name):
    data = with_pickle(Writer(lambda obj: None).dumps({"a": FORGED[name]}))
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        loaded(data)


def test_an_expanded_tensor_takes_no_memory():
    data = with_pickle(Writer(lambda obj: None).dumps(rebuild(size=(2**40,), stride=(0,))))
    assert loaded(data).shape == (2**40,)


SET_SHAPE = b"N}X\x05\0\0\0shapeK\1s\x86b"  # (None, {"shape": 1}), BUILD
PROGRAMS = {
    "state of a function": b"c__builtin__\nset\n" + SET_SHAPE,
    "state of a dtype": b"ctorch\nfloat32\n" + SET_SHAPE,
    "state of a storage type": b"ctorch\nFloatStorage\n" + SET_SHAPE,
    "state of a list": b"]" + SET_SHAPE,
    "slots of an ordered dict": b"ccollections\nOrderedDict\n)R" + SET_SHAPE,
    "item of a function": b"c__builtin__\nset\nK\1K\1s",
    "item of a list": b"](K\0K\1u",
    "odd items": b"}(K\0K\1K\2u",
    "append to a set": b"c__builtin__\nset\n]\x85RK\1a",
    "new object": b"c__builtin__\nset\n)\x81",
    "instance": b"(i__builtin__\nset\n",
    "registered extension": b"\x82\1",
    "persistent text": b"P0\n",
    "name from the stack": b"X\2\0\0\0osX\6\0\0\0system\x93",
    "call of a tuple": b")(t)R",
    "call with a list": b"c__builtin__\nset\n]R",
    "key that has no hash": b"}]K\1s",
    "unknown memo": b"h\5",
    "no mark": b"K\1t",
    "nothing": b"",
    "pop of nothing": b"a",
    "memo of nothing": b"q\0",
    "string beyond the end": b"X\xff\xff\xff\xff",
    "int beyond the end": b"\x8a\xff",
    "name without end": b"ctorch",
    "bad utf-8": b"X\1\0\0\0\xff",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_pickles_that_do_more_than_data_are_refused(name):
    with pytest.raises(pickle.UnpicklingError, match=r"^Weights only load failed"):
        loaded(with_pickle(b"\x80\2" + PROGRAMS[name] + b"."))


def test_a_huge_memo_index_takes_no_memory():
    assert loaded(with_pickle(b"\x80\2K\7r\xff\xff\xff\xff.")) == 7


def test_state_of_an_ordered_dict_cannot_hide_its_methods():
    state = b"}(X\5\0\0\0itemsK\1X\x09\0\0\0_metadataK\2ub"
    found = loaded(with_pickle(b"\x80\2ccollections\nOrderedDict\n)R" + state + b"."))
    assert vars(found) == {"_metadata": 2}


def test_a_million_nested_tuples_are_no_key_and_no_crash():
    nest = b")" + b"\x85" * 10**6
    for use in (b"}" + nest + b"K\1s", b"c__builtin__\nset\n]" + nest + b"a\x85R"):
        with pytest.raises(pickle.UnpicklingError, match=r"a key has more than 1000 parts"):
            loaded(with_pickle(b"\x80\2" + use + b"."))
    del use
    assert len(loaded(with_pickle(b"\x80\2" + nest + b"."))) == 1


def test_a_key_that_doubles_sixty_times_ends():
    doubling = b"K\1" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
    with pytest.raises(pickle.UnpicklingError, match=r"a key has more than 1000 parts"):
        loaded(with_pickle(b"\x80\2}" + doubling + b"K\1s."))


def test_a_string_copied_over_and_over_is_refused():
    text = b"X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\0X\6\0\0\0latin1q\1"
    copies = b"c_codecs\nencode\nq\2" + b"h\2h\0h\1\x86R" * 10
    with pytest.raises(pickle.UnpicklingError, match=r"copies its parts over and over"):
        loaded(with_pickle(b"\x80\2" + text + copies + b"."))


# -------------------------------------------------------------------------------- map_location
def on(place):
    storage = Persistent(("storage", Global("torch", "FloatStorage"), "0", place, 4))
    return with_pickle(Writer(lambda obj: None).dumps(rebuild(storage)))


CPU = {
    "cpu": "cpu",
    "device": mt.device("cpu"),
    "dict": {"cuda:1": "cpu"},
    "dict of devices": {"cuda:1": mt.device("cpu")},
    "function": lambda storage, place: storage,
}


@pytest.mark.parametrize("name", CPU)
def test_tensors_of_a_gpu_are_put_on_the_cpu(name):
    assert loaded(on("cuda:1"), map_location=CPU[name]).tolist() == [0, 0, 0, 0]


def test_a_function_gets_the_storage_and_its_place():
    seen = []
    loaded(on("cuda:1"), map_location=lambda storage, place: seen.append((storage, place)) or 1)
    [(storage, place)] = seen
    assert place == "cuda:1" and storage.tolist() == [0] * 16


ELSEWHERE = {
    "saved on a GPU": ("cuda:1", None),
    "other GPU": ("cuda:1", {"cuda:0": "cpu"}),
    "wanted on a GPU": ("cpu", "cuda"),
    "wanted on a GPU's device": ("cpu", mt.device("cuda:0")),
    "function that leaves it": ("cuda:1", lambda storage, place: None),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_gpu_that_is_not_there(name):
    place, wanted = ELSEWHERE[name]
    with pytest.raises(RuntimeError, match=r"object on a CUDA device but torch.cuda.is_available"):
        loaded(on(place), map_location=wanted)


def test_a_place_that_nobody_knows():
    with pytest.raises(RuntimeError, match=r"restore data location of .* \(tagged with attic\)"):
        loaded(saved(mt.ones(1)), map_location="attic")


def test_an_error_of_the_users_function_is_not_changed():
    def fail(storage, place):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        loaded(on("cpu"), map_location=fail)
