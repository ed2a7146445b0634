"""THE TABLE: one row of text for every elementwise op and every optimizer update.

Grammar of a row. `x y ...` are the inputs, `z` the result, `g` the incoming gradient; a
derivative is the *local* one (dz/dx), the chain multiplication is generated. Formulas are
expressions of `+ - * /`, comparisons, numbers, the inputs, and the functions of VOCABULARY.
What is saved for backward is what the derivatives mention. Everything else - loops for CPU and
CUDA, double backward, Python-float evaluation, methods, documentation, property tests - is
derived from the row, so a new op is one row here and nothing anywhere else.
"""

import functools
import re
from collections.abc import Iterator, Mapping

# Functions that a formula may call; each is text in kernels/vecmath.py or an instruction.
VOCABULARY = frozenset(
    "exp expm1 log log1p log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh "
    "atanh sigmoid softplus erf erfc pow sqrt floor fabs copysign where maximum minimum rint trunc"
    " inf".split()
)
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


@functools.cache
def names_in(text: str) -> frozenset[str]:
    """The identifiers of a formula."""
    return frozenset(_NAME.findall(text))


def substitute(formula: str, values: Mapping[str, str]) -> str:
    """The formula with other texts for some of its identifiers."""
    return _NAME.sub(lambda match: values.get(match[0], match[0]), formula)


