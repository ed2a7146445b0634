"""Vectorizable math functions as text, for float32 and float64: `source(names, width)`.

Each function is plain scalar code without branches, loops, tables or calls of libm, so that a
loop over it becomes SIMD code. Every step is one IEEE operation (no fma, no fastmath), so results
are the same bits on every CPU. One text serves both widths; only the constants differ. The error
is below 2.5 ulp everywhere, subnormals included; signed zeros, infinities and nan are C99's.
sin, cos and tan keep that up to |x| = 1e8 in float32 and 4e8 in float64; beyond, the argument
loses about a bit a doubling, and the result stays within the function's range.

A pasting module provides F, I (the float and int of this width), D (float64), `bits`, `from_bits`,
`sqrt floor fabs copysign where`. `poly(NAME, x)` stands for Horner's rule. Methods: Cody & Waite,
"Software Manual for the Elementary Functions" (1980); Muller, "Elementary Functions" (2016);
Dekker, doi:10.1007/BF01397083. Polynomials interpolate at Chebyshev nodes (near minimax).
"""

import ast
import copy
import functools
import math
import re
from collections.abc import Iterable

# Constants: float32's value, float64's value. A _HI has trailing zero bits, so that its product
# with an exponent or with half a significand is exact; _LO is the rest.
_FLOATS: dict[str, tuple[float, float]] = {
    "ZERO": (0.0, 0.0),
    "HALF": (0.5, 0.5),
    "QUARTER": (0.25, 0.25),
    "ONE": (1.0, 1.0),
    "TWO": (2.0, 2.0),
    "THREE": (3.0, 3.0),
    "HUGE": (math.inf, math.inf),
    "NAN": (math.nan, math.nan),
    # Adding this rounds to an integer, which is then in the low bits: 1.5 * 2^mantissa.
    "MAGIC": (12582912.0, 6755399441055744.0),
    "MIN_NORMAL": (2.0**-126, 2.0**-1022),
    "LIFT": (2.0**24, 2.0**54),
    "LIFT_EXPONENT": (24.0, 54.0),
    # Beyond these exp has overflowed, and underflowed to 0.
    "EXP_MAX": (90.0, 711.0),
    "EXP_MIN": (-104.0, -746.0),
    # From here tanh is 1.
    "TANH_MAX": (10.0, 22.0),
    "LOG2E": (1.442695, 1.4426950408889634),
    "LOG2E_HI": (1.4423828, 1.4426950216293335),
    "LOG2E_LO": (0.0003122284, 1.9259629911266175e-08),
    "LN2_HI": (0.69314575, 0.6931471805598903),
    "LN2_LO": (1.4286068e-06, 5.497923018708371e-14),
    "LN2": (0.6931472, 0.6931471805599453),
    "LOG10_2_HI": (0.3010254, 0.30102999566395283),
    "LOG10_2_LO": (4.605039e-06, 2.8363394551044964e-14),
    "LOG10E_HI": (0.4342041, 0.4342944771051407),
    "LOG10E_LO": (9.038034e-05, 4.798111141615973e-09),
    "PI": (3.1415927, 3.141592653589793),
    "PI_LO": (-8.742278e-08, 1.2246467991473532e-16),
    "PI_2": (1.5707964, 1.5707963267948966),
    "PI_2_LO": (-4.371139e-08, 6.123233995736766e-17),
    "PI_4": (0.7853982, 0.7853981633974483),
    # Half of what a sum of two stays finite up to.
    "ATAN_LARGE": (2.0**126, 2.0**1022),
    "TAN_PI_8": (0.41421357, 0.41421356237309503),
    "TAN_3PI_8": (2.4142137, 2.414213562373095),
    # x * x is lost beside x below BELOW; 1 is lost beside x above ABOVE.
    "BELOW": (2.0**-13, 2.0**-28),
    "ABOVE": (2.0**30, 2.0**60),
    # Where |y| is larger, x**y is 0, 1 or infinite.
    "POW_MAX": (2.0**36, 2.0**66),
    # The exponent of exp is beyond any result from here.
    "POW_SMALL": (1000.0, 10000.0),
    "TWO_THIRDS": (0.6666667, 0.6666666666666666),
    "TWO_THIRDS_LO": (-1.9868215e-08, 3.700743415417188e-17),
    # |x| beyond which erf is 1 and erfc is 0; centre of the map of [0, inf) to [-1, 1).
    "ERF_MAX": (11.0, 28.0),
    "ERF_SPLIT": (0.5, 0.5),
    "ERFC_CENTRE": (2.5, 4.0),
    "ERFC_FIRST": (1.2648382, 1.2329951186255526),
}
_INTS: dict[str, tuple[int, int]] = {
    "MANTISSA": (23, 52),
    "BIAS": (127, 1023),
    "FRACTION": (2**23 - 1, 2**52 - 1),
    "MAGIC_BITS": (0x4B400000, 0x4338000000000000),
    "SQRT_HALF_BITS": (0x3F3504F3, 0x3FE6A09E667F3BCD),
    # The upper half of the significand: products of two such are exact.
    "TOP": (-(2**12), -(2**27)),
}
# float64 in either width: 2/pi, and pi/2 in parts whose products with quadrants are exact.
_DOUBLES: dict[str, float] = {
    "TWO_OVER_PI": 0.6366197723675814,
    "D_HALF": 0.5,
    "D_FOUR": 4.0,
    "D_ONE": 1.0,
    "D_QUARTER": 0.25,
    "WIDE1": 1.570796325802803,
    "WIDE2": 9.920935739593517e-10,
    "WIDE3": 5.721188726109832e-18,
    "QUADRANT1": 1.5707963109016418,
    "QUADRANT2": 1.5893254712295857e-08,
    "QUADRANT3": 6.123233932053594e-17,
    "QUADRANT4": 6.368317055225283e-25,
    "QUADRANT5": 1.082856673921914e-32,
}
_POLYNOMIALS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # (exp(r) - 1 - r) / r^2.
    "EXP": (
        (0.5, 0.16666667, 0.041666456, 0.0083333105, 0.0013934541, 0.0001989198),
        (0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333325544,
         0.0013888888888883327, 0.00019841269876864356, 2.4801587327007187e-05,
         2.755725283351691e-06, 2.75572718102198e-07, 2.5106274733573296e-08,
         2.0915442297780116e-09),
    ),
    # (2 atanh(s) / s - 2) / z, z = s^2.
    "LOG": (
        (0.66666687, 0.3998855, 0.29590318),
        (0.666666666666667, 0.3999999999989322, 0.28571428628810996, 0.22222210674238516,
         0.18182922513515942, 0.15330617306743305, 0.1463003136412286),
    ),
    # LOG's function without its first term: (LOG(z) - 2/3) / z.
    "POW": (
        (0.4, 0.28571534, 0.22204407, 0.19130084),
        (0.4, 0.28571428571429425, 0.2222222222162076, 0.18181818343316125, 0.1538459412012637,
         0.13334850282547114, 0.11705021567538627, 0.11735818855512968),
    ),
    # (sin(r) / r - 1) / z, z = r^2.
    "SIN": (
        (-0.16666667, 0.008333332, -0.00019840064, 2.724687e-06),
        (-0.16666666666666666, 0.008333333333330827, -0.0001984126983657571,
         2.755731600817155e-06, -2.5051112272573243e-08, 1.5916726193889336e-10),
    ),
    # (cos(r) - 1 + z / 2) / z^2.
    "COS": (
        (0.041666664, -0.0013888291, 2.454542e-05),
        (0.041666666666666664, -0.0013888888888887322, 2.4801587298651292e-05,
         -2.755731721268659e-07, 2.0876134024090145e-09, -1.1381754653662937e-11),
    ),
    # (atan(t) / t - 1) / z, z = t^2.
    "ATAN": (
        (-0.3333333, 0.1999954, -0.14263912, 0.10743263, -0.064503774),
        (-0.3333333333333333, 0.1999999999999549, -0.1428571428466014, 0.11111111014741562,
         -0.09090904557214267, 0.0769218270524632, -0.06664504610032648, 0.05858089538610203,
         -0.050851391487066376, 0.03922268882347632, -0.0191659065063043),
    ),
    # (asin(x) / x - 1) / z, z = x^2.
    "ASIN": (
        (0.16666666, 0.07500094, 0.044599403, 0.031100662, 0.017149238, 0.033690847),
        (0.16666666666666669, 0.07499999999998433, 0.04464285714635543, 0.030381944138531247,
         0.02237217294214989, 0.017352392720869973, 0.013971212973552933, 0.011479177415184906,
         0.01032281435018578, 0.005457506718640358, 0.01740087944269402, -0.014851887071247204,
         0.028757851367421566),
    ),
    # erf(x) / x - 1, in x^2.
    "ERF": (
        (0.12837917, -0.37612608, 0.11282829, -0.026757566, 0.0047187014),
        (0.12837916709551256, -0.3761263890318347, 0.11283791670925189, -0.026866170632830016,
         0.005223977372029753, -0.0008548297662086034, 0.0001205333046582652,
         -1.4845726499481446e-05, 1.4724557054857664e-06),
    ),
    # ((1 + 2 a) exp(a^2) erfc(a) - ERFC_FIRST) / t, t = (a - k) / (a + k), k = ERFC_CENTRE.
    "ERFC": (
        (-0.12235676, -0.09902439, 0.15762982, -0.10297027, 0.032759663, 0.00095652253,
         -0.0043619536, 0.0004142054, 0.0005492505),
        (-0.13962111684056253, 0.015379652102619107, 0.06809705425469505, -0.10103906603625892,
         0.0937328349982757, -0.06633036581348009, 0.03716751553843266, -0.016197734039841084,
         0.005031969972900916, -0.0007577734375101877, -0.00019925669557023932,
         0.00015062244712592333, -2.439905679004614e-05, -1.1224605003821074e-05,
         5.708829061937622e-06, 2.993546823426926e-07, -8.228486374738864e-07,
         6.720373339997448e-08, 1.0592961823541497e-07, -1.2291044259458225e-08,
         -1.0568365851628068e-08),
    ),
}  # fmt: skip

