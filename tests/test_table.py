"""Properties that the table promises, for every row: a new row is tested without a new test.

Values are compared with the row's formula by `oracle`, derivatives with differences of the
formula at 60 digits, never with the derivative's text. Inputs come from the row's domain, away
from its kinks. The checks are tested too: a derivative that is 1% off must be refused.
"""

import math
import operator

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtorch as torch
from microtorch import Value
from microtorch.functions.elementwise import FUNCTIONS, make
from microtorch.table import FOLDS, ROWS, ROWWISE, VOCABULARY, Row

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = (SINGLE, DOUBLE)
DIFFERENTIABLE = {n: r for n, r in ROWS.items() if r.derivatives}
EXACT_TYPES = [n for n, r in ROWS.items() if r.types != "float"]
SEEDS = st.integers(0, 2**32 - 1)
steady = settings(deadline=None, derandomize=True, max_examples=3, database=None)

# Operands as (shape, view of it) pairs: for x, for y.
PLAIN = lambda a: a
LAYOUTS = {
    "0-d": (((), PLAIN), ((), PLAIN)),
    "empty": (((0, 3), PLAIN), ((1, 3), PLAIN)),
    "vector": (((37,), PLAIN), ((37,), PLAIN)),
    "number right": (((3, 4), PLAIN), ((), PLAIN)),
    "number left": (((), PLAIN), ((3, 4), PLAIN)),
    "outer": (((3, 1), PLAIN), ((1, 4), PLAIN)),
    "leading": (((4,), PLAIN), ((2, 3, 4), PLAIN)),
    "transposed": (((4, 3), np.transpose), ((3, 4), PLAIN)),
    "both transposed": (((4, 3), np.transpose), ((4, 3), np.transpose)),
    "strided": (((6, 8), lambda a: a[::2, ::2]), ((3, 8), lambda a: a[:, 1::2])),
}


def intervals(row):
    """The domain of each input."""
    return row.domain * len(row.inputs) if len(row.domain) == 1 else row.domain


def params_of(row, random):
    """Ascending numbers that every dtype can hold."""
    return sorted(random.integers(-8, 9, len(row.params)) / 4)


def draw(row, random, dtype, count):
    """`count` points of the domain, away from the kinks: arrays of the inputs, and params."""
    params = params_of(row, random)
    kept = [np.empty(0)] * len(row.inputs)
    while kept[0].size < count:
        drawn = [random.uniform(low, high, count).astype(dtype) for low, high in intervals(row)]
        values = dict(zip(row.operands, [*drawn, *params], strict=True))
        good = np.ones(count, bool)
        for kink in row.kinks:
            good &= np.abs(oracle.numpy_value(kink, DOUBLE, values)) > 0.01
        kept = [np.append(k, d[good]) for k, d in zip(kept, drawn, strict=True)]
    return [k[:count].astype(dtype) for k in kept], params


def values_of(row, arrays, params, dtype):
    """Name -> array, as the oracle takes them."""
    return dict(zip(row.operands, [*arrays, *(np.asarray(p).astype(dtype) for p in params)]))


def lay_out(pools, layout):
    """Tensors of a layout, their elements taken from the pools."""
    made = []
    for pool, (shape, view) in zip(pools, LAYOUTS[layout]):
        made.append(torch.from_numpy(view(np.resize(pool, shape))))
    return made


def check_layout(row, pools, params, layout):
    tensors = lay_out(pools, layout)
    z = FUNCTIONS[row.name](*tensors, *params)
    arrays = [t.numpy() for t in tensors]
    values = values_of(row, arrays, params, arrays[0].dtype)
    oracle.check_value(row.formula, arrays[0].dtype, values, z.numpy())


# ------------------------------------------------------------------------------------- values
def test_the_oracle_knows_every_word():
    assert set(oracle.EXACT) | {"where", "inf"} == VOCABULARY


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@steady
@given(data=st.data())
def test_value(name, dtype, data):
    row = ROWS[name]
    width = 8 * dtype.itemsize
    pools = [
        np.array(data.draw(st.lists(st.floats(*bounds, width=width), min_size=5, max_size=9)), dtype)
        for bounds in (tuple(map(float, np.array(pair, dtype))) for pair in intervals(row))
    ]
    params = params_of(row, np.random.default_rng(data.draw(SEEDS)))
    for layout in LAYOUTS:
        check_layout(row, pools, params, layout)
