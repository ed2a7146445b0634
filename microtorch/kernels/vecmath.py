"""exp, log, tanh and the rest of the vocabulary, as text that LLVM turns into SIMD code.

Branch-free scalar functions of plain IEEE operations: no calls, no tables, no fused multiply-add,
so results are the same bits on every CPU and the same text serves CUDA. Argument reduction and
polynomials follow Muller, "Elementary Functions" (3rd ed.), coefficients are Chebyshev fits of the
functions named beside them. In float32 kernels exp, log, tanh and what is built on them compute in
float32; the others compute in float64 and round once. sin, cos and tan are accurate up to
|x| = 1e9 in float32 and 1e6 in float64; beyond, the argument's own rounding is larger anyway.
"""

import re
from collections.abc import Iterable

# Types and constants of the two widths: name -> (float32, float64).
_WIDTHS = {
    "float": ("f32", "f64"),
    "int": ("i32", "i64"),
    "magic": ("12582912.0", "6755399441055744.0"),  # 1.5 * 2**mantissa: adding it rounds
    "mantissa": ("23", "52"),
    "bias": ("127", "1023"),
    "ln2_high": ("0.693145751953125", "0.6931471803691238"),
    "ln2_low": ("1.4286068203094173e-06", "1.9082149292705877e-10"),
    "exp_top": ("89.0", "710.0"),
    "exp_bottom": ("-104.0", "-746.0"),
    "expm1_bottom": ("-20.0", "-42.0"),
    "tiny": ("1.1754943508222875e-38", "2.2250738585072014e-308"),
    "lift": ("16777216.0", "18014398509481984.0"),
    "lift_bits": ("24", "54"),
    "root_half": ("1060439283", "4604544271217802189"),  # bits of sqrt(1/2)
    "tanh_flat": ("10.0", "20.0"),
    # (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2
    "exp_poly": (
        "0.0013926183587713494 0.008363179052722578 0.041666554617204574 0.16666576990698775 0.5",
        "2.0914686968086876e-09 2.5105217004720745e-08 2.75572736431103e-07 2.7557255400206422e-06"
        " 2.4801587325547743e-05 0.00019841269874820627 0.0013888888888883748 0.008333333333326136"
        " 0.04166666666666667 0.1666666666666667 0.5",
    ),
    # (log((1 + s) / (1 - s)) / s - 2) / s^2 in s^2
    "log_poly": (
        "0.29580985929974424 0.39988757716604845 0.6666668509542907",
        "0.13088034850927555 0.13268638369266825 0.15386244737621665 0.18181795547521137"
        " 0.22222222392581045 0.28571428570799784 0.40000000000000885 0.6666666666666666",
    ),
    # (tanh(x) / x - 1) / x^2 in x^2 <= 0.4
    "tanh_poly": (
        "0.002269501684162354 -0.008323187058278775 0.021762502907359264 -0.0539584616274522"
        " 0.13333300146188914 -0.33333333149374506",
        "-2.3855793111704252e-06 1.2088687226216897e-05 -3.696052230333826e-05"
        " 9.597236318160513e-05 -0.00023886464788549952 0.0005899759192143973"
        " -0.0014558274668454265 0.0035921274106953164 -0.008863235493441451 0.02186948853488776"
        " -0.053968253968231024 0.13333333333333316 -0.3333333333333333",
    ),
    # The rest in float64 only: (sin(x) / x - 1) / x^2, (cos(x) - 1 + x^2 / 2) / x^4, in x^2
    "sin_poly": ("", "-7.586636882825159e-13 1.6058530596645953e-10 -2.50521062259944e-08"
                 " 2.755731921932058e-06 -0.0001984126984126504 0.008333333333333331"
                 " -0.16666666666666666"),
    "cos_poly": ("", "4.745838412531023e-14 -1.1470460319209511e-11 2.0876755787492604e-09"
                 " -2.755731922139249e-07 2.4801587301584632e-05 -0.0013888888888888887"
                 " 0.041666666666666664"),
    # (atan(x) / x - 1) / x^2 in x^2, |x| <= tan(pi / 8)
    "atan_poly": ("", "-0.013905374533113234 0.030622995553735516 -0.04103887546862687"
                  " 0.04719259188242093 -0.05258020272656758 0.058819230561140225"
                  " -0.06666641869131183 0.07692306729194896 -0.0909090906681608"
                  " 0.11111111110751482 -0.1428571428571149 0.19999999999999993"
                  " -0.3333333333333333"),
    # (sinh(x) / x - 1) / x^2 in x^2 <= 1
    "sinh_poly": ("", "2.8445264169895285e-15 7.646625361656657e-13 1.6059048396350562e-10"
                  " 2.505210836405804e-08 2.755731922404034e-06 0.00019841269841269773"
                  " 0.008333333333333333 0.16666666666666666"),
    # erf(x) / x - 1 in x^2 <= 1; erfc(x) exp(x^2) in 4 / (4 + x), 0.8 <= x <= 27.5
    "erf_poly": ("", "-4.230945824295338e-12 8.709045129053106e-11 -1.216456005728345e-09"
                 " 1.4792401209404813e-08 -1.6364642158167616e-07 1.6462045441468418e-06"
                 " -1.4925647567519332e-05 0.00012055332902888736 -0.000854832702193483"
                 " 0.0052239776254232985 -0.02686617064512984 0.1128379167095512"
                 " -0.37612638903183754 0.1283791670955126"),
    "erfc_poly": ("", "0.00213386149291114 -0.02378816049938416 0.12177494065927971"
                  " -0.37960258543760367 0.8094646239743446 -1.265442495029176"
                  " 1.5240543382156138 -1.459391546838544 1.1283294573603009"
                  " -0.7205111635976797 0.38136796618811686 -0.15941868245816979"
                  " 0.07779324574571102 0.010374708933583979 0.04954868204086913"
                  " 0.061485388834372816 0.08124040719376335 0.09901158849727895"
                  " 0.11501699042229009 0.1278239628893417 0.13663968033052598"
                  " 0.14104739517727727 0.14104739590716647 -2.708094070597376e-13"),
}  # fmt: skip