_TEXT = """
# exp(x + c) = 2^k (1 + r + e), |r| < 0.35. The factor 2^k is made as 2^h 2^(k - h), so that it may
# overflow and a subnormal result is rounded once.
def exp_parts(x, c):
    x = where(x > EXP_MAX, EXP_MAX, where(x < EXP_MIN, EXP_MIN, x))
    t = x * LOG2E + MAGIC
    n = t - MAGIC
    head = x - n * LN2_HI
    rest = n * LN2_LO - c
    r = head - rest
    e = r * r * poly(EXP, r) + ((head - r) - rest)
    k = I(bits(t) - MAGIC_BITS)
    return r, e, k, I(k >> 1)

def power_of_2(k):
    return from_bits(I((k + BIAS) << MANTISSA))

# exp(x + c) / 2^j
def exp_of(x, c, j):
    r, e, k, h = exp_parts(x, c)
    return (ONE + (r + e)) * power_of_2(h) * power_of_2(k - h - j)

def exp(x):
    return exp_of(x, ZERO, 0)

# (exp(x) - 1) / 2^j = (2^h p + (2^h - 2^(h - k))) 2^(k - h - j), p = r + e
def expm1_of(x, j):
    r, e, k, h = exp_parts(x, ZERO)
    s = power_of_2(h)
    return copysign(((r + e) * s + (s - power_of_2(h - k))) * power_of_2(k - h - j), x)

def expm1(x):
    return expm1_of(x, 0)

# t / (t + 2) with t = exp(2|x|) - 1; where k = 0 as t/2 - t/2 t/(t + 2), and r is 2|x| exactly.
def tanh(x):
    a = fabs(x)
    r, e, k, h = exp_parts(TWO * where(a > TANH_MAX, TANH_MAX, a), ZERO)
    s = power_of_2(k)
    t = (r + e) * s + (s - ONE)
    q = t / (t + TWO)
    return copysign(where(k == 0, HALF * r + (HALF * e - HALF * t * q), q), x)

# Of exp(-|x|), which cannot overflow.
def sigmoid(x):
    e = exp_of(-fabs(x), ZERO, 0)
    return where(x < ZERO, e, ONE) / (ONE + e)

def softplus(x):
    return where(x > ZERO, x, ZERO) + log1p(exp_of(-fabs(x), ZERO, 0))

def sinh(x):
    t = expm1_of(fabs(x), 1)
    return where(fabs(x) < BELOW, x, copysign(t + where(t < HUGE, t / (TWO * t + ONE), ZERO), x))

def cosh(x):
    e = exp_of(fabs(x), ZERO, 1)
    return e + QUARTER / e

# x = 2^k m with sqrt(1/2) <= m < sqrt(2), for positive finite x; k is a float.
def split(x):
    small = x < MIN_NORMAL
    i = I(bits(where(small, x * LIFT, x)) - SQRT_HALF_BITS)
    m = from_bits(I((i & FRACTION) + SQRT_HALF_BITS))
    k = from_bits(I((i >> MANTISSA) + MAGIC_BITS)) - MAGIC
    return k - where(small, LIFT_EXPONENT, ZERO), m

# k ln 2 + log(1 + f) + c, by log(1 + f) = 2 atanh(s), s = f / (2 + f).
def log_sum(k, f, c):
    s = f / (TWO + f)
    z = s * s
    h = HALF * f * f
    return k * LN2_HI - ((h - (s * (h + z * poly(LOG, z)) + (k * LN2_LO + c))) - f)

# A logarithm's value y, or what it is for x = 0, inf, nan and below 0.
def log_ends(x, y):
    return where(x > ZERO, where(x < HUGE, y, x), where(x == ZERO, -HUGE, NAN))

def log(x):
    k, m = split(x)
    return log_ends(x, log_sum(k, m - ONE, ZERO))

# log(1 + x + c): the rounding error of 1 + x enters by its first-order effect.
def log1p_of(x, c):
    u = ONE + x
    k, m = split(u)
    v = u - ONE
    rest = (ONE - (u - v)) + (x - v)
    near = k == ZERO
    y = log_sum(k, where(near, x, m - ONE), (where(near, ZERO, rest) + c) / u)
    return where(x > -ONE, where(x < HUGE, copysign(y, x), x), where(x == -ONE, -HUGE, NAN))

def log1p(x):
    return log1p_of(x, ZERO)

# log(1 + f) as an exact upper half and a small rest.
def log_halves(f):
    s = f / (TWO + f)
    z = s * s
    h = HALF * f * f
    head = top(f - h)
    return head, ((f - head) - h) + s * (h + z * poly(LOG, z))

def log2(x):
    k, m = split(x)
    head, rest = log_halves(m - ONE)
    b = head * LOG2E_HI
    w = k + b
    y = w + (((k - w) + b) + ((rest + head) * LOG2E_LO + rest * LOG2E_HI))
    return log_ends(x, y)

def log10(x):
    k, m = split(x)
    head, rest = log_halves(m - ONE)
    a = k * LOG10_2_HI
    b = head * LOG10E_HI
    w = a + b
    y = w + (((a - w) + b) + (k * LOG10_2_LO + ((rest + head) * LOG10E_LO + rest * LOG10E_HI)))
    return log_ends(x, y)

def asinh(x):
    a = fabs(x)
    large = a > ABOVE
    v = where(large, a, a + a * a / (ONE + sqrt(ONE + a * a)))
    return copysign(log1p_of(v, ZERO) + where(large, LN2, ZERO), x)

def acosh(x):
    large = x > ABOVE
    t = x - ONE
    y = log1p_of(where(large, x, t + sqrt(TWO * t + t * t)), ZERO) + where(large, LN2, ZERO)
    return where(x < ONE, NAN, y)

def atanh(x):
    a = fabs(x)
    y = HALF * log1p_of((a + a) / (ONE - a), ZERO)
    return where(a < BELOW, x, copysign(y, x))

# The upper half of the significand; the lower half is 0.
def top(x):
    return from_bits(I(bits(x) & TOP))

# x^y = exp(y log|x|) with log|x| = k ln 2 + (s_hi + s_lo) (2 + z (2/3 + ...)) in double length:
# pairs (high half, rest) of halves whose products are exact.
def pow(x, y):
    a = fabs(x)
    k, m = split(a)
    f = m - ONE
    d = top(m + ONE)
    rest = m - (d - ONE)
    s = f / (m + ONE)
    s_hi = top(s)
    s_lo = ((f - s_hi * d) - s_hi * rest) / (m + ONE)
    square = s_hi * s_hi
    extra = s_lo * (s_hi + s_hi + s_lo)
    z = square + extra
    z_hi = top(z)
    z_lo = (square - z_hi) + extra
    q = z * poly(POW, z)
    t = top(TWO_THIRDS + q)
    t_lo = ((TWO_THIRDS - t) + q) + TWO_THIRDS_LO
    u = z_hi * t
    u_lo = z_hi * t_lo + z_lo * (t + t_lo)
    v = top(TWO + u)
    v_lo = ((TWO - v) + u) + u_lo
    b = s_hi * v
    b_lo = s_hi * v_lo + s_lo * (v + v_lo)
    head = k * LN2_HI
    log_hi = head + b
    log_lo = ((head - log_hi) + b) + (k * LN2_LO + b_lo)
    w = where(y > POW_MAX, POW_MAX, where(y < -POW_MAX, -POW_MAX, y))
    l = top(log_hi)
    l_lo = (log_hi - l) + log_lo
    g = top(w) * l
    g_lo = (w - top(w)) * l + w * l_lo
    e = g + g_lo
    small = fabs(e) < POW_SMALL
    r = exp_of(e, where(small, (g - e) + g_lo, ZERO), 0)
    r = where((a == ZERO) | (a == HUGE), where((a == ZERO) == (y < ZERO), HUGE, ZERO), r)
    whole = floor(y) == y
    odd = whole & (floor(y * HALF) * TWO != y)
    r = where(odd, copysign(r, x), r)
    r = where((x < ZERO) & (a < HUGE) & (floor(y) != y), NAN, r)
    r = where((x != x) | (y != y), NAN, r)
    return where((x == ONE) | (y == ZERO), ONE, r)

# sin and cos of r + c, |r| < 0.79.
def sin_of(r, c):
    z = r * r
    p = z * poly(SIN, z)
    return r + (r * p + c * (ONE - HALF * z))

def cos_of(r, c):
    z = r * r
    h = HALF * z
    w = ONE - h
    return w + (((ONE - w) - h) + (z * z * poly(COS, z) - r * c))

def sin(x):
    q, r, c = quadrant(x)
    y = where((q == ONE) | (q == THREE), cos_of(r, c), sin_of(r, c))
    y = where(q >= TWO, -y, y)
    return where(x == ZERO, x, y)

def cos(x):
    q, r, c = quadrant(x)
    y = where((q == ONE) | (q == THREE), sin_of(r, c), cos_of(r, c))
    return where((q == ONE) | (q == TWO), -y, y)

def tan(x):
    q, r, c = quadrant(x)
    odd = (q == ONE) | (q == THREE)
    s = sin_of(r, c)
    w = cos_of(r, c)
    y = where(odd, -w, s) / where(odd, s, w)
    return where(x == ZERO, x, y)

# atan(a / b) for a, b >= 0: one division, after tan(u - pi/4) or tan(u - pi/2).
def angle(a, b):
    low = a <= TAN_PI_8 * b
    high = a > TAN_3PI_8 * b
    t = where(low, a, where(high, -b, a - b)) / where(low, b, where(high, a, a + b))
    z = t * t
    y = t * (z * poly(ATAN, z))
    base = where(low, ZERO, where(high, PI_2, PI_4))
    base_lo = where(low, ZERO, where(high, PI_2_LO, HALF * PI_2_LO))
    return base + (t + (y + base_lo))

def atan(x):
    return copysign(angle(fabs(x), ONE), x)

def atan2(y, x):
    a = fabs(y)
    b = fabs(x)
    same = (a == b) & ((a == ZERO) | (a == HUGE))
    large = (a > ATAN_LARGE) | (b > ATAN_LARGE)
    scale = where(large, QUARTER, ONE)
    a1 = where(same, where(a == ZERO, ZERO, ONE), a * scale)
    v = angle(a1, where(same, ONE, b * scale))
    v = where(copysign(ONE, x) < ZERO, PI - (v - PI_LO), v)
    return copysign(v, y)

# asin: x + x z P(z) up to 1/2, else pi/2 - 2 asin(sqrt((1 - x) / 2)); acos likewise.
def asin_parts(a):
    low = a < HALF
    z = where(low, a * a, HALF * (ONE - a))
    s = where(low, a, sqrt(z))
    return low, s, s * (z * poly(ASIN, z))

def asin(x):
    low, s, w = asin_parts(fabs(x))
    return copysign(where(low, s + w, (PI_2 - TWO * s) - (TWO * w - PI_2_LO)), x)

def acos(x):
    low, s, w = asin_parts(fabs(x))
    middle = PI_2 - (x + (copysign(w, x) - PI_2_LO))
    v = TWO * (s + w)
    return where(low, middle, where(x < ZERO, PI - (v - PI_LO), v))

# erf(x) for small x.
def erf_near(x):
    z = x * x
    return x + x * poly(ERF, z)

# erfc(a) for a > ERF_SPLIT as exp(-a a) / (1 + 2 a) times a polynomial in (a - k) / (a + k)
# (Shepherd & Laframboise, doi:10.1090/S0025-5718-1981-0595058-X); a a in double length.
# The quotient is an exact upper half q and what is left, so that one rounding remains.
def erfc_far(a):
    a = where(a > ERF_MAX, ERF_MAX, a)
    h = top(a)
    t = (a - ERFC_CENTRE) / (a + ERFC_CENTRE)
    low = (h - a) * (h + a)
    x = low - h * h
    r, e, k, i = exp_parts(x, low - (x + h * h))
    w = t * poly(ERFC, t)
    g = ERFC_FIRST + w
    d = ONE + TWO * a
    q = top(g / d)
    d_hi = top(d)
    left = (g - q * d_hi) - q * (TWO * a - (d_hi - ONE)) + ((ERFC_FIRST - g) + w)
    p = r + e
    return (q + (q * p + left / d * (ONE + p))) * power_of_2(i) * power_of_2(k - i)

def erf(x):
    a = fabs(x)
    return where(a < ERF_SPLIT, erf_near(x), copysign(ONE - erfc_far(a), x))

def erfc(x):
    a = fabs(x)
    y = erfc_far(a)
    return where(a < ERF_SPLIT, ONE - erf_near(x), where(x < ZERO, TWO - y, y))
"""

