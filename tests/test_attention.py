"""Attention layers and transformers beside PyTorch's: what is refused and in which words, masks,
second gradients, checkpoints. Modules without masks are among those of test_nn_modules, and
compiled steps are in test_capture_equality.
"""

import io
import pathlib
import warnings
from functools import partial

import numpy as np
import pytest

import microtorch

# A call in a line: results are compared by their shapes, modules by their printed form, errors by
# their type and text.
CALLS = (pathlib.Path(__file__).parent / "data" / "attention_calls.txt").read_text().splitlines()


def called(torch, code):
    """What can be seen of a call."""
    z, nn = torch.zeros, torch.nn
    three = (z(3, 1, 8),) * 3

    def heads(*args, apart=False, **options):
        forward = nn.functional.multi_head_attention_forward
        return forward(*three, *args, use_separate_proj_weight=apart, **options)

    names = {
        "torch": torch, "nn": nn, "z": z, "M": nn.MultiheadAttention, "heads": heads,
        "three": three, "apart": (None,) * 4 + (False, 0.0, z(8, 8), None),
        "rest": (False, 0.0, z(8, 8), None), "rest_with_zeros": (True, 0.0, z(8, 8), None),
        "small": partial(nn.Transformer, 8, 2, 1, 1, 8),
    }  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = eval(code, names)
            if isinstance(found, nn.Module):
                found = repr(found)
            elif isinstance(found, tuple):
                found = [x if x is None else tuple(x.shape) for x in found]
            else:
                found = tuple(found.shape)
        except Exception as error:
            found = type(error).__name__, str(error)
    # There are no nested tensors.
    said = [str(w.message) for w in caught if "enable_nested_tensor" not in str(w.message)]
    return found, said


@pytest.mark.parametrize("code", CALLS)
def test_calls(code, torch):
    assert called(microtorch, code) == called(torch, code)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")


# A module and a call of it: x, y, z are (5, 2, 8), (4, 2, 8), (4, 2, 8); causal is a float mask,
# hidden a bool one, some (L, N) one of the keys that are padding, blind one that leaves a query
# nothing.
MASKED = """
MultiheadAttention(8, 2) | m(x, x, x, attn_mask=causal)
MultiheadAttention(8, 2) | m(x, x, x, attn_mask=causal, is_causal=True, need_weights=False)
MultiheadAttention(8, 2) | m(x, x, x, attn_mask=causal, is_causal=True, key_padding_mask=some)
MultiheadAttention(8, 2) | m(x, x, x, attn_mask=hidden, average_attn_weights=False)
MultiheadAttention(8, 2, 0.3) | m(x, x, x, key_padding_mask=some)
MultiheadAttention(8, 2, 0.3) | m(x, x, x, some, False, hidden)
MultiheadAttention(8, 2) | m(x, x, x, some.float(), False, causal)
MultiheadAttention(8, 2) | m(x, x, x, None, False, hidden.expand(4, 5, 5))
MultiheadAttention(8, 2) | m(x, x, x, None, True, causal.expand(4, 5, 5))
MultiheadAttention(8, 2) | m(x, x, x, attn_mask=blind)
MultiheadAttention(8, 2) | m(x, x, x, attn_mask=blind, need_weights=False)
MultiheadAttention(8, 2) | m(x, y, y)
MultiheadAttention(8, 2) | m(x, y, z)
MultiheadAttention(8, 2) | m(x[:, 0], x[:, 0], x[:, 0], some[0], True, hidden)
MultiheadAttention(8, 2, add_bias_kv=True) | m(x, x, x, some, True, hidden)
MultiheadAttention(8, 2, add_zero_attn=True, kdim=8) | m(x, x, x, some, False, hidden)
MultiheadAttention(8, 2, add_bias_kv=True) | m(x, y, z, None, False, causal[:, :4], True, True)
TransformerEncoderLayer(8, 2, 16) | m(x, causal, is_causal=True)
TransformerEncoderLayer(8, 2, 16) | m(x, hidden, some)
TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2) | m(x, hidden, some)
TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2) | m(x, causal)
TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2) | m(x, y, causal, None, some)
TransformerDecoderLayer(8, 2, 16) | m(x, y, causal, hidden[:, :4], None, some[:, :4])
TransformerDecoderLayer(8, 2, 16) | m(x, y, causal, causal[:, :4], None, None, True, True)
Transformer(8, 2, 1, 1, 16) | m(x, y, None, causal[:4, :4], None, some, tgt_is_causal=True)
""".strip().splitlines()