class Row:
    """One elementwise op.

    types: "float" - integers are promoted to the default float first; "real" - integers are
    refused; "any" - the result has the inputs' dtype; "bool" - the result is bool. params:
    trailing inputs that are numbers, never differentiated. domain: an interval per input that
    values are drawn from in tests. kinks: places where the derivative jumps, as expressions that
    are 0 there. node: PyTorch's name of the backward node. public: whether it is a function of
    the package and a method of Tensor; the others serve `nn.functional` or other functions.
    """

    __slots__ = (
        "derivatives",
        "doc",
        "domain",
        "formula",
        "inputs",
        "kinks",
        "name",
        "node",
        "params",
        "public",
        "types",
    )

    def __init__(
        self,
        name: str,
        inputs: str,
        formula: str,
        derivatives: str | None = None,
        *,
        doc: str,
        types: str = "float",
        params: str = "",
        domain: str = "-4 4",
        kinks: str = "",
        node: str = "",
        public: bool = True,
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs.split())
        self.params = tuple(params.split())
        self.formula = formula
        # One per input, separated by semicolons; None for an op that has no gradient.
        self.derivatives = derivatives and tuple(d.strip() for d in derivatives.split(";"))
        self.types = types
        self.domain = tuple(
            tuple(float(bound) for bound in interval.split()) for interval in domain.split(";")
        )
        self.kinks = tuple(k.strip() for k in kinks.split(";")) if kinks else ()
        self.node = node or name.title().replace("_", "") + "Backward0"
        self.public = public
        self.doc = doc
        self._check()

    def _check(self) -> None:
        operands = set(self.inputs) | set(self.params)
        if unknown := names_in(self.formula) - operands - VOCABULARY:
            raise ValueError(f"row {self.name}: the formula names unknown {sorted(unknown)}")
        if len(self.domain) not in (1, len(self.inputs)):
            raise ValueError(f"row {self.name}: {len(self.domain)} domains, {self.inputs} inputs")
        if self.derivatives is None:
            return
        if len(self.derivatives) != len(self.inputs):
            raise ValueError(
                f"row {self.name}: {len(self.derivatives)} derivatives for inputs {self.inputs}"
            )
        for derivative in self.derivatives:
            if unknown := names_in(derivative) - operands - {"z"} - VOCABULARY:
                raise ValueError(f"row {self.name}: a derivative names unknown {sorted(unknown)}")

    @property
    def operands(self) -> tuple[str, ...]:
        """Inputs, then params: what the forward kernel takes."""
        return self.inputs + self.params

    def saved(self, needed: tuple[bool, ...]) -> frozenset[str]:
        """Names that backward needs when the inputs marked in `needed` require grad."""
        wanted = (d for d, on in zip(self.derivatives or (), needed, strict=True) if on)
        return frozenset().union(*(names_in(d) for d in wanted)) - VOCABULARY

    def __repr__(self) -> str:
        return f"Row({self.name}: z = {self.formula})"


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        # Arithmetic.
        Row("add", "x y", "x + y", "1; 1", types="any", doc="Sum of input and other."),
        Row("sub", "x y", "x - y", "1; -1", types="any", doc="Difference of input and other."),
        Row("rsub", "x y", "y - x", "-1; 1", types="any", node="RsubBackward1",
            doc="Difference of other and input."),
        Row("mul", "x y", "x * y", "y; x", types="any", doc="Product of input and other."),
        Row("div", "x y", "x / y", "1 / y; -(x / y) / y", domain="-4 4; 0.2 4",
            doc="Quotient of input and other."),
        Row("neg", "x", "-x", "-1", types="any", doc="Negative."),
        Row("abs", "x", "fabs(x)", "where(x > 0, 1, where(x < 0, -1, 0))", types="any", kinks="x",
            doc="Absolute value; derivative 0 at 0."),
        Row("sign", "x", "where(x > 0, 1.0, where(x < 0, -1.0, 0.0))", "0", types="any", kinks="x",
            doc="Sign: -1, 0 or 1; 0 for nan."),
        Row("sgn", "x", "where(x > 0, 1.0, where(x < 0, -1.0, 0.0))", "0", types="any", kinks="x",
            doc="Sign, as sign; there are no complex numbers."),
        Row("reciprocal", "x", "1 / x", "-(z * z)", domain="0.2 4", doc="1 / input."),
        Row("square", "x", "x * x", "2 * x", types="any", node="PowBackward0",
            doc="Square of input."),
        Row("sqrt", "x", "sqrt(x)", "0.5 / z", domain="0.1 4", doc="Square root."),
        Row("rsqrt", "x", "1 / sqrt(x)", "-0.5 * z / x", domain="0.1 4",
            doc="Reciprocal of the square root."),
        Row("pow", "x y", "pow(x, y)",
            "where(y == 0, 0, y * pow(x, y - 1));"
            "where((x == 0) * (y >= 0) != 0, 0, z * log(x))",
            domain="0.1 4; -3 3", node="PowBackward1", doc="input to the power of exponent."),
        Row("pow_number", "x", "pow(x, exponent)",
            "where(exponent == 0, 0, exponent * pow(x, exponent - 1))", params="exponent",
            domain="0.1 4", node="PowBackward0", public=False,
            doc="input to the power of a number."),
        Row("hypot", "x y",
            "where(fabs(x) == inf, inf, where(fabs(y) == inf, inf, where(x == 0, fabs(y),"
            "where(fabs(x) < fabs(y), fabs(y) * sqrt(1 + (x / y) * (x / y)),"
            "fabs(x) * sqrt(1 + (y / x) * (y / x))))))", "x / z; y / z", types="real",
            domain="0.2 4; 0.2 4", doc="sqrt(input^2 + other^2), without overflow."),
        Row("copysign", "x y", "copysign(x, y)", "where(x == 0, 0, z / x); 0", kinks="x; y",
            doc="Magnitude of input with the sign of other."),
        Row("deg2rad", "x", "x * 0.017453292519943295", "0.017453292519943295",
            doc="Radians of degrees."),
        Row("rad2deg", "x", "x * 57.29577951308232", "57.29577951308232",
            doc="Degrees of radians."),
        # Exponentials and logarithms.
        Row("exp", "x", "exp(x)", "z", doc="Exponential."),
        Row("exp2", "x", "pow(2, x)", "0.6931471805599453 * z", doc="2 to the power of input."),
        Row("expm1", "x", "expm1(x)", "z + 1", doc="exp(input) - 1, accurate near 0."),
        Row("log", "x", "log(x)", "1 / x", domain="0.1 4", doc="Natural logarithm."),
        Row("log1p", "x", "log1p(x)", "1 / (1 + x)", domain="-0.9 4",
            doc="log(1 + input), accurate near 0."),
        Row("log2", "x", "log2(x)", "1.4426950408889634 / x", domain="0.1 4",
            doc="Logarithm to base 2."),
        Row("log10", "x", "log10(x)", "0.4342944819032518 / x", domain="0.1 4",
            doc="Logarithm to base 10."),
        Row("xlogy", "x y", "where(y != y, y, where(x == 0, 0, x * log(y)))",
            "where((x == 0) * (y <= 0) != 0, 0, log(y)); x / y", domain="-4 4; 0.1 4",
            doc="input * log(other), 0 where input is 0."),
        Row("logaddexp", "x y", "where(x == y, x + 0.6931471805599453,"
            " maximum(x, y) + log1p(exp(-fabs(x - y))))", "sigmoid(x - y); sigmoid(y - x)",
            types="real", doc="log(exp(input) + exp(other)), without overflow."),
        # Trigonometry.
        Row("sin", "x", "sin(x)", "cos(x)", doc="Sine of radians."),
        Row("cos", "x", "cos(x)", "-sin(x)", doc="Cosine of radians."),
        Row("tan", "x", "tan(x)", "1 + z * z", domain="-1.2 1.2", doc="Tangent of radians."),
        Row("asin", "x", "asin(x)", "1 / sqrt((1 - x) * (1 + x))", domain="-0.9 0.9",
            doc="Arc sine, in radians."),
        Row("acos", "x", "acos(x)", "-1 / sqrt((1 - x) * (1 + x))", domain="-0.9 0.9",
            doc="Arc cosine, in radians."),
        Row("atan", "x", "atan(x)", "1 / (1 + x * x)", doc="Arc tangent, in radians."),
        Row("sinc", "x",
            "where(x == 0, 1, sin(x * 3.141592653589793) / (x * 3.141592653589793))",
            "where(x == 0, 0, (cos(x * 3.141592653589793) - z) / x)", domain="0.2 4",
            doc="sin(pi input) / (pi input), 1 at 0."),
        Row("atan2", "x y", "atan2(x, y)", "y / (x * x + y * y); -x / (x * x + y * y)",
            domain="0.2 4; 0.2 4", doc="Angle of the point (other, input), in radians."),
        Row("sinh", "x", "sinh(x)", "cosh(x)", doc="Hyperbolic sine."),
        Row("cosh", "x", "cosh(x)", "sinh(x)", doc="Hyperbolic cosine."),
        Row("tanh", "x", "tanh(x)", "1 - z * z", doc="Hyperbolic tangent."),
        Row("asinh", "x", "asinh(x)", "1 / sqrt(x * x + 1)", doc="Inverse hyperbolic sine."),
        Row("acosh", "x", "acosh(x)", "1 / sqrt((x - 1) * (x + 1))", domain="1.2 4",
            doc="Inverse hyperbolic cosine."),
        Row("atanh", "x", "atanh(x)", "1 / ((1 - x) * (1 + x))", domain="-0.9 0.9",
            doc="Inverse hyperbolic tangent."),
        # Sigmoids and their kin. The derivative of a saturated sigmoid is exactly 0, as PyTorch's:
        # it is what keeps BCELoss finite there.
        Row("sigmoid", "x", "1 / (1 + exp(-x))", "(1 - z) * z", doc="1 / (1 + exp(-input))."),
        Row("logit", "x", "log(x / (1 - x))", "where(z == z, 1 / (x * (1 - x)), z)",
            domain="0.05 0.95", doc="log(input / (1 - input))."),
        Row("softplus", "x", "softplus(x)", "sigmoid(x)", public=False, doc="log(1 + exp(input))."),
        Row("softplus_beta", "x", "where(x * beta > threshold, x, softplus(x * beta) / beta)",
            "where(x * beta > threshold, 1, sigmoid(x * beta))", params="beta threshold",
            types="real", kinks="x * beta - threshold", node="SoftplusBackward0", public=False,
            doc="log(1 + exp(beta * input)) / beta; input where beta * input > threshold."),
        Row("logsigmoid", "x", "-softplus(-x)", "sigmoid(-x)", types="real", public=False,
            node="LogSigmoidBackward0", doc="log(sigmoid(input))."),
        Row("erf", "x", "erf(x)", "1.1283791670955126 * exp(-(x * x))",
            doc="Error function (DLMF 7.2.1)."),
        Row("erfc", "x", "erfc(x)", "-1.1283791670955126 * exp(-(x * x))",
            doc="Complementary error function (DLMF 7.2.2)."),
        Row("silu", "x", "x * sigmoid(x)", "sigmoid(x) * (1 + x * sigmoid(-x))", public=False,
            types="real", doc="input * sigmoid(input)."),
        Row("mish", "x", "x * tanh(softplus(x))", "tanh(softplus(x)) + "
            "x * sigmoid(x) * (1 - tanh(softplus(x)) * tanh(softplus(x)))", types="real",
            public=False, doc="input * tanh(softplus(input)) (arXiv:1908.08681)."),
        Row("gelu", "x", "0.5 * x * (1 + erf(x * 0.7071067811865476))",
            "0.5 * (1 + erf(x * 0.7071067811865476)) + 0.3989422804014327 * x * exp(-0.5 * x * x)",
            types="real", public=False,
            doc="Gaussian error linear unit, input * Phi(input) (arXiv:1606.08415)."),
        Row("gelu_tanh", "x",
            "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))",
            "0.5 * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))) + 0.5 * x * (1 - "
            "tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)) * "
            "tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))) * "
            "(0.7978845608028654 + 0.1070322242903246 * x * x)",
            types="real", public=False, node="GeluBackward0",
            doc="The tanh approximation of gelu (arXiv:1606.08415)."),
        # Piecewise linear.
        Row("relu", "x", "where(x > 0, x, where(x == x, 0.0, x))", "where(z <= 0, 0, 1)",
            types="any", kinks="x", doc="max(input, 0); derivative 0 at 0."),
        Row("leaky_relu", "x", "where(x > 0, x, x * negative_slope)",
            "where(x > 0, 1, negative_slope)", params="negative_slope", types="real", kinks="x",
            public=False, doc="input where positive, else input * negative_slope."),
        Row("threshold", "x", "where(x <= threshold, value, x)", "where(x <= threshold, 0, 1)",
            params="threshold value", types="any", kinks="x - threshold", public=False,
            doc="input where it is above the threshold, else value."),
        Row("prelu_kernel", "x y", "where(x > 0, x, x * y)",
            "where(x > 0, 1, y); where(x > 0, 0, x)",
            types="real", kinks="x", node="PreluKernelBackward0", public=False,
            doc="input where positive, else input * weight."),
        Row("elu", "x", "where(x > 0, x, alpha * expm1(x))", "where(x > 0, 1, alpha * exp(x))",
            params="alpha", types="real", kinks="x", public=False,
            doc="input where positive, else alpha * (exp(input) - 1)."),
        Row("selu", "x",
            "1.0507009873554805 * where(x > 0, x, 1.6732632423543772 * expm1(x))",
            "1.0507009873554805 * where(x > 0, 1, 1.6732632423543772 * exp(x))", types="real",
            kinks="x", public=False, node="EluBackward0", doc="Scaled elu (arXiv:1706.02515)."),
        Row("celu", "x", "where(x > 0, x, alpha * expm1(x / alpha))",
            "where(x > 0, 1, exp(x / alpha))", params="alpha", types="real", kinks="x",
            public=False, doc="input where positive, else alpha * (exp(input / alpha) - 1)."),
        Row("hardsigmoid", "x", "where(x < -3, 0, where(x > 3, 6, x + 3)) / 6",
            "where(x > -3, where(x < 3, 0.16666666666666666, 0), 0)", types="real",
            kinks="x + 3; x - 3", public=False, doc="input / 6 + 0.5 limited to [0, 1]."),
        Row("hardswish", "x", "x * where(x < -3, 0, where(x > 3, 6, x + 3)) / 6",
            "where(x <= -3, 0, where(x < 3, x / 3 + 0.5, 1))", types="real",
            kinks="x + 3; x - 3", public=False, doc="input * hardsigmoid(input)."),
        Row("hardtanh", "x", "where(x < low, low, where(x > high, high, x))",
            "where(x <= low, 0, where(x >= high, 0, 1))", params="low high", types="any",
            kinks="x - low; x - high", public=False,
            doc="input limited to [low, high]; derivative 0 at the bounds."),
        Row("softshrink", "x", "where(x > lambd, x - lambd, where(x < -lambd, x + lambd, x * 0))",
            "where((x >= -lambd) * (x <= lambd) != 0, 0, 1)", params="lambd", types="real",
            kinks="x - lambd; x + lambd", public=False,
            doc="input nearer to 0 by lambd; 0 between -lambd and lambd."),
        Row("hardshrink", "x", "where((x >= -lambd) * (x <= lambd) != 0, 0, x)",
            "where((x >= -lambd) * (x <= lambd) != 0, 0, 1)", params="lambd", types="real",
            kinks="x - lambd; x + lambd", public=False,
            doc="0 between -lambd and lambd, else input."),
        Row("tanhshrink", "x", "x - tanh(x)", "tanh(x) * tanh(x)", node="SubBackward0",
            public=False, doc="input - tanh(input)."),
        Row("clamp", "x", "where(x < low, low, where(x > high, high, x)) + where(low > high, "
            "high - where(x < low, low, where(x > high, high, x)), 0)",
            "where((x >= low) * (x <= high) != 0, 1, 0)", params="low high", types="any",
            kinks="x - low; x - high", node="ClampBackward1",
            doc="input limited to [low, high]; derivative 1 at the bounds."),
        Row("clamp_min", "x", "where(x < low, low, x)", "where(x >= low, 1, 0)", params="low",
            types="any", kinks="x - low", node="ClampBackward1",
            doc="input, not below low; derivative 1 at the bound."),
        Row("clamp_max", "x", "where(x > high, high, x)", "where(x <= high, 1, 0)", params="high",
            types="any", kinks="x - high", node="ClampBackward1",
            doc="input, not above high; derivative 1 at the bound."),
        Row("maximum", "x y", "maximum(x, y)",
            "where(x > y, 1, where(x == y, 0.5, 0)); where(x < y, 1, where(x == y, 0.5, 0))",
            types="any", kinks="x - y", doc="Larger of input and other; nan if one is nan."),
        Row("minimum", "x y", "minimum(x, y)",
            "where(x < y, 1, where(x == y, 0.5, 0)); where(x > y, 1, where(x == y, 0.5, 0))",
            types="any", kinks="x - y", doc="Smaller of input and other; nan if one is nan."),
        Row("fmax", "x y", "where(x >= y, x, where(y == y, y, x))",
            "where(x >= y, 1, where(y == y, 0, 1)); where(x >= y, 0, where(y == y, 1, 0))",
            types="any", kinks="x - y", doc="Larger of input and other; nan counts as missing."),
        Row("fmin", "x y", "where(x <= y, x, where(y == y, y, x))",
            "where(x <= y, 1, where(y == y, 0, 1)); where(x <= y, 0, where(y == y, 1, 0))",
            types="any", kinks="x - y", doc="Smaller of input and other; nan counts as missing."),
        Row("nan_to_num", "x",
            "where(x != x, nan, where(x == inf, above, where(x == -inf, below, x)))",
            "where(x - x == 0, 1, 0)", params="nan above below", types="real", public=False,
            doc="input with numbers for nan, inf and -inf."),
        # Rounding: the derivative is 0 wherever it exists.
        Row("floor", "x", "floor(x)", "0", types="any", domain="0.1 0.9",
            doc="Largest integer not above."),
        Row("ceil", "x", "-floor(-x)", "0", types="any", domain="0.1 0.9",
            doc="Smallest integer not below."),
        Row("round", "x", "rint(x)", "0", types="any", domain="0.6 1.4",
            doc="Nearest integer; the even one where two are equally near."),
        Row("trunc", "x", "trunc(x)", "0", types="any", domain="0.1 0.9",
            doc="Integer part."),
        Row("frac", "x", "x - trunc(x)", "1", types="real", domain="0.1 0.9",
            doc="What trunc takes away."),
        # Losses, an element; nn.functional reduces them in the same pass.
        Row("mse_loss", "x y", "(x - y) * (x - y)", "2 * (x - y); -2 * (x - y)", public=False,
            doc="Squared error."),
        Row("l1_loss", "x y", "fabs(x - y)",
            "where(x > y, 1, where(x < y, -1, 0)); where(x < y, 1, where(x > y, -1, 0))",
            kinks="x - y", public=False, doc="Absolute error."),
        Row("binary_cross_entropy", "x y",
            "-(y * where(log(x) < -100, -100, log(x))"
            " + (1 - y) * where(log1p(-x) < -100, -100, log1p(-x)))",
            "(x - y) / where((1 - x) * x < 1e-12, 1e-12, (1 - x) * x);"
            "where(log1p(-x) < -100, -100, log1p(-x)) - where(log(x) < -100, -100, log(x))",
            domain="0.05 0.95; 0.05 0.95", public=False,
            doc="-(y log x + (1 - y) log(1 - x)), each logarithm not below -100."),
        Row("binary_cross_entropy_with_logits", "x y",
            "where(x > 0, x, 0) - x * y + log1p(exp(-fabs(x)))", "sigmoid(x) - y; -x",
            domain="-4 4; 0.05 0.95", public=False,
            doc="Binary cross entropy of sigmoid(x), without overflow."),
        Row("smooth_l1", "x y",
            "where(fabs(x - y) < beta, 0.5 * (x - y) * (x - y) * rate, fabs(x - y) - 0.5 * beta)",
            "where(fabs(x - y) < beta, (x - y) * rate, where(x > y, 1, where(x < y, -1, 0)));"
            "where(fabs(x - y) < beta, (y - x) * rate, where(x > y, -1, where(x < y, 1, 0)))",
            params="beta rate", kinks="x - y; fabs(x - y) - fabs(beta)", public=False,
            doc="Squared error below beta, absolute error above; rate is 1 / beta."),
        Row("huber", "x y",
            "where(fabs(x - y) < delta, 0.5 * (x - y) * (x - y),"
            " delta * (fabs(x - y) - 0.5 * delta))",
            "where(fabs(x - y) < delta, x - y, where(x > y, delta, where(x < y, -delta, 0)));"
            "where(fabs(x - y) < delta, y - x, where(x > y, -delta, where(x < y, delta, 0)))",
            params="delta", kinks="x - y; fabs(x - y) - fabs(delta)", public=False,
            doc="Squared error below delta, absolute error times delta above."),
        Row("kl_divergence", "x y", "where(y > 0, y * (log(y) - x), where(y == 0, 0, log(y) * y))",
            "-y; where(y > 0, log(y) + 1 - x, where(y == 0, 0, log(y)))",
            domain="-4 4; 0.1 4", public=False,
            doc="target * (log(target) - input), 0 where target is."),
        Row("kl_divergence_log", "x y", "exp(y) * (y - x)", "-exp(y); exp(y) * (y - x + 1)",
            public=False,
            doc="exp(target) * (target - input)."),
        Row("soft_margin", "x y", "softplus(-(x * y))",
            "-(y * sigmoid(-(x * y))); -(x * sigmoid(-(x * y)))", public=False,
            doc="log(1 + exp(-target * input))."),
        Row("hinge_embedding", "x y",
            "where(y == -1, 0, x) + where(y == 1, 0, where(margin > x, margin - x, 0))",
            "where(y == -1, 0, 1) - where(y == 1, 0, where(margin > x, 1, 0)); 0",
            params="margin", kinks="x - margin; y - 1; y + 1", public=False,
            doc="input where target is 1, max(0, margin - input) where it is -1."),
        Row("poisson_nll_log", "x y", "exp(x) - x * y", "exp(x) - y; -x", public=False,
            doc="exp(input) - target * input."),
        Row("poisson_nll", "x y", "x - y * log(x + eps)", "1 - y / (x + eps); -log(x + eps)",
            params="eps", domain="8 9; -4 4", public=False,
            doc="input - target * log(input + eps)."),
        # Comparisons: bool results, no gradient.
        Row("eq", "x y", "x == y", types="bool", doc="input == other."),
        Row("ne", "x y", "x != y", types="bool", doc="input != other."),
        Row("lt", "x y", "x < y", types="bool", doc="input < other."),
        Row("le", "x y", "x <= y", types="bool", doc="input <= other."),
        Row("gt", "x y", "x > y", types="bool", doc="input > other."),
        Row("ge", "x y", "x >= y", types="bool", doc="input >= other."),
        Row("isnan", "x", "x != x", types="bool", doc="Whether an element is nan."),
        Row("isinf", "x", "(x == x) * (x - x != 0) != 0", types="bool",
            doc="Whether an element is infinite."),
        Row("isfinite", "x", "x - x == 0", types="bool", doc="Whether an element is finite."),
        Row("logical_not", "x", "x == 0", types="bool", doc="Whether an element is 0."),
        Row("logical_and", "x y", "(x != 0) * (y != 0) != 0", types="bool",
            doc="Whether neither element is 0."),
        Row("logical_or", "x y", "(x == 0) * (y == 0) == 0", types="bool",
            doc="Whether an element is not 0."),
        Row("logical_xor", "x y", "(x == 0) != (y == 0)", types="bool",
            doc="Whether exactly one element is not 0."),
    )
}  # fmt: skip