# Functions in both widths. A name with a trailing @ is that function in the same width.
_BOTH = {
    "exp": """
def exp@(x):
    x = where(x > F(exp_top), F(exp_top), where(x < F(exp_bottom), F(exp_bottom), x))
    shifted = x * F(1.4426950408889634) + F(magic)
    k = shifted - F(magic)
    r = x - k * F(ln2_high) - k * F(ln2_low)
    p = F(1.0) + (r + r * r * POLY(exp_poly, r))
    # 2^k in two steps, so that subnormal results are rounded once.
    n = bits(shifted) - bits(F(magic))
    half = n >> I(1)
    return p * power@(half) * power@(n - half)
""",
    "as_float": """
def as_float@(n):
    # The cast undoes Numba's widening of 32-bit integers.
    return from_bits(I(n))
""",
    "power": """
def power@(n):
    return as_float@((n + I(bias)) << I(mantissa))
""",
    "expm1": """
def expm1@(x):
    y = where(x > F(exp_top), F(exp_top), where(x < F(expm1_bottom), F(expm1_bottom), x))
    shifted = y * F(1.4426950408889634) + F(magic)
    k = shifted - F(magic)
    r = y - k * F(ln2_high) - k * F(ln2_low)
    p = r + r * r * POLY(exp_poly, r)
    # One power of two lower, doubled at the end: 2^k itself may overflow.
    half = power@(bits(shifted) - bits(F(magic)) - I(1))
    return where(x == F(0.0), x, F(2.0) * (p * half + (half - F(0.5))))
""",
    "log": """
def log@(x):
    small = x < F(tiny)
    y = where(small, x * F(lift), x)
    # y = m 2^e with m in [sqrt(1/2), sqrt(2))
    e = (bits(y) - I(root_half)) >> I(mantissa)
    f = as_float@(bits(y) - (e << I(mantissa))) - F(1.0)
    k = as_float@(where(small, e - I(lift_bits), e) + bits(F(magic))) - F(magic)
    s = f / (F(2.0) + f)
    z = s * s
    half = F(0.5) * f * f
    r = s * (half + z * POLY(log_poly, z))
    z = k * F(ln2_high) - ((half - (r + k * F(ln2_low))) - f)
    z = where(x == INF, x, z)
    return where(x > F(0.0), z, where(x == F(0.0), -INF, where(x == x, INF - INF, x)))
""",
    "log1p": """
def log1p@(x):
    u = F(1.0) + x
    z = log@(u) + (x - (u - F(1.0))) / u
    return where((x == F(0.0)) | (u == INF), x, where(u == F(0.0), -INF, z))
""",
    "tanh": """
def tanh@(x):
    z = x * x
    small = x + x * (z * POLY(tanh_poly, z))
    a = fabs(x)
    large = F(1.0) - F(2.0) / (exp@(F(2.0) * where(a > F(tanh_flat), F(tanh_flat), a)) + F(1.0))
    return copysign(where(a < F(0.625), small, large), x)
""",
    "sigmoid": """
def sigmoid@(x):
    # As PyTorch, 0 where exp(-x) overflows: what BCELoss makes of a saturated unit hangs on it.
    return F(1.0) / (F(1.0) + exp@(-x))
""",
    "softplus": """
def softplus@(x):
    return where(x > F(0.0), x, F(0.0)) + log1p@(exp@(-fabs(x)))
""",
}

