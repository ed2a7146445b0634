"""Every module beside PyTorch's: the same seed gives the same parameters, bit for bit, the same
printed form, outputs and gradients, in training and in evaluation.
"""

import numpy as np
import pytest

import microtorch

# A constructor, and the shapes of its inputs: "+" positive, "p" probabilities, "s" signs,
# "i" numbers below 3; a tuple alone is normal.
MODULES = """
Linear(3, 4) | 5,3
Linear(3, 4, bias=False) | 2,5,3
Bilinear(3, 4, 2) | 5,3 5,4
Bilinear(3, 4, 2, bias=False) | 2,5,3 2,5,4
Identity(7, unused=1) | 2,3
Flatten() | 2,3,4
Flatten(0, 1) | 2,3,4
Unflatten(1, (2, -1)) | 3,6
Conv1d(3, 4, 3) | 2,3,8
Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False) | 2,4,9
Conv1d(2, 2, 3, padding="same", padding_mode="circular") | 2,2,6
Conv2d(3, 4, 3) | 2,3,6,7
Conv2d(3, 4, 3) | 3,6,7
Conv2d(3, 4, 2, padding="same") | 2,3,6,7
Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False) | 2,4,7,7
Conv2d(2, 3, 3, padding=1, padding_mode="reflect") | 2,2,5,5
Conv2d(4, 4, 3, padding="valid", groups=4) | 1,4,5,5
ConvTranspose1d(3, 4, 3, stride=2) | 2,3,5
ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1) | 2,3,4,5
ConvTranspose2d(4, 2, 2, groups=2, bias=False) | 2,4,4,5
Unfold(2, stride=2) | 2,3,4,6
Fold((4, 5), 2, dilation=(1, 2), padding=1, stride=(2, 1)) | 2,8,15
MaxPool1d(2) | 2,3,7
MaxPool1d(3, stride=1, padding=1, return_indices=True) | 2,3,7
MaxPool2d(2) | 2,3,6,7
MaxPool2d((3, 2), stride=(2, 1), padding=1, dilation=(1, 1), ceil_mode=True) | 2,3,6,7
AvgPool1d(2) | 2,3,7
AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False) | 2,3,8
AvgPool2d(2) | 2,3,6,7
AvgPool2d(3, 2, 1, count_include_pad=False) | 2,3,6,7
AvgPool2d((2, 3), divisor_override=5) | 2,3,6,7
AdaptiveAvgPool1d(3) | 2,3,7
AdaptiveAvgPool2d(1) | 2,3,6,7
AdaptiveAvgPool2d((2, None)) | 2,3,6,7
AdaptiveMaxPool1d(3) | 2,3,7
AdaptiveMaxPool2d((2, 3), return_indices=True) | 2,3,6,7
BatchNorm1d(3) | 5,3
BatchNorm1d(3, momentum=None) | 5,3,4
BatchNorm1d(3, affine=False) | 5,3
BatchNorm1d(3, track_running_stats=False) | 5,3
BatchNorm2d(3, eps=1e-3, momentum=0.5) | 2,3,4,5
BatchNorm2d(3, bias=False) | 2,3,4,5
InstanceNorm1d(3) | 2,3,5
InstanceNorm2d(3, affine=True, track_running_stats=True) | 2,3,4,5
LayerNorm(4) | 2,3,4
LayerNorm((3, 4), eps=1e-3) | 2,3,4
LayerNorm(4, elementwise_affine=False) | 2,3,4
LayerNorm([4], bias=False) | 2,3,4
GroupNorm(2, 4) | 3,4,5
GroupNorm(4, 4, affine=False) | 3,4,5,2
LocalResponseNorm(3) | 2,5,4
LocalResponseNorm(2, 0.5, 2, 0.3) | 2,5,4,3
RMSNorm(4) | 2,3,4
RMSNorm((3, 4), eps=1e-3, elementwise_affine=False) | 2,3,4
Embedding(5, 3) | i4,2
Embedding(5, 3, padding_idx=2) | i4
Embedding(5, 3, padding_idx=-1) | i7
Dropout(0.3) | 40,3
Dropout() | 40
Dropout1d(0.4) | 5,6,3
Dropout2d(0.4) | 5,6,3,2
Dropout3d(0.4) | 5,6,3,2,2
AlphaDropout(0.4) | 40,3
AlphaDropout(1.0) | 4,3
FeatureAlphaDropout(0.4) | 5,6,3,2
Threshold(0.1, 20) | 3,4
PReLU() | 3,4
PReLU(3, init=0.5) | 2,3,4
RReLU() | 9,4
RReLU(0.2, 0.5) | 3,4
Hardshrink() | 3,4
Hardshrink(lambd=0.1) | 3,4
Tanhshrink() | 3,4
GLU() | 3,4
GLU(dim=0) | 4,3
Softmax(1) | 3,4
LogSoftmax(dim=-1) | 3,4
Softmin(0) | 3,4
ZeroPad1d(2) | 2,3
ZeroPad2d((1, 2, 0, 3)) | 2,3,4
ConstantPad1d(1, 2.5) | 2,3,4
ConstantPad2d(1, -1) | 2,3,4
ReflectionPad1d(2) | 2,3,4
ReflectionPad2d((1, 2, 0, 3)) | 2,3,4,4
ReplicationPad1d(2) | 2,3,4
ReplicationPad2d(2) | 2,3,4
CircularPad1d(2) | 2,3,4
CircularPad2d((1, 2, 0, 3)) | 2,3,4,4
PixelShuffle(2) | 2,8,3,3
Upsample(scale_factor=2) | 2,3,4
Upsample((5, 3), mode="bilinear") | 2,3,4,4
Upsample(scale_factor=(2, 1.5), mode="bicubic", align_corners=True) | 2,3,4,4
UpsamplingNearest2d(scale_factor=2) | 2,3,4,4
UpsamplingBilinear2d((5, 6)) | 2,3,4,4
CosineSimilarity() | 3,4 3,4
CosineSimilarity(dim=0, eps=1e-6) | 3,4 3,4
PairwiseDistance() | 3,4 3,4
PairwiseDistance(p=1, keepdim=True) | 3,4 3,4
L1Loss() | 3,4 3,4
MSELoss(reduction="sum") | 3,4 3,4
SmoothL1Loss() | 3,4 3,4
SmoothL1Loss(beta=0.5, reduction="sum") | 3,4 3,4
HuberLoss(delta=0.5) | 3,4 3,4
HuberLoss(reduction="none") | 3,4 3,4
KLDivLoss(reduction="batchmean") | 3,4 p3,4
KLDivLoss(log_target=True) | 3,4 3,4
SoftMarginLoss() | 3,4 s3,4
HingeEmbeddingLoss(0.5) | 3,4 s3,4
CosineEmbeddingLoss(margin=0.1) | 3,4 3,4 s3
MarginRankingLoss(margin=0.1) | 5 5 s5
TripletMarginLoss(margin=0.5, p=1) | 3,4 3,4 3,4
TripletMarginLoss(swap=True) | 3,4 3,4 3,4
TripletMarginWithDistanceLoss() | 3,4 3,4 3,4
TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance(3), swap=True) | 3,4 3,4 3,4
MultiMarginLoss() | 5,4 i5
MultiMarginLoss(p=2, margin=0.5, reduction="none") | 5,4 i5
MultiLabelMarginLoss() | 5,4 i5,4
MultiLabelMarginLoss(reduction="sum") | 4 i4
MultiLabelSoftMarginLoss() | 5,4 p5,4
PoissonNLLLoss() | 3,4 +3,4
PoissonNLLLoss(log_input=False, full=True) | +3,4 +3,4
GaussianNLLLoss(full=True) | 3,4 3,4 +3,4
NLLLoss() | 5,4 i5
CrossEntropyLoss(label_smoothing=0.1) | 5,4 i5
BCELoss() | p5 p5
BCEWithLogitsLoss() | 5 p5
MultiheadAttention(8, 2) | 5,2,8 3,2,8 3,2,8
MultiheadAttention(8, 4, batch_first=True, bias=False) | 2,5,8 2,3,8 2,3,8
MultiheadAttention(8, 2, 0.4, add_bias_kv=True, add_zero_attn=True) | 5,8 3,8 3,8
MultiheadAttention(6, 3, 0.3, kdim=4, vdim=5, add_bias_kv=True) | 5,2,6 3,2,4 3,2,5
TransformerEncoderLayer(8, 2, 16) | 5,3,8
TransformerEncoderLayer(8, 4, 16, 0.3, "gelu", 1e-3, True, True, False) | 3,5,8
TransformerEncoderLayer(8, 2, 16, activation=nn.Tanh(), batch_first=True) | 3,5,8
TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, nn.LayerNorm(8)) | 3,5,8
TransformerDecoderLayer(8, 2, 16) | 5,3,8 4,3,8
TransformerDecoderLayer(8, 2, 16, norm_first=True, batch_first=True, bias=False) | 3,5,8 3,4,8
TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2) | 5,8 4,8
Transformer(8, 2, 1, 2, 16) | 5,3,8 4,3,8
Transformer(8, 2, 2, 1, 16, batch_first=True, norm_first=True, bias=False) | 3,5,8 3,4,8
Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)) | 4,1,4,4
Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Dropout(0.2)) | i6
""".strip().splitlines()
MODULES = [tuple(part.strip() for part in line.split("|")) for line in MODULES]