# The gates of a GRU: each is a part that is linear in x and one that is linear in h.
_GATES = {
    "reset": "sigmoid(r + p)",
    "update": "sigmoid(u + q)",
    "new": "tanh(w + sigmoid(r + p) * v)",
}
# What recurrent layers do an element and step, between their products. nn has the functions.
CELLS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("lstm_cell", "x f w c", "sigmoid(f) * c + sigmoid(x) * tanh(w)",
            "(1 - sigmoid(x)) * sigmoid(x) * tanh(w); (1 - sigmoid(f)) * sigmoid(f) * c;"
            "(1 - tanh(w) * tanh(w)) * sigmoid(x); sigmoid(f)",
            types="real", node="AddBackward0", public=False,
            doc="Next c of an LSTM from its gates (input, forget, new), before activation, and c."),
        Row("lstm_output", "o c", "sigmoid(o) * tanh(c)",
            "(1 - sigmoid(o)) * sigmoid(o) * tanh(c); (1 - tanh(c) * tanh(c)) * sigmoid(o)",
            types="real", node="MulBackward0", public=False,
            doc="Next h of an LSTM from its output gate and next c."),
        Row("gru_cell", "r u w p q v h", substitute("(h - new) * update + new", _GATES),
            substitute(
                "(1 - update) * (1 - new * new) * (1 - reset) * reset * v;"
                "(h - new) * (1 - update) * update;"
                "(1 - update) * (1 - new * new);"
                "(1 - update) * (1 - new * new) * (1 - reset) * reset * v;"
                "(h - new) * (1 - update) * update;"
                "(1 - update) * (1 - new * new) * reset;"
                "update", _GATES,
            ), types="real", node="AddBackward0", public=False,
            doc="Next h of a GRU from its gates (reset, update, new) of x and of h, and h."),
    )
}  # fmt: skip