# Functions in float64; float32 kernels round their result.
_WIDE = {
    "reduced": """
def turns@(x):
    # Quarter turns, as a float that is magic + k.
    return x * F(0.6366197723675814) + F(magic)
def reduced@(x, k):
    y = (x - k * F(1.5707963267341256)) - k * F(6.077100506303966e-11)
    return y - k * F(2.0222662487959506e-21)
def sine@(r, z):
    return r + r * (z * POLY(sin_poly, z))
def cosine@(z):
    h = F(0.5) * z
    w = F(1.0) - h
    return w + (((F(1.0) - w) - h) + z * z * POLY(cos_poly, z))
""",
    "sin": """
def sin@(x):
    t = turns@(x)
    n = bits(t)
    r = reduced@(x, t - F(magic))
    z = r * r
    y = where((n & I(1)) != I(0), cosine@(z), sine@(r, z))
    y = where((n & I(2)) != I(0), -y, y)
    return where(x == F(0.0), x, y)
""",
    "cos": """
def cos@(x):
    t = turns@(x)
    n = bits(t) + I(1)
    r = reduced@(x, t - F(magic))
    z = r * r
    y = where((n & I(1)) != I(0), cosine@(z), sine@(r, z))
    return where((n & I(2)) != I(0), -y, y)
""",
    "tan": """
def tan@(x):
    t = turns@(x)
    r = reduced@(x, t - F(magic))
    z = r * r
    s = sine@(r, z)
    c = cosine@(z)
    return where(x == F(0.0), x, where((bits(t) & I(1)) != I(0), -c / s, s / c))
""",
    "atan": """
def atan@(x):
    a = fabs(x)
    far = a > F(2.414213562373095)
    near = a < F(0.41421356237309503)
    t = where(far, F(-1.0) / a, where(near, a, (a - F(1.0)) / (a + F(1.0))))
    z = t * t
    base = where(far, F(1.5707963267948966), where(near, F(0.0), F(0.7853981633974483)))
    return copysign(base + (t + t * (z * POLY(atan_poly, z))), x)
""",
    "atan2": """
def atan2@(x, y):
    a = fabs(x)
    b = fabs(y)
    steep = a > b
    low = where(steep, b, a)
    high = where(steep, a, b)
    t = where(high == F(0.0), F(0.0), where(low == high, F(1.0), low / high))
    t = atan@(t)
    t = where(steep, F(1.5707963267948966) - t, t)
    t = where(copysign(F(1.0), y) < F(0.0), F(3.141592653589793) - t, t)
    return where((x != x) | (y != y), x + y, copysign(t, x))
""",
    "asin": """
def asin@(x):
    return atan@(x / sqrt((F(1.0) - x) * (F(1.0) + x)))
""",
    "acos": """
def acos@(x):
    return F(2.0) * atan@(sqrt((F(1.0) - x) / (F(1.0) + x)))
""",
    "sinh": """
def sinh@(x):
    a = fabs(x)
    z = x * x
    small = x + x * (z * POLY(sinh_poly, z))
    e = exp@(F(0.5) * a)
    half = F(0.5) * e * e
    large = half - F(0.25) / half
    big = (F(0.5) * e) * e
    return where(a < F(1.0), small, copysign(where(a > F(20.0), big, large), x))
""",
    "cosh": """
def cosh@(x):
    e = exp@(F(0.5) * fabs(x))
    half = (F(0.5) * e) * e
    return half + F(0.25) / half
""",
    "log2": """
def log2@(x):
    y = log@(x)
    return y * F(1.4426950408889634) + y * F(2.0355273740931033e-17)
""",
    "log10": """
def log10@(x):
    y = log@(x)
    return y * F(0.4342944819032518) + y * F(1.098319650216765e-17)
""",
    "erfc_tail": """
def erfc_tail@(a):
    # exp(-a^2) with a^2 = high + low exactly, times a polynomial.
    b = where(a > F(27.5), F(27.5), a)
    top = as_float@(bits(b) & I(-134217728))
    low = (b - top) * (b + top)
    t = F(4.0) / (F(4.0) + b)
    return exp@(-(top * top)) * (F(1.0) + expm1@(-low)) * POLY(erfc_poly, t)
""",
    "erf": """
def erf@(x):
    a = fabs(x)
    z = x * x
    small = x + x * POLY(erf_poly, z)
    return where(a < F(0.9), small, where(x == x, copysign(F(1.0) - erfc_tail@(a), x), x))
""",
    "erfc": """
def erfc@(x):
    a = fabs(x)
    z = x * x
    small = F(1.0) - (x + x * POLY(erf_poly, z))
    tail = where(a > F(27.5), F(0.0), erfc_tail@(a))
    tail = where(x < F(0.0), F(2.0) - tail, tail)
    return where(a < F(0.9), small, where(x == x, tail, x))
""",
    "pow": """
def product_low@(a, b, p):
    # a b - p exactly (Dekker 1971).
    ta = F(134217729.0) * a
    tb = F(134217729.0) * b
    ah = ta - (ta - a)
    bh = tb - (tb - b)
    al = a - ah
    bl = b - bh
    return ((ah * bh - p) + ah * bl + al * bh) + al * bl
def pow@(x, y):
    a = fabs(x)
    small = a < F(tiny)
    m = where(small, a * F(lift), a)
    e = (bits(m) - I(root_half)) >> I(mantissa)
    f = as_float@(bits(m) - (e << I(mantissa))) - F(1.0)
    k = as_float@(where(small, e - I(lift_bits), e) + bits(F(magic))) - F(magic)
    # log(1 + f) = 2 s + s z P(z) with s = f / (2 + f) to twice the precision.
    d = F(2.0) + f
    d_low = f - (d - F(2.0))
    s = f / d
    q = s * d
    s_low = ((f - q) - product_low@(s, d, q) - s * d_low) / d
    z = s * s
    low = F(2.0) * s_low + s * (z * POLY(log_poly, z))
    base = k * F(ln2_high)
    high = base + F(2.0) * s
    low = low + ((base - high) + F(2.0) * s) + k * F(ln2_low)
    # y log(x) as a sum of two; y beyond 2^65 is as good as infinite.
    w = where(y > F(3.6e19), F(3.6e19), where(y < F(-3.6e19), F(-3.6e19), y))
    l_high = high + low
    l_low = low - (l_high - high)
    p = w * l_high
    p_low = product_low@(w, l_high, p) + w * l_low
    p_low = where(fabs(p) > F(1000.0), F(0.0), p_low)
    r = exp@(p + p_low)
    t = (p - (p + p_low)) + p_low
    r = where(fabs(p) > F(1000.0), r, r + r * t)
    # C99, Annex F.9.4.4
    whole = (floor(y) == y) | (fabs(y) == INF)
    odd = whole & (fabs(y) < F(9007199254740992.0)) & (floor(F(0.5) * y) != F(0.5) * y)
    up = y > F(0.0)
    r = where(a == F(0.0), where(up, F(0.0), INF), r)
    r = where(a == INF, where(up, INF, F(0.0)), r)
    steep = where(a > F(1.0), up, y < F(0.0))
    r = where(fabs(y) == INF, where(a == F(1.0), F(1.0), where(steep, INF, F(0.0))), r)
    negative = copysign(F(1.0), x) < F(0.0)
    r = where(negative & odd, -r, r)
    invalid = (x < F(0.0)) & (a != INF)
    invalid = invalid & (floor(y) != y)
    r = where(invalid, INF - INF, r)
    r = where((x != x) | (y != y), x + y, r)
    return where((y == F(0.0)) | (x == F(1.0)), F(1.0), r)
""",
}
_WORD = re.compile(r"\b(\w+)@")
_POLY = re.compile(r"POLY\((\w+), (\w+)\)")


