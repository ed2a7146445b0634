"""The kernel cache: a second process compiles nothing, and nothing in the cache can hurt a caller.

A damaged, foreign or missing entry is compiled anew; a directory that cannot be written costs one
warning. Each test has a cache of its own.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings

import pytest
from process import finish, run, start

import microtorch
from microtorch.kernels import frontend, jit, link, store

PROGRAM = """
import json, sys
import microtorch as torch
x = torch.tensor([1.0, -2.0, 3.0])
values = (x * x + x).tolist()
info = torch.cache_info()
print(json.dumps({**info, "values": values, "numba": "numba" in sys.modules}))
"""
VALUES = [2.0, 2.0, 12.0]
DOUBLE = "def double(place, b, c, d):\n    i64_at(place)[0] *= 2\n"
SIGNATURE = "void(i64,i64,i64,i64)"


def outcome(text):
    """What the program reports, after a check of its results."""
    report = json.loads(text)
    assert report["values"] == VALUES
    return report


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache directory that one process has filled."""
    folder = tmp_path_factory.mktemp("filled") / "cache"
    out, err = run(PROGRAM, folder, "-W", "error")
    report = outcome(out)
    assert err == ""
    assert report["compiled"] == report["kernels"] > 0
    assert report["loaded"] == 0
    return folder


@pytest.fixture
def cache(filled, tmp_path):
    """A copy of the filled cache that a test may spoil."""
    return shutil.copytree(filled, tmp_path / "cache")


@pytest.fixture
def own(monkeypatch, tmp_path):
    """This process with an empty cache, that it may write to, and with no kernel loaded."""
    folder = tmp_path / "own"
    monkeypatch.setenv("MICROTORCH_CACHE_DIR", str(folder))
    monkeypatch.setattr(store, "_writable", True)
    monkeypatch.setattr(jit, "_addresses", {})
    monkeypatch.setattr(jit, "counts", {"compiled": 0, "loaded": 0, "rejected": 0})
    return folder


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """Stem, symbol and object code of one sound entry."""
    folder = tmp_path_factory.mktemp("entry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROTORCH_CACHE_DIR", str(folder))
        patch.setattr(store, "_writable", True)
        jit.address("double", DOUBLE)
    (found,) = folder.glob("double-*.o")
    symbol, code = sound(folder, found.stem)
    return found.stem, symbol, code


