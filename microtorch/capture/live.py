"""What stands for a Python number while a call is recorded: its arithmetic is noted, not done.

A `Live` passes for the number. Arithmetic on it, and functions of `math`, give further ones, with
the expression that computes them; of comparisons the outcome is noted; whatever else wants to know
the value pins it.
"""

import functools
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.operations import replaced
from ..kernels.standin import method
from ..tensor import Tensor
from .tape import active

KINDS = (int, float, np.float64, np.float32, np.int64, np.int32)
# Integers beyond have no float64 of their own.
EXACT = 2**53
# Longer expressions would be of more parentheses than Python reads, and may double at each step.
LONGEST = 500
# Comparisons of live numbers that a recording may note; a loop over numbers may make any number.
MOST_CONDITIONS = 100
# Functions of `math` that give numbers, and those that answer a question.
OF_MATH = """acos acosh asin asinh atan atan2 atanh ceil copysign cos cosh degrees erf erfc exp exp2
expm1 fabs floor fmod hypot log log10 log1p log2 pow radians sin sinh sqrt tan tanh trunc"""
ASKED = "isfinite isinf isnan isclose"
# What looks for a number in a dict of arrays, and makes one where it finds none.
_LOOKING = "microtorch.functions.elementwise"


class Live:
    """A number that differs from call to call, as it is in the recorded one.

    text: an expression for it over the names of `leaves`, its places in `numbers`.
    """

    __slots__ = ("leaves", "numbers", "text", "value")

    def __init__(self, numbers: Any, value: Any, text: str, leaves: tuple[Any, ...]) -> None:
        self.numbers, self.value, self.text, self.leaves = numbers, value, text, leaves

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.value)

    def array(self, dtype: Any) -> Any:
        """The number as a recorded array of no dims, if its recording goes on."""
        numbers, tape, label = self.numbers, self.numbers.tape, self.leaves[0].name
        if dtype.kind != "f" or tape is not active.tape:
            return None
        number = tape.number(numbers.values, numbers.key(self))
        number.ref.storage.name = "of_" * (len(self.text) > len(label)) + label
        made = (self.text, dtype)
        if made not in tape.casts:
            tape.casts[made] = tape.attempt(method("astype"), (number, dtype), {})
        return tape.casts[made]

    def read(self) -> Any:
        """The value, on which what the program does depends from now on."""
        for leaf in self.leaves:
            leaf.pinned = True
        return self.value

    def __bool__(self) -> bool:
        return bool(_asked(self.numbers, bool, "bool({})", self))

    def __round__(self, *digits: Any) -> Any:
        return _made(self.numbers, round, "round({})" if not digits else "round({}, {})",
                     self, *digits)  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self.read(), name)

    def __hash__(self) -> int:
        looking = sys._getframe(1).f_globals.get("__name__") == _LOOKING
        return id(self) if looking else hash(self.read())

    def __copy__(self) -> "Live":
        return self

    def __deepcopy__(self, memo: Any) -> "Live":
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.read().__reduce_ex__(protocol)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.read(), dtype)

    def __array_ufunc__(self, ufunc: Any, how: str, *inputs: Any, **options: Any) -> Any:
        return getattr(ufunc, how)(*map(plain_number, inputs), **options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return function(*replaced(args, plain_number), **replaced(options, plain_number))


def plain_number(x: Any) -> Any:
    """What a live number is; anything else as it is."""
    return x.read() if type(x) is Live else x


def _text(numbers: Any, form: str, operands: Any) -> str | None:
    """The expression for an operation on numbers, if a recording can note it."""
    recorded = numbers.tape is not None and active.tape is numbers.tape
    if not recorded or any(x.numbers is not numbers for x in operands if type(x) is Live):
        return None
    text = form.format(*[x.text if type(x) is Live else numbers.constant(x) for x in operands])
    return text if len(text) <= LONGEST else None


def _known(function: Any, operands: Any) -> tuple[Any, list[Live]]:
    """What an operation gives, and the live numbers among its operands."""
    lives = [x for x in operands if type(x) is Live]
    try:
        return function(*[x.value if type(x) is Live else x for x in operands]), lives
    except Exception:
        # The function may catch it, which depends on the values.
        for x in lives:
            x.read()
        raise


def _made(numbers: Any, function: Any, form: str, *operands: Any) -> Any:
    """What an operation gives, as an expression where it is a number that a program can take."""
    found, lives = _known(function, operands)
    fits = type(found) in KINDS and not abs(found) > EXACT
    text = _text(numbers, form, operands) if fits else None
    if text is None:
        for x in lives:
            x.read()
        return found
    leaves = dict.fromkeys(leaf for x in lives for leaf in x.leaves)
    return Live(numbers, found, text, tuple(leaves))


def _asked(numbers: Any, function: Any, form: str, *operands: Any) -> Any:
    """What a comparison gives, which is noted."""
    found, lives = _known(function, operands)
    few = len(numbers.conditions) < MOST_CONDITIONS
    text = _text(numbers, form, operands) if few and isinstance(found, (bool, np.bool)) else None
    if text is None:
        for x in lives:
            x.read()
    else:
        numbers.conditions[text] = bool(found)
    return found


def _binary(name: str, sign: str) -> None:
    function = getattr(operator, name)

    def forward(self: Live, other: Any) -> Any:
        if type(other) is Live or type(other) in (*KINDS, bool):
            return _made(self.numbers, function, f"({{}} {sign} {{}})", self, other)
        known = isinstance(other, (np.generic, np.ndarray, complex))
        return function(self.read(), other) if known else NotImplemented

    def reflected(self: Live, other: Any) -> Any:
        if type(other) in (*KINDS, bool):
            return _made(self.numbers, function, f"({{}} {sign} {{}})", other, self)
        known = isinstance(other, (np.generic, np.ndarray, complex))
        return function(other, self.read()) if known else NotImplemented

    setattr(Live, f"__{name}__", forward)
    setattr(Live, f"__r{name}__", reflected)


def _unary(name: str, form: str) -> None:
    function = getattr(operator, name)
    setattr(Live, f"__{name}__", lambda self: _made(self.numbers, function, form, self))


def _comparing(name: str, sign: str) -> None:
    function = getattr(operator, name)

    def compare(self: Live, other: Any) -> Any:
        if type(other) is Live or type(other) in (*KINDS, bool):
            return _asked(self.numbers, function, f"({{}} {sign} {{}})", self, other)
        return NotImplemented if isinstance(other, Tensor) else function(self.read(), other)

    setattr(Live, f"__{name}__", compare)


def _pinning(name: str, function: Callable[..., Any]) -> None:
    def read(self: Live, *others: Any) -> Any:
        return function(self.read(), *map(plain_number, others))

    setattr(Live, f"__{name}__", read)


def _swapped(function: Callable[..., Any], y: Any, x: Any) -> Any:
    return function(x, y)


def _of_math(name: str, note: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `math` that notes what it does to live numbers."""
    function = getattr(math, name)

    @functools.wraps(function)
    def apply(*given: Any, **options: Any) -> Any:
        live = next((x for x in given if type(x) is Live), None)
        if live is None or options:
            return function(*map(plain_number, given), **options)
        places = ", ".join(["{}"] * len(given))
        return note(live.numbers, function, f"math.{name}({places})", *given)

    return apply


for _name, _sign in (("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/"),
                     ("floordiv", "//"), ("mod", "%"), ("pow", "**")):  # fmt: skip
    _binary(_name, _sign)
for _name, _form in (("neg", "(-{})"), ("pos", "(+{})"), ("abs", "abs({})")):
    _unary(_name, _form)
for _name, _sign in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"),
                     ("ge", ">=")):  # fmt: skip
    _comparing(_name, _sign)
for _function in (float, int, complex, format, str, repr, divmod):
    _pinning(_function.__name__, _function)
for _name in "index invert".split():
    _pinning(_name, getattr(operator, f"__{_name}__"))
for _name in "lshift rshift and or xor".split():
    _pinning(_name, getattr(operator, f"__{_name}__"))
    _pinning(f"r{_name}", functools.partial(_swapped, getattr(operator, f"__{_name}__")))
_pinning("rdivmod", functools.partial(_swapped, divmod))
MATH = {name: _of_math(name, _made) for name in OF_MATH.split()}
MATH |= {name: _of_math(name, _asked) for name in ASKED.split()}
_ORIGINAL = {name: getattr(math, name) for name in MATH}


def hooks() -> list[tuple[Any, str, Any]]:
    """The functions of `math` that note what they do, but for those that others have replaced."""
    return [(math, n, f) for n, f in MATH.items() if getattr(math, n) is _ORIGINAL[n]]