def masked(torch, module, call, training):
    """Outputs, first and second gradients of a call with masks."""
    torch.manual_seed(3)
    m = eval(f"nn.{module}", {"nn": torch.nn}).train(training)
    random = np.random.default_rng(7)
    inputs = {
        k: torch.tensor(random.normal(size=(n, 2, 8)).astype(np.float32)).requires_grad_()
        for k, n in (("x", 5), ("y", 4), ("z", 4))
    }
    hidden = torch.triu(torch.ones(5, 5), 2).bool()
    blind = torch.zeros(5, 5).bool()
    blind[1] = True
    masks = {
        "causal": torch.nn.Transformer.generate_square_subsequent_mask(5), "hidden": hidden,
        "some": torch.tensor([[False] * 5, [False, False, False, True, True]]), "blind": blind,
    }  # fmt: skip
    found = eval(call, {"m": m, **inputs, **masks})
    outputs = [z for z in (found if isinstance(found, tuple) else (found,)) if z is not None]
    numbers = [torch.linspace(1, 2, z.numel()).view(z.shape) for z in outputs]
    loss = sum((z * z * w).sum() for z, w in zip(outputs, numbers, strict=True))
    leaves = [*m.parameters(), *inputs.values()]
    first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    used = [g for g in first if g is not None]
    second = torch.autograd.grad(sum((g * g).sum() for g in used), leaves, allow_unused=True)
    return [
        None if z is None else np.array(z.detach().numpy()) for z in (*outputs, *first, *second)
    ]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:Support for mismatched")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("line", MASKED)
def test_masks(line, training, torch):
    module, call = (part.strip() for part in line.split("|"))
    # Of its fused kernel PyTorch has no second gradients.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        theirs = masked(torch, module, call, training)
    ours = masked(microtorch, module, call, training)
    for wanted, found in zip(theirs, ours, strict=True):
        assert (wanted is None) == (found is None)
        if wanted is not None:
            scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-3)
            np.testing.assert_allclose(found, wanted, 1e-4, 3e-5 * scale)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("ours_first", [True, False])
def test_checkpoints_go_both_ways(ours_first, torch):
    def made(library):
        attention = library.nn.MultiheadAttention(6, 2, kdim=4, vdim=5, add_bias_kv=True)
        return library.nn.ModuleList([library.nn.Transformer(8, 2, 1, 2, 16), attention])

    first, second = (microtorch, torch) if ours_first else (torch, microtorch)
    given, taken, file = made(first), made(second), io.BytesIO()
    first.save(given.state_dict(), file)
    file.seek(0)
    taken.load_state_dict(second.load(file))
    for (name, a), (other, b) in zip(
        given.state_dict().items(), taken.state_dict().items(), strict=True
    ):
        assert name == other and np.array_equal(a.numpy(), b.numpy())


def test_layers_of_a_stack_are_copies():
    nn = microtorch.nn
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    stack = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8))
    first, second = stack.layers
    assert microtorch.equal(first.linear1.weight, second.linear1.weight)
    assert len({id(p) for x in (layer, first, second) for p in x.parameters()}) == 36


def test_a_layer_with_blocks_of_its_own():
    nn = microtorch.nn

    class Doubled(nn.TransformerEncoderLayer):
        def _ff_block(self, x):
            return 2 * super()._ff_block(x)

    microtorch.manual_seed(3)
    plain = nn.TransformerEncoderLayer(8, 2, 16, 0.0)
    doubled = Doubled(8, 2, 16, 0.0)
    doubled.load_state_dict(plain.state_dict())
    x = microtorch.randn(3, 1, 8)
    h = plain.norm1(x + plain.self_attn(x, x, x)[0])
    wanted = plain.norm2(h + 2 * plain.linear2(plain.linear1(h).relu()))
    assert microtorch.allclose(doubled(x), wanted, atol=1e-6)