class Fold:
    """One reduction: `a` the running value, `b` the next element, `n` the number of elements."""

    __slots__ = ("combine", "doc", "finish", "initial", "name")

    def __init__(
        self, name: str, combine: str, initial: str, finish: str = "a", *, doc: str
    ) -> None:
        self.name = name
        self.combine = combine
        self.initial = initial
        self.finish = finish
        self.doc = doc


FOLDS: dict[str, Fold] = {
    fold.name: fold
    for fold in (
        Fold("sum", "a + b", "0", doc="Sum of the elements."),
        Fold("mean", "a + b", "0", "a / n", doc="Mean of the elements."),
        Fold("prod", "a * b", "1", doc="Product of the elements."),
        Fold("max", "maximum(a, b)", "-inf", doc="Largest element; nan if one is nan."),
        Fold("min", "minimum(a, b)", "inf", doc="Smallest element; nan if one is nan."),
    )
}


def _line(text: str) -> tuple[str, str, str]:
    """A line of a Rowwise: its name, its kind and its formula."""
    before, colon, after = text.partition(":")
    name, equals, kind = before.partition("=")
    if not colon:
        return name.strip(), "number", kind.strip()
    return name.strip(), kind.strip() if equals else "row", after.strip()


class Rowwise:
    """One op on whole rows (the last dimension): reductions, then a formula an element.

    A line is a reduction, `name = fold: formula`; a number, `name = formula`; or a row that is
    kept, `name: formula`. Later lines and the result may use the names. At most one row is kept,
    where the result will be. params: trailing inputs that are one number a row.
    """

    __slots__ = ("doc", "formula", "inputs", "lines", "name", "params")

    def __init__(
        self, name: str, inputs: str, lines: str, formula: str, *, doc: str, params: str = ""
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs.split())
        self.params = tuple(params.split())
        # (name, kind, formula); the kind is a fold, "number" or "row".
        self.lines = tuple(_line(text) for text in lines.split(";"))
        self.formula = formula
        self.doc = doc