def drawn(text, random):
    """An array of a shape, of the kind that the first letter says."""
    shape = tuple(int(n) for n in text.strip("+psi").split(","))
    if text[0] == "i":
        return random.integers(0, 3, shape)
    if text[0] == "s":
        return random.choice([-1.0, 1.0], shape).astype(np.float32)
    values = random.uniform(0.05, 0.95, shape) if text[0] in "+p" else random.normal(size=shape)
    return values.astype(np.float32)


def run(torch, constructor, shapes, place="cpu"):
    """Everything that is compared of a module, made on the CPU and moved to a place."""
    torch.manual_seed(3)
    found = {}
    # A name alone, or several that know `nn`.
    module = eval(f"nn.{constructor}", {"nn": torch.nn}).to(place)
    state = lambda: {
        k: np.array(v.detach().numpy(force=True)) for k, v in module.state_dict().items()
    }
    found["repr"] = repr(module)
    found["first state"] = state()
    for mode in ("train", "eval"):
        getattr(module, mode)()
        random = np.random.default_rng(7)
        inputs = [torch.tensor(drawn(text, random)).to(place) for text in shapes.split()]
        for x in inputs[: 1 if "Loss" in constructor else None]:
            if x.is_floating_point():
                x.requires_grad_()
        module.zero_grad()
        before = torch.get_rng_state()
        out = module(*inputs)
        found[f"{mode} draws"] = bool((torch.get_rng_state() != before).any())
        outputs = out if isinstance(out, tuple) else (out,)
        found[f"{mode} outputs"] = [np.array(z.detach().numpy(force=True)) for z in outputs]
        if outputs[0].requires_grad:
            weights = np.random.default_rng(8).normal(size=tuple(outputs[0].shape))
            (outputs[0] * torch.tensor(weights.astype(np.float32)).to(place)).sum().backward()
        found[f"{mode} gradients"] = {
            str(k): None if p.grad is None else np.array(p.grad.numpy(force=True))
            for k, p in [*enumerate(inputs), *module.named_parameters()]
        }
        found[f"{mode} state"] = state()
    return found