# x = n pi/2 + r + c: n modulo 4 (0, 1, 2 or 3 as a float), r and its rounding error c.
_QUADRANT = (
    """
# In float64, from where r and c are taken.
def quadrant(x):
    x = D(x)
    n = floor(x * TWO_OVER_PI + D_HALF)
    r = ((x - n * WIDE1) - n * WIDE2) - n * WIDE3
    r = where(fabs(r) < D_ONE, r, x - x)
    return F(n - D_FOUR * floor(n * D_QUARTER)), F(r), F(r - D(F(r)))
""",
    """
# The first two differences are exact; a part's sum with the next is kept with its error.
def quadrant(x):
    n = floor(x * TWO_OVER_PI + D_HALF)
    a = (x - n * QUADRANT1) - n * QUADRANT2
    b = n * QUADRANT3
    d = a - b
    v = d - a
    e = (a - (d - v)) - (b + v)
    b = n * QUADRANT4
    g = d - b
    v = g - d
    e = ((d - (g - v)) - (b + v)) + e - n * QUADRANT5
    r = g + e
    c = (g - r) + e
    sound = fabs(r) < D_ONE
    return n - D_FOUR * floor(n * D_QUARTER), where(sound, r, x - x), where(sound, c, ZERO)
""",
)


class _Rename(ast.NodeTransformer):
    def __init__(self, prefix: str, names: set[str]) -> None:
        self.prefix, self.names = prefix, names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.prefix + node.id if node.id in self.names else node.id, node.ctx)