ROWWISE: dict[str, Rowwise] = {
    row.name: row
    for row in (
        Rowwise("softmax", "x", "m = max: x; e: exp(x - m); s = sum: e", "e / s",
                doc="exp(input) divided by its sum."),
        Rowwise("softmax_backward", "g z", "s = sum: g * z", "z * (g - s)",
                doc="Gradient of softmax from its result."),
        Rowwise("log_softmax", "x", "m = max: x; e: exp(x - m); s = sum: e; l = log(s)",
                "x - m - l",
                doc="Logarithm of softmax, without underflow."),
        Rowwise("log_softmax_backward", "g z", "s = sum: g", "g - exp(z) * s",
                doc="Gradient of log_softmax from its result."),
        Rowwise("layer_norm", "x w b",
                "m = mean: x; v = mean: (x - m) * (x - m); r = 1 / sqrt(v + eps)",
                "(x - m) * r * w + b", params="eps",
                doc="input with mean 0 and variance 1, times weight, plus bias."),
        Rowwise("layer_norm_backward", "g x w",
                "m = mean: x; s = mean: g * w; v = mean: (x - m) * (x - m);"
                "t = mean: g * w * (x - m); r = 1 / sqrt(v + eps); q = t / (v + eps)",
                "(g * w - s - (x - m) * q) * r", params="eps",
                doc="Gradient of layer_norm from its input."),
        Rowwise("layer_norm_weight", "g x",
                "m = mean: x; v = mean: (x - m) * (x - m); r = 1 / sqrt(v + eps)",
                "g * ((x - m) * r)", params="eps",
                doc="Gradient of layer_norm's weight, row by row."),
        Rowwise("rms_norm", "x w", "v = mean: x * x; r = 1 / sqrt(v + eps)", "x * r * w",
                params="eps",
                doc="input divided by the root of its mean square, times weight."),
        Rowwise("rms_norm_backward", "g x w", "v = mean: x * x; t = mean: g * w * x;"
                "r = 1 / sqrt(v + eps); q = t / (v + eps)", "(g * w - x * q) * r", params="eps",
                doc="Gradient of rms_norm from its input."),
    )
}  # fmt: skip