def same(ours, theirs, place):
    """Assert that two results are equal, arrays but for the last digits."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), place
        for key in theirs:
            same(ours[key], theirs[key], f"{place} {key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), place
        for mine, other in zip(ours, theirs):
            same(mine, other, place)
    elif isinstance(theirs, np.ndarray):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, place
        if place.startswith("first state"):
            assert ours.tobytes() == theirs.tobytes(), place
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=place)
    else:
        assert ours == theirs, place


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("constructor, shapes", MODULES, ids=[c for c, _ in MODULES])
def test_module(constructor, shapes):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")
    theirs = run(torch, constructor, shapes)
    ours = run(microtorch, constructor, shapes)
    for part, value in theirs.items():
        same(ours[part], value, part)


WRONG = """
Conv2d(3, 4, 3, groups=2)
Conv2d(4, 3, 3, groups=2)
Conv2d(4, 4, 3, groups=0)
Conv2d(4, 4, 3, padding="other")
Conv2d(4, 4, 3, padding="same", stride=2)
Conv2d(4, 4, 3, padding_mode="other")
ConvTranspose2d(4, 4, 3, padding_mode="reflect")
GroupNorm(3, 4)
Embedding(4, 2, padding_idx=4)
Dropout(1.5)
Unflatten(1, 3)
Unflatten(1, (2, 1.5))
Bilinear(0, 3, 4)
TripletMarginLoss(margin=0)
BatchNorm1d(3)(torch.zeros(3))
BatchNorm1d(3)(torch.zeros(1, 3))
BatchNorm2d(3)(torch.zeros(2, 3))
BatchNorm1d(4)(torch.zeros(2, 3))
InstanceNorm1d(3)(torch.zeros(2, 3, 1))
LayerNorm(4)(torch.zeros(2, 3))
""".strip().splitlines()


@pytest.mark.parametrize("code", WRONG)
def test_wrong_modules_are_refused(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")
    raised = []
    for library in (torch, microtorch):
        with pytest.raises(Exception) as caught:
            eval(f"nn.{code}", {"nn": library.nn, "torch": library})
        raised.append(type(caught.value).__name__)
    assert raised[0] == raised[1]


def clipped(torch, clip):
    x = torch.tensor([3.0, -4.0, 0.5], requires_grad=True)
    y = torch.tensor([[1.0, 2.0]], requires_grad=True)
    (x * x).sum().backward()
    (y * 5).sum().backward()
    total = clip(torch.nn.utils, [x, y, torch.tensor([1.0])])
    return None if total is None else total.item(), x.grad.tolist(), y.grad.tolist()


@pytest.mark.parametrize(
    "clip",
    [
        lambda utils, p: utils.clip_grad_norm_(p, 1.5),
        lambda utils, p: utils.clip_grad_norm_(p, 1000.0),
        lambda utils, p: utils.clip_grad_norm_(p, 1.5, norm_type=1),
        lambda utils, p: utils.clip_grad_norm_(p, 1.5, norm_type=float("inf")),
        lambda utils, p: utils.clip_grad_norm_(p[0], 1.5, norm_type=3.0),
        lambda utils, p: utils.clip_grad_norm_(p[2], 1.5),
        lambda utils, p: utils.clip_grad_value_(p, 2.5),
    ],
)
def test_clipped_gradients(clip):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")
    theirs, ours = clipped(torch, clip), clipped(microtorch, clip)
    assert ours[0] == pytest.approx(theirs[0])
    assert ours[1] == pytest.approx(theirs[1]) and ours[2][0] == pytest.approx(theirs[2][0])


def test_a_norm_that_is_not_finite_can_be_refused():
    x = microtorch.tensor([1.0], requires_grad=True)
    x.grad = microtorch.tensor([float("inf")])
    with pytest.raises(RuntimeError, match="non-finite"):
        microtorch.nn.utils.clip_grad_norm_([x], 1.0, error_if_nonfinite=True)
    assert x.grad.tolist() == [float("inf")]


def test_parameters_as_a_vector():
    model = microtorch.nn.Linear(2, 3)
    vector = microtorch.nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (9,) and vector.requires_grad
    microtorch.nn.utils.vector_to_parameters(microtorch.arange(9.0), model.parameters())
    assert model.weight.tolist() == [[0, 1], [2, 3], [4, 5]] and model.bias.tolist() == [6, 7, 8]
    with pytest.raises(TypeError):
        microtorch.nn.utils.vector_to_parameters([1.0], model.parameters())


def test_parameter_list():
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")
    shown = []
    for library in (torch, microtorch):
        made = library.nn.ParameterList(
            [library.zeros(2, 3), library.nn.Parameter(library.ones(4))]
        )
        made.append(library.ones(1))
        made.extend([library.zeros(2)])
        names = [name for name, _ in made.named_parameters()]
        shown.append((repr(made), names, len(made), list(made.state_dict())))
        assert made[-1] is made[3] and [tuple(p.shape) for p in made[1:3]] == [(4,), (1,)]
        with pytest.raises(IndexError):
            made[4]
    assert shown[0] == shown[1]


IN_PLACE = """
F.relu(x, inplace=True)
F.relu6(x, inplace=True)
F.leaky_relu(x, 0.1, True)
F.elu(x, 0.5, inplace=True)
F.selu(x, inplace=True)
F.celu(x, inplace=True)
F.hardtanh(x, -1, 1, True)
F.silu(x, inplace=True)
F.mish(x, inplace=True)
F.hardswish(x, inplace=True)
F.hardsigmoid(x, inplace=True)
F.threshold(x, 0.1, 20, True)
F.dropout(x, 0.5, inplace=True)
F.dropout(x, 1.0, inplace=True)
F.dropout(x, 0.0, inplace=True)
F.dropout(x, 0.5, False, inplace=True)
F.dropout1d(x, 0.5, inplace=True)
F.dropout2d(x, 0.5, inplace=True)
nn.Dropout(0.5, inplace=True)(x)
nn.Dropout1d(0.5, True)(x)
nn.Dropout2d(0.5, True)(x)
nn.AlphaDropout(0.5, True)(x)
F.alpha_dropout(x, 0.3, True, True)
F.alpha_dropout(x, 1.0, True, True)
F.feature_alpha_dropout(x, 0.5, True, True)
F.feature_alpha_dropout(x, 0.5)
nn.ReLU(True)(x)
nn.ReLU6(True)(x)
nn.Hardtanh(inplace=True)(x)
nn.LeakyReLU(inplace=True)(x)
nn.ELU(inplace=True)(x)
nn.Threshold(0.1, 20, True)(x)
nn.RReLU(inplace=True)(x)
F.rrelu(x, 0.1, 0.2, False, True)
""".strip().splitlines()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["plain", "leaf", "graph"])
@pytest.mark.parametrize("code", IN_PLACE)
def test_in_place(code, kind):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def result(torch):
        torch.manual_seed(3)
        w = torch.linspace(-2, 2, 24).reshape(2, 3, 4).detach()
        if kind != "plain":
            w.requires_grad_()
        x = w * 1 if kind == "graph" else w
        version = x._version
        try:
            y = eval(code, {"x": x, "F": torch.nn.functional, "nn": torch.nn})
        except RuntimeError as error:
            return str(error), x.tolist(), []
        if y.requires_grad:
            (y * torch.arange(24.0).reshape(2, 3, 4)).sum().backward()
        g = w.grad.tolist() if y.requires_grad else []
        return (
            y is x,
            x._version - version,
            np.round(x.tolist(), 5).tolist(),
            np.round(g, 5).tolist(),
        )

    ours, theirs = result(microtorch), result(pytorch)
    assert ours[0] == theirs[0]
    np.testing.assert_allclose(ours[1], theirs[1], 1e-5, 1e-6)
    np.testing.assert_allclose(ours[2], theirs[2], 1e-5, 1e-6)


def test_errors_of_load_state_dict():
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    keys = {
        "zz": 1, "0.weight": (2, 2), "x": 1, "1.weight": 5, "1.q": 1, "0.x": 2, "0": 2,
        "1.bias.foo": 1, "2.0.q": 1, "3.q": 1,
    }  # fmt: skip

    def result(torch):
        nn = torch.nn
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Sequential(nn.Linear(1, 1)))
        state = {name: torch.zeros(shape) for name, shape in keys.items()}
        with pytest.raises(RuntimeError) as raised:
            model.load_state_dict({**state, "0.bias": 3})
        del state["0.weight"], state["1.weight"]
        return str(raised.value).split("received")[0], model.load_state_dict(state, strict=False)

    ours, theirs = result(microtorch), result(pytorch)
    assert ours[0] == theirs[0]
    assert tuple(ours[1]) == tuple(theirs[1])


RECURRENT = """
RNN(3, 4) | 5,2,3
RNN(3, 4) | 5,3
RNN(3, 4, 2, "relu") | 5,2,3 2,2,4
RNN(3, 4, nonlinearity="relu", bias=False, batch_first=True) | 2,5,3
RNN(3, 4, 2, bidirectional=True, batch_first=True) | 2,5,3 4,2,4
LSTM(3, 4) | 5,2,3
LSTM(3, 4) | 5,3 1,4 1,4
LSTM(3, 4, 2, dropout=0.5) | 5,2,3
LSTM(3, 4, 2, bias=False, batch_first=True, bidirectional=True) | 2,5,3 4,2,4 4,2,4
LSTM(3, 4, 2, proj_size=2, bidirectional=True) | 5,2,3
LSTM(3, 4, batch_first=True) | 5,3
GRU(3, 4) | 5,2,3
GRU(3, 4, 3, batch_first=True, dropout=0.3) | 2,5,3 3,2,4
GRU(3, 4, bidirectional=True, bias=False) | 5,3
RNNCell(3, 4) | 2,3
RNNCell(3, 4, nonlinearity="relu", bias=False) | 2,3 2,4
RNNCell(3, 4) | 3 4
LSTMCell(3, 4) | 2,3
LSTMCell(3, 4, bias=False) | 3 4 4
GRUCell(3, 4) | 2,3 2,4
GRUCell(3, 4, bias=False) | 3
RNN(3, 4) | 5,2,2
RNN(3, 4) | 5
RNN(3, 4) | 5,2,3 2,4
RNN(3, 4) | 5,2,3 1,3,4
RNN(3, 4, nonlinearity="sin") | 5,2,3
RNN(3, 4, proj_size=2) | 5,2,3
RNN(3.0, 4) | 5,2,3
RNN(3, 0) | 5,2,3
RNN(3, 4, dropout=2) | 5,2,3
LSTM(3, 4) | 5,2,3 2,4 2,4
LSTM(3, 4) | 5,2,3 1,2,4 1,2,3
LSTM(3, 4) | 5,3 1,1,4 1,1,4
LSTM(3, 4, proj_size=4) | 5,2,3
GRU(3, 4, bias=2) | 5,2,3
GRU(3, 4, 0) | 5,2,3
GRU(3, 4) | 2,5,2,3
RNNCell(3, 4) | 2,2
RNNCell(3, 4) | 2,3 3,4
RNNCell(3, 4) | 2,3 2,3
RNNCell(3, 4, nonlinearity="sin") | 2,3
LSTMCell(3, 4) | 2,3 2,4 1,4
GRUCell(3, 4) | 2,2,3
""".strip().splitlines()


@pytest.mark.filterwarnings("ignore:dropout option", "ignore:LSTM with projections")
@pytest.mark.parametrize("line", RECURRENT)
def test_recurrent(line):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    constructor, shapes = line.split("|")

    def result(torch):
        torch.manual_seed(3)
        random = np.random.default_rng(7)
        inputs = [torch.tensor(drawn(s, random)).requires_grad_() for s in shapes.split()]
        try:
            module = eval(f"nn.{constructor}", {"nn": torch.nn})
            x, *state = inputs
            hx = tuple(state) if "LSTM" in constructor else state[0] if state else None
            found = module(x, hx) if state else module(x)
        except (RuntimeError, TypeError, ValueError) as error:
            return type(error), str(error), [], []
        flat = []
        for z in found if isinstance(found, tuple) else (found,):
            flat += z if isinstance(z, tuple) else (z,)
        sum(((k + 1) * z * z).sum() for k, z in enumerate(flat)).backward()
        gradients = [p.grad.numpy() for p in (*module.parameters(), *inputs)]
        exact = {k: v.tolist() for k, v in module.state_dict().items()}
        return repr(module), exact, [z.detach().numpy() for z in flat], gradients

    ours, theirs = result(microtorch), result(pytorch)
    assert ours[:2] == theirs[:2]
    for a, b in zip(ours[2] + ours[3], theirs[2] + theirs[3], strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5)


PARAMETER_DICTS = """
repr(d)
list(d), len(d), list(reversed(d)), "a" in d, "q" in d
[k for k, _ in d.named_parameters()], list(d.state_dict())
d.pop("a").shape, list(d)
d.popitem()[0], list(d), [k for k, _ in d.named_parameters()]
d.setdefault("z", torch.ones(1)), d.get("q"), type(d["z"]).__name__
repr(d | {"z": torch.ones(1), "y": torch.ones(1)}), list(d)
d.update([("z", torch.ones(1)), ("y", 3)]) or repr(d)
d.clear() or (len(d), list(d.parameters()))
list(d.fromkeys(["u", "v"], torch.ones(1)))
list(d.copy().keys()), [p.shape for p in d.values()], [k for k, _ in d.items()]
d[3]
d(3)
d.update(3)
d.update([3])
d.update([(1, 2, 3)])
d.pop("q")
d.__delitem__("q")
""".strip().splitlines()


@pytest.mark.parametrize("code", PARAMETER_DICTS)
def test_parameter_dict(code):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def result(torch):
        d = torch.nn.ParameterDict({"b": torch.ones(2, 3), "a": torch.zeros(4), "c": "text"})
        try:
            return repr(eval(code, {"torch": torch, "d": d}))
        except Exception as error:
            return type(error)

    ours = result(microtorch)
    if isinstance(ours, str):
        ours = ours.replace("microtorch.", "torch.")
    assert ours == result(pytorch)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 3, 4), (6, 2, 2)])
def test_orthogonal(shape):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    found = []
    for torch in (microtorch, pytorch):
        torch.manual_seed(3)
        w = torch.empty(shape, requires_grad=True)
        assert torch.nn.init.orthogonal_(w, 1.5) is w
        found.append([w.detach().numpy(), torch.rand(2).numpy()])
    np.testing.assert_allclose(found[0][0], found[1][0], 1e-4, 1e-6)
    assert (found[0][1] == found[1][1]).all()
    with pytest.raises(ValueError):
        microtorch.nn.init.orthogonal_(microtorch.ones(3))


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"padding_value": 3, "padding_side": "left"}]
)
def test_pad_sequence(options):
    import importlib

    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def result(torch):
        rnn = importlib.import_module(torch.__name__ + ".nn.utils.rnn")
        parts = [torch.arange(2.0 * n).reshape(n, 2).requires_grad_() for n in (3, 1, 4)]
        z = rnn.pad_sequence(parts, **options)
        (z * z).sum().backward()
        found = [z.tolist(), *[p.grad.tolist() for p in parts]]
        if "padding_side" not in options:
            found += [p.tolist() for p in rnn.unpad_sequence(z, torch.tensor([3, 1, 4]), **options)]
        for wrong in ([], 3):
            with pytest.raises(RuntimeError):
                rnn.pad_sequence(wrong)
        return found

    assert result(microtorch) == result(pytorch)


@pytest.mark.filterwarnings("ignore:module forward hook with")
@pytest.mark.parametrize("fails", ["nothing", "forward", "hook"])
def test_hooks_that_are_always_called(fails):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")

    def result(torch):
        seen = []

        class Layer(torch.nn.Module):
            def forward(self, x, y=0):
                if fails == "forward":
                    raise ValueError("forward")
                return x + y

        def hook(name, raises=False):
            def call(module, *args):
                seen.append((name, args[-1] if args[-1] is None else float(args[-1]), len(args)))
                if raises:
                    raise ValueError(name)
                return args[-1] if args[-1] is None else args[-1] * 2

            return call

        layer = Layer()
        layer.register_forward_hook(hook("plain"))
        layer.register_forward_hook(hook("first", fails == "hook"))
        layer.register_forward_hook(hook("always"), always_call=True, with_kwargs=True)
        layer.register_forward_hook(hook("raises", fails != "nothing"), always_call=True)
        layer.register_forward_hook(hook("front"), always_call=True, prepend=True).remove()
        try:
            seen.append(float(layer(torch.tensor(3.0), y=torch.tensor(1.0))))
        except ValueError as error:
            seen.append(str(error))
        return seen

    assert result(microtorch) == result(pytorch)


@pytest.mark.parametrize(
    "code",
    [
        "F.softmax(x)", "F.log_softmax(x)", "F.softmin(x)", "nn.Softmax()(x)", "nn.LogSoftmax()(x)",
        "nn.Softmin()(x)",
    ],
)  # fmt: skip
def test_a_dimension_that_is_not_named_is_warned_of(code):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    found = []
    for torch in (pytorch, microtorch):
        names = {"nn": torch.nn, "F": torch.nn.functional, "x": torch.ones(2, 3)}
        with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
            eval(code, names)
        found.append([str(w.message) for w in caught])
    assert found[0] == found[1]
    assert caught[0].filename == "<string>"


def test_a_state_that_is_assigned():
    torch, nn = microtorch, microtorch.nn
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    old, state = model[0].weight, {k: v.clone() for k, v in model.state_dict().items()}
    state["0.bias"] = given = nn.Parameter(torch.ones(2))
    model.load_state_dict(state, assign=True)
    assert model[0].weight is not old and isinstance(model[0].weight, nn.Parameter)
    assert model[0].weight.data_ptr() == state["0.weight"].data_ptr()
    assert model[0].bias is given and not given.requires_grad and model[0].weight.requires_grad
    assert model[1].running_mean is state["1.running_mean"]
    with pytest.raises(RuntimeError, match="size mismatch for 0.weight"):
        model.load_state_dict(state | {"0.weight": torch.ones(3)}, assign=True)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_draws_nothing_where_all_or_no_elements_are_kept(p):
    before, x = microtorch.get_rng_state(), microtorch.ones(2, 3, 4)
    for name in ("dropout", "dropout1d"):
        function = getattr(microtorch.nn.functional, name)
        assert function(x, p).tolist() == (x * (1 - p)).tolist()
    assert microtorch.equal(microtorch.get_rng_state(), before)