def source(names: Iterable[str], width: int) -> str:
    """Text of the functions and of what they call, in dependency order.

    width: 32 or 64, that of the arguments and the result.

    Raises:
        KeyError: for a name that is not in the vocabulary.
    """
    done: dict[str, str] = {}
    for name in names:
        if width == 32 and name in _WIDE:
            _add(name, True, "_d", done)
            arguments = "x, y" if name in ("pow", "atan2") else "x"
            wide = arguments.replace("x", "f64(x)").replace("y", "f64(y)")
            done[name] = f"def {name}({arguments}):\n    return f32({name}_d({wide}))\n"
        else:
            _add(name, width == 64, "", done)
    return "".join(done.values())


def _add(name: str, wide: bool, suffix: str, done: dict[str, str]) -> None:
    key = name + suffix
    if key in done:
        return
    text = _BOTH[name] if name in _BOTH else _WIDE[name]
    for called in _WORD.findall(text):
        called = _PARTS.get(called, called)
        if called != name:
            _add(called, wide, suffix, done)
    text = _POLY.sub(lambda m: _horner(m[1], m[2], wide), text)
    for word, values in _WIDTHS.items():
        if "poly" not in word and word not in ("float", "int"):
            text = re.sub(rf"\b{word}\b", values[wide], text)
    text = re.sub(r"\bF\(", _WIDTHS["float"][wide] + "(", text)
    text = re.sub(r"\bI\(", _WIDTHS["int"][wide] + "(", text)
    text = re.sub(r"\bINF\b", f"{_WIDTHS['float'][wide]}(1e400)", text)
    done[key] = _WORD.sub(lambda m: m[1] + suffix, text).lstrip("\n")


def _horner(poly: str, variable: str, wide: bool) -> str:
    first, *rest = _WIDTHS[poly][wide].split()
    nested = f"F({first})"
    for coefficient in rest:
        nested = f"({nested} * {variable} + F({coefficient}))"
    return nested


# Helpers that stand in the text of another name.
_PARTS = {"turns": "reduced", "sine": "reduced", "cosine": "reduced", "product_low": "pow"}