class _Flat(ast.NodeTransformer):
    """A function with its callees' bodies copied in, since each compiled helper costs 20 ms."""

    def __init__(self, name: str, library: dict[str, ast.FunctionDef], k: int) -> None:
        self.library, self.k, self.calls = library, k, 0
        self.body: list[ast.stmt] = []
        self.run(library[name].body)

    def run(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.Return) and statement.value:
                self.body.append(ast.Return(self.visit(statement.value)))
            elif isinstance(statement, ast.Assign):
                self.assign(statement.targets[0], self.visit(statement.value))

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for part, one in zip(target.elts, value.elts, strict=True):
                self.assign(part, one)
        else:
            self.body.append(ast.Assign([target], value, lineno=0))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name, arguments = ast.unparse(node.func), node.args
        if name == "poly":
            return self.horner(ast.unparse(arguments[0]), ast.unparse(arguments[1]))
        if name not in self.library:
            return node
        self.calls += 1
        callee = copy.deepcopy(self.library[name])
        parameters = [ast.Name(argument.arg, ast.Store()) for argument in callee.args.args]
        stored = (n for n in ast.walk(callee) if isinstance(n, ast.Name))
        names = {n.id for n in stored if isinstance(n.ctx, ast.Store)} | {n.id for n in parameters}
        rename = _Rename(f"{name}{self.calls}_", names)
        for parameter, argument in zip(parameters, arguments, strict=True):
            self.assign(rename.visit(parameter), argument)
        self.run([rename.visit(statement) for statement in callee.body])
        result = self.body.pop()
        assert isinstance(result, ast.Return) and result.value
        return result.value

    def horner(self, name: str, x: str) -> ast.expr:
        last = len(_POLYNOMIALS[name][self.k]) - 1
        text = f"{name}{last}"
        for i in reversed(range(last)):
            text = f"({name}{i} + {x} * {text})"
        return ast.parse(text, mode="eval").body