def sound(folder, stem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROTORCH_CACHE_DIR", str(folder))
        return store.read(stem)


def works(text=DOUBLE):
    """Whether the kernel of the text computes what it says."""
    place = jit.ctypes.c_int64(21)
    jit.function("double", text, SIGNATURE)(jit.ctypes.addressof(place), 0, 0, 0)
    return place.value == 42


# ------------------------------------------------------------------- a second process
def test_second_process_compiles_nothing_and_never_imports_numba(cache):
    out, err = run(PROGRAM, cache, "-W", "error")
    report = outcome(out)
    assert err == ""
    assert report["compiled"] == report["rejected"] == 0
    assert report["loaded"] == report["kernels"] > 0
    assert not report["numba"]


def test_text_is_kept_beside_each_entry(cache):
    stems = {path.stem for path in cache.glob("*.o")}
    assert stems == {path.stem for path in cache.glob("*.py")}
    assert all("def " in path.read_text() for path in cache.glob("*.py"))
    assert not list(cache.glob(".*"))


def test_a_deleted_text_does_no_harm(cache):
    for path in cache.glob("*.py"):
        path.unlink()
    assert outcome(run(PROGRAM, cache)[0])["compiled"] == 0


# --------------------------------------------------------------------- damaged entries
def _signed(stem, symbol, code):
    """An entry whose checksum is right, whatever it holds."""
    return store._entry(stem, symbol, code)


DAMAGES = {
    "empty": lambda stem, symbol, code: b"",
    "magic only": lambda stem, symbol, code: store.MAGIC,
    "garbage": lambda stem, symbol, code: bytes(range(256)) * 20,
    "text": lambda stem, symbol, code: "größer\n\n\n\n".encode(),
    "truncated": lambda stem, symbol, code: _signed(stem, symbol, code)[:-1],
    "truncated header": lambda stem, symbol, code: _signed(stem, symbol, code)[:40],
    "grown": lambda stem, symbol, code: _signed(stem, symbol, code) + b"\0",
    "one bit": lambda stem, symbol, code: (
        _signed(stem, symbol, code)[:-100] + bytes([code[-100] ^ 1]) + code[-99:]
    ),
    "older format": lambda stem, symbol, code: _signed(stem, symbol, code).replace(
        b"microtorch kernel", b"microtorch kernel 0", 1
    ),
    "no format": lambda stem, symbol, code: _signed(stem, symbol, code)[len(store.MAGIC) :],
    "another symbol": lambda stem, symbol, code: _signed(stem, symbol, code).replace(
        symbol.encode(), b"f" * len(symbol), 1
    ),
    "symbol that is no text": lambda stem, symbol, code: _signed(stem, symbol, code).replace(
        symbol.encode(), b"\xff" * len(symbol), 1
    ),
    "entry of another key": lambda stem, symbol, code: _signed("double-" + "0" * 24, symbol, code),
}
# The checksum is right, so these get as far as the linker.
FALSE_CODE = {
    "no code": lambda stem, symbol, code: _signed(stem, symbol, b""),
    "code that is none": lambda stem, symbol, code: _signed(stem, symbol, b"rubbish" * 100),
    "half the code": lambda stem, symbol, code: _signed(stem, symbol, code[: len(code) // 2]),
    "symbol not in the code": lambda stem, symbol, code: _signed(stem, "mt_absent", code),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_no_entry(own, entry, damage):
    stem, symbol, code = entry
    own.mkdir()
    whole = own / f"{stem}.o"
    whole.write_bytes(_signed(stem, symbol, code))
    assert store.read(stem) == (symbol, code)
    whole.write_bytes(DAMAGES[damage](stem, symbol, code))
    assert store.read(stem) is None


def test_absent_entry_or_a_directory_in_its_place_is_no_entry(own, entry):
    stem = entry[0]
    assert store.read(stem) is None
    (own / f"{stem}.o").mkdir(parents=True)
    assert store.read(stem) is None


def test_damaged_entries_are_compiled_anew_and_replaced(cache):
    changes = list({**DAMAGES, **FALSE_CODE}.values())
    runs = 0
    while changes:
        for path in sorted(cache.glob("*.o")):
            symbol, code = sound(cache, path.stem)
            if changes:
                path.write_bytes(changes.pop()(path.stem, symbol, code))
            else:
                path.unlink()
        out, err = run(PROGRAM, cache, "-W", "error")
        report = outcome(out)
        assert err == ""
        assert report["loaded"] == 0
        assert report["compiled"] == report["kernels"]
        runs += 1
    assert runs > 1
    assert outcome(run(PROGRAM, cache)[0])["compiled"] == 0


@pytest.mark.parametrize("damage", FALSE_CODE)
def test_false_code_is_rejected_not_run(cache, damage):
    # In a process of its own: a fault of the linker would end it.
    for path in cache.glob("*.o"):
        path.write_bytes(FALSE_CODE[damage](path.stem, *sound(cache, path.stem)))
    check = (
        "import pathlib, sys\n"
        "from microtorch.kernels import jit\n"
        "stems = [p.stem for p in pathlib.Path(sys.argv[-1]).glob('*.o')]\n"
        "print([jit._load(stem) for stem in stems], jit.counts['rejected'] == len(stems))\n"
    )
    out, _ = run(check.replace("sys.argv[-1]", repr(str(cache))), cache)
    count = len(list(cache.glob("*.o")))
    assert out == f"{[None] * count} True\n"


# ----------------------------------------------------------------- directories, writing
def test_missing_directory_is_made(own):
    nested = own / "a" / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROTORCH_CACHE_DIR", str(nested))
        assert works()
    assert len(list(nested.glob("double-*.o"))) == 1


def test_directory_below_a_file_costs_one_warning(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    out, err = run(PROGRAM, file / "x", "-W", "always")
    report = outcome(out)
    assert report["compiled"] > 1
    assert report["kernels"] == 0
    assert err.count("Warning:") == 1
    assert "goes on without a kernel cache" in err
    assert "Set MICROTORCH_CACHE_DIR" in err


@pytest.mark.parametrize("function", ["open", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_full_or_read_only_disk_costs_one_warning(own, monkeypatch, function, error):
    def fail(*args, **kwargs):
        raise OSError(error, os.strerror(error))

    if function == "open":
        monkeypatch.setattr(store, "open", fail, raising=False)
    else:
        monkeypatch.setattr(store.os, "replace", fail)
    with pytest.warns(UserWarning, match="goes on without a kernel cache") as caught:
        assert works()
        assert works(DOUBLE + "# another text\n")
    assert len(caught) == 1
    assert jit.counts["compiled"] == 2
    assert list(own.iterdir()) == []


def test_disk_that_fills_while_an_entry_is_written_leaves_nothing(own, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(path, mode):
        return Full(open(path, mode)) if mode == "wb" else open(path, mode)

    monkeypatch.setattr(store, "open", opened, raising=False)
    with pytest.warns(UserWarning, match="No space left on device"):
        store.write("double-" + "1" * 24, "symbol", b"code", "text")
    assert list(own.iterdir()) == []


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x/cache"}, "/x/cache/microtorch"),
        ("linux", {"HOME": "/home/u"}, "/home/u/.cache/microtorch"),
        ("darwin", {"HOME": "/Users/u"}, "/Users/u/Library/Caches/microtorch"),
        ("linux", {"HOME": "/home/u", "MICROTORCH_CACHE_DIR": "/y"}, "/y"),
        ("linux", {"HOME": "/home/u", "MICROTORCH_CACHE_DIR": ""}, "/home/u/.cache/microtorch"),
    ],
)
def test_directory_follows_the_platform(monkeypatch, platform, variables, expected):
    for name in ("HOME", "XDG_CACHE_HOME", "MICROTORCH_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store.sys, "platform", platform)
    assert store.directory() == expected


def test_home_unset_still_gives_an_absolute_directory(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "MICROTORCH_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert os.path.isabs(store.directory())


def test_user_without_a_home_goes_on_without_a_cache(own, monkeypatch, tmp_path):
    def unknown(uid):
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "MICROTORCH_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="goes on without a kernel cache") as caught:
        assert works()
    assert len(caught) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [2, 4])
def test_processes_fill_one_cache_at_once(tmp_path, count):
    folder = tmp_path / "shared"
    processes = [start(PROGRAM, folder, "-W", "always") for _ in range(count)]
    for process in processes:
        out, err = finish(process)
        outcome(out)
        assert err.count("Warning:") <= 1
    assert not list(folder.glob(".*"))
    assert outcome(run(PROGRAM, folder, "-W", "error")[0])["compiled"] == 0


# ------------------------------------------------------------------------ size, clearing
def test_oldest_entries_go_when_the_cap_is_reached(own, monkeypatch):
    stems = [f"double-{k:024x}" for k in range(8)]
    for age, stem in enumerate(stems):
        store.write(stem, "symbol", bytes(1000), "")
        for suffix in (".o", ".py"):
            os.utime(own / (stem + suffix), (1e9 + age, 1e9 + age))
    size = (own / (stems[0] + ".o")).stat().st_size
    monkeypatch.setattr(store, "CAP_BYTES", 3 * size)
    monkeypatch.setattr(store, "PRUNE_EVERY", 1)
    newest = "double-" + "f" * 24
    store.write(newest, "symbol", bytes(1000), "")
    assert {path.stem for path in own.glob("*.o")} == {*stems[-2:], newest}
    assert microtorch.cache_info()["bytes"] <= store.CAP_BYTES


def test_what_a_killed_process_left_is_counted_and_cleared(own):
    own.mkdir()
    left = own / (".double-" + "0" * 24 + ".o.123.0123abcd")
    left.write_bytes(bytes(10))
    assert microtorch.cache_info()["bytes"] == 10
    assert microtorch.cache_info()["kernels"] == 0
    microtorch.clear_cache()
    assert not left.exists()


def test_clear_cache_deletes_entries_and_nothing_else(own):
    assert works()
    others = [own / name for name in ("mine.py", "main.o", "notes.txt", "a-b.py")]
    for path in others:
        path.write_text("keep")
    info = microtorch.cache_info()
    assert info["kernels"] == 1
    assert info["bytes"] == sum(p.stat().st_size for p in own.glob("double-*"))
    microtorch.clear_cache()
    assert sorted(own.iterdir()) == sorted(others)
    assert microtorch.cache_info()["kernels"] == microtorch.cache_info()["bytes"] == 0
    # What is loaded goes on working, and is not compiled again.
    assert works()
    assert jit.counts["compiled"] == 1


def test_clear_cache_of_a_missing_directory_does_nothing(own):
    microtorch.clear_cache()
    assert microtorch.cache_info()["kernels"] == 0


def test_clear_cache_lets_writing_begin_anew(own, monkeypatch):
    monkeypatch.setattr(store, "_writable", False)
    assert works()
    assert not own.exists()
    microtorch.clear_cache()
    assert works(DOUBLE + "# another text\n")
    assert len(list(own.glob("*.o"))) == 1


def test_a_file_that_vanishes_does_not_hide_the_others(own, monkeypatch):
    assert works()
    real = os.scandir

    class Vanished:
        name = "double-" + "0" * 24 + ".o"

        def stat(self):
            raise FileNotFoundError

    class Listing:
        def __init__(self, path):
            self.files = [Vanished(), *real(path)]

        def __enter__(self):
            return self.files

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(store.os, "scandir", Listing)
    assert len(store.entries()) == 2


def test_cache_info_names_the_directory(own):
    info = microtorch.cache_info()
    assert info["directory"] == str(own)
    assert info["cap_bytes"] == store.CAP_BYTES
    assert (info["compiled"], info["loaded"], info["rejected"]) == (0, 0, 0)


# ----------------------------------------------------------------------------- the key
@pytest.fixture
def environment():
    """The function whose result is the part of the key that is the same for all kernels."""
    jit._environment.cache_clear()
    yield jit._environment.__wrapped__
    jit._environment.cache_clear()


def test_key_depends_on_name_text_and_signature():
    keys = {
        jit._key("double", DOUBLE, SIGNATURE),
        jit._key("doubl", DOUBLE, SIGNATURE),
        jit._key("double", DOUBLE + " ", SIGNATURE),
        jit._key("double", DOUBLE, "void(i64)"),
        jit._key("double", SIGNATURE, DOUBLE),
    }
    assert len(keys) == 5
    assert jit._key("double", DOUBLE, SIGNATURE) in keys


@pytest.mark.parametrize("name", ["NUMBA_OPT", "NUMBA_BOUNDSCHECK", "NUMBA_CPU_NAME"])
def test_key_depends_on_numba_variables(environment, monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    before = environment()
    monkeypatch.setenv(name, "1")
    assert environment() != before


def test_key_does_not_depend_on_other_variables(environment, monkeypatch):
    before = environment()
    monkeypatch.setenv("PATH_TO_NOWHERE", "1")
    assert environment() == before


def test_key_depends_on_the_compiler_options(environment, monkeypatch, tmp_path):
    before = environment()
    with open(frontend.__file__) as file:
        text = file.read()
    changed = tmp_path / "frontend.py"
    changed.write_text(text.replace('"error_model": "numpy"', '"error_model": "python"'))
    monkeypatch.setattr(frontend, "__file__", str(changed))
    assert environment() != before


@pytest.mark.skipif(not link.available(), reason="only where Linux tells the processor")
def test_key_depends_on_the_processor(environment, monkeypatch):
    before = environment()
    monkeypatch.setattr(link, "cpu", lambda: "another")
    assert environment() != before


def test_key_depends_on_the_processor_that_llvm_sees(environment, monkeypatch):
    monkeypatch.setattr(link, "available", lambda: False)
    before = environment()
    llvm, *rest = jit._backend()

    class Other:
        def __getattr__(self, name):
            return getattr(llvm, name)

        def get_host_cpu_name(self):
            return "another"

    monkeypatch.setattr(jit, "_backend", lambda: (Other(), *rest))
    assert environment() != before


def test_hash_is_in_the_symbol_too(entry):
    stem, symbol, _ = entry
    assert stem.rpartition("-")[2] in symbol


def test_magic_tells_formats_apart():
    assert store.MAGIC.endswith(b"\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stem = "double-" + "0" * 24
        content = store._entry(stem, "symbol", b"\n\ncode\n\n")
    assert content.startswith(store.MAGIC)
    assert hashlib.sha256(f"{stem}\nsymbol\n\n\ncode\n\n".encode()).hexdigest().encode() in content