class Step:
    """One optimizer update: statements over a parameter, its gradient and its state.

    `arrays` are per-element (`p` the parameter, `g` its gradient, then state), `numbers` are
    per-call. Each statement assigns an array or a temporary; arrays but `g` are written back.
    """

    __slots__ = ("arrays", "doc", "name", "numbers", "statements")

    def __init__(self, name: str, arrays: str, numbers: str, statements: str, *, doc: str) -> None:
        self.name = name
        self.arrays = tuple(arrays.split())
        self.numbers = tuple(numbers.split())
        self.statements = tuple(line.strip() for line in statements.split(";"))
        self.doc = doc
        known = set(self.arrays) | set(self.numbers) | VOCABULARY
        for line in self.statements:
            target, _, formula = line.partition(" = ")
            if unknown := names_in(formula) - known:
                raise ValueError(f"step {name}: {line!r} names unknown {sorted(unknown)}")
            known.add(target)


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("sgd", "p g", "lr sign weight_decay",
             "d = sign * g + weight_decay * p; p = p - lr * d",
             doc="Gradient descent."),
        # keep is dampening's 1 - d, or 1 at a parameter's first step, when decay is 0.
        Step("sgd_momentum", "p g buf", "lr sign weight_decay decay keep ahead stay",
             "d = sign * g + weight_decay * p; buf = decay * buf + keep * d; "
             "p = p - lr * (stay * d + ahead * buf)",
             doc="Gradient descent with momentum; Nesterov's where stay = 1, ahead = momentum."),
        Step("adam", "p g m v", "rate sign weight_decay keep1 beta2 keep2 root eps shrink",
             "d = sign * g + weight_decay * p; m = m + (d - m) * keep1; "
             "v = v * beta2 + d * d * keep2; "
             "p = p * shrink - rate * m / (sqrt(v) / root + eps)",
             doc="Adam (arXiv:1412.6980); AdamW (arXiv:1711.05101) where shrink < 1."),
        Step("adam_amsgrad", "p g m v top",
             "rate sign weight_decay keep1 beta2 keep2 root eps shrink",
             "d = sign * g + weight_decay * p; m = m + (d - m) * keep1; "
             "v = v * beta2 + d * d * keep2; top = maximum(top, v); "
             "p = p * shrink - rate * m / (sqrt(top) / root + eps)",
             doc="Adam with the largest second moment so far (AMSGrad)."),
        Step("adagrad", "p g v", "rate sign weight_decay eps",
             "d = sign * g + weight_decay * p; v = v + d * d; p = p - rate * d / (sqrt(v) + eps)",
             doc="Adagrad (Duchi, Hazan & Singer 2011)."),
        Step("adamax", "p g m u", "rate sign weight_decay keep1 beta2 eps",
             "d = sign * g + weight_decay * p; m = m + (d - m) * keep1; "
             "u = maximum(u * beta2, fabs(d) + eps); p = p - rate * m / u",
             doc="Adamax (arXiv:1412.6980): Adam with the largest gradient so far."),
        Step("nadam", "p g m v", "now ahead sign weight_decay keep1 beta2 keep2 bias eps shrink",
             "d = sign * g + weight_decay * p; m = m + (d - m) * keep1; "
             "v = v * beta2 + d * d * keep2; u = sqrt(v / bias) + eps; "
             "p = p * shrink - now * d / u - ahead * m / u",
             doc="Adam with Nesterov's momentum (Dozat 2016)."),
        # The root is of a negative number, or of 0 / 0, only where past <= 0.
        Step("radam", "p g m v",
             "rate sign weight_decay keep1 beta2 keep2 past above below eps shrink",
             "d = sign * g + weight_decay * p; m = m + (d - m) * keep1; "
             "v = v * beta2 + keep2 * d * d; "
             "u = where(past > 0, sqrt(above / below) / (sqrt(v) + eps), 1); "
             "p = p * shrink - rate * m * u",
             doc="Adam with a rectified rate (arXiv:1908.03265)."),
        Step("rprop", "p g last size", "sign down up least most",
             "d = sign * g; s = d * last; "
             "factor = where(s > 0, up, where(s < 0, down, 1)); "
             "size = minimum(maximum(size * factor, least), most); "
             "last = where(s < 0, 0, d); "
             "p = p - size * where(last > 0, 1, where(last < 0, -1, 0))",
             doc="Resilient propagation (Riedmiller & Braun 1993)."),
        Step("asgd", "p g a", "eta sign weight_decay shrink mu",
             "d = sign * g + weight_decay * p; p = p * shrink - eta * d; "
             "a = where(mu == 1, p, a + (p - a) * mu)",
             doc="Gradient descent, and the average of its steps (Polyak & Juditsky 1992)."),
        Step("adadelta", "p g v a", "lr sign weight_decay rho fresh eps",
             "d = sign * g + weight_decay * p; v = v * rho + d * d * fresh; "
             "e = sqrt(a + eps) / sqrt(v + eps) * d; a = a * rho + e * e * fresh; p = p - lr * e",
             doc="Adadelta (arXiv:1212.5701)."),
        *(Step("rmsprop" + "_centered" * centered + "_momentum" * momentum,
               "p g v" + " a" * centered + " b" * momentum,
               "lr sign weight_decay keep fresh eps decay",
               "d = sign * g + weight_decay * p; v = v * keep + d * d * fresh; "
               + ("a = a + (d - a) * fresh; u = sqrt(v - a * a) + eps; " if centered
                  else "u = sqrt(v) + eps; ")
               + ("b = decay * b + d / u; p = p - lr * b" if momentum else "p = p - lr * d / u"),
               doc="RMSprop (Tieleman & Hinton 2012); centered: divided by the deviation.")
          for centered in (False, True) for momentum in (False, True)),
    )
}  # fmt: skip


def markdown() -> Iterator[str]:
    """The table as lines of Markdown."""
    yield "| op | formula | derivatives | doc |"
    yield "| --- | --- | --- | --- |"
    for row in (*ROWS.values(), *CELLS.values()):
        derivatives = "; ".join(row.derivatives or ("-",))
        operands = ", ".join(row.operands)
        yield f"| {row.name}({operands}) | `{row.formula}` | `{derivatives}` | {row.doc} |"