@functools.cache
def _constants(width: int) -> dict[str, str]:
    """Text of the value of each constant, by name."""
    k = {32: 0, 64: 1}[width]
    constants = {n: f"F({v[k]!r})" for n, v in _FLOATS.items()}
    constants |= {"HUGE": "F(1e400)", "NAN": "F(1e400 - 1e400)"}
    constants |= {n: f"I({v[k]})" for n, v in _INTS.items()}
    constants |= {n: f"D({v!r})" for n, v in _DOUBLES.items()}
    for name, values in _POLYNOMIALS.items():
        constants |= {f"{name}{i}": f"F({c!r})" for i, c in enumerate(values[k])}
    return constants


@functools.cache
def _function(name: str, width: int) -> tuple[str, frozenset[str]]:
    """Text of one function, and the constants that it names."""
    k = {32: 0, 64: 1}[width]
    tree = ast.parse(_TEXT + _QUADRANT[k])
    library = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef)}
    function = library[name]
    function.body = _Flat(name, library, k).body
    names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
    return ast.unparse(function) + "\n", frozenset(names & set(_constants(width)))


def source(names: Iterable[str], width: int) -> str:
    """Text of the functions `names` for float32 or float64: constants, then one def a name.

    names: any of exp expm1 log log1p log2 log10 tanh sigmoid softplus sinh cosh asinh acosh
    atanh pow sin cos tan asin acos atan atan2 erf erfc. Each def calls nothing but what the
    module that pastes it provides. Raises KeyError for another name or width.
    """
    functions = [_function(name, width) for name in dict.fromkeys(names)]
    used = set().union(*(constants for _, constants in functions))
    lines = [f"{n} = {value}\n" for n, value in _constants(width).items() if n in used]
    return "".join(lines) + "".join(text for text, _ in functions)


def complete(text: str) -> str:
    """The text with functions in the place of lines `from vecmath32 import exp, tanh`.

    After ` as _f64` all that the functions define has that at the end of its name.
    """
    return _IMPORT.sub(_imported, text)


def suffixed(text: str, suffix: str) -> str:
    """The text with a suffix to the names of what it defines, and of F, I, U and D."""
    own = set(re.findall(r"^(?:def )?(\w+)(?= =|\()", text, re.MULTILINE)) | set("FIUD")
    return _NAME.sub(lambda m: m[0] + suffix if m[0] in own else m[0], text)


def _imported(line: re.Match[str]) -> str:
    made = source(line[2].split(", "), int(line[1]))
    return suffixed(made, line[3]) if line[3] else made


_IMPORT = re.compile(r"^from vecmath(32|64) import (.+?)(?: as (\w+))?\n", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_]\w*")
