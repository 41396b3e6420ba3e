#!/usr/bin/env python3
"""Golden values from PyTorch for normalisation and attention, as ops and as layers, with their gradients.

    python make_goldens_norms.py            # rewrites norms.json beside this script

The form of the numbers, and why there are two runs, is told in make_goldens.py. JSON has no place for negative infinity,
so an additive mask comes in two parts: `mask`, its numbers, and `seen`, which is 0 where negative infinity takes their
place. The names of a layer's `state` are those of Everstep's parameters.
"""

import torch
import torch.nn.functional as functional
from make_goldens import FLOATS, HERE, Ops, document, normal, source, uniform, widened
from torch.nn.attention import SDPBackend, sdpa_kernel

# ------------------------------------------------------------------------------------------------- norms


def affine(random, shape, count):
    """A weight and a bias, of which there are `count`, far enough from 1 and 0 to show."""
    both = {"w": uniform(random, 0.5, 2, *shape), "b": normal(random, *shape)}
    return dict(list(both.items())[:count])


def trailing_norm(ops, name, op, x, trailing, parts, epsilon, offset=0.0, scale=1.0):
    """Layer norm or root-mean-square norm of the last `trailing` dimensions."""
    random = source(name)
    shape = x[-trailing:]
    inputs = {"x": normal(random, *x, scale=scale) + offset} | affine(random, shape, parts)
    method = functional.layer_norm if op == "layer_norm" else functional.rms_norm
    params = {"shape": shape, "epsilon": epsilon}
    ops.add(name, op, params, inputs, lambda *inputs: method(inputs[0], shape, *inputs[1:], eps=epsilon))


def group_norm(ops, name, x, groups, parts, epsilon):
    random = source(name)
    inputs = {"x": normal(random, *x, scale=1.5) + 0.5} | affine(random, x[1:2], parts)
    params = {"groups": groups, "epsilon": epsilon}
    ops.add(name, "group_norm", params, inputs,
            lambda *inputs: functional.group_norm(inputs[0], groups, *inputs[1:], eps=epsilon))


def norms(ops):
    trailing_norm(ops, "layer_norm_bare", "layer_norm", [3, 5], 1, 0, 1e-5)
    trailing_norm(ops, "layer_norm_weight", "layer_norm", [4, 7], 1, 1, 1e-5)
    trailing_norm(ops, "layer_norm_affine", "layer_norm", [2, 3, 5], 1, 2, 1e-5)
    trailing_norm(ops, "layer_norm_two_bare", "layer_norm", [3, 3, 5], 2, 0, 1e-3)
    trailing_norm(ops, "layer_norm_two_affine", "layer_norm", [3, 1, 3, 2], 2, 2, 1e-5)
    # The variance is 0.01 or so, a tenth of this epsilon: it shows where it goes.
    trailing_norm(ops, "layer_norm_epsilon", "layer_norm", [3, 5], 1, 2, 0.1, scale=0.1)
    # mean x^2 - mean^2 would lose all but three digits.
    trailing_norm(ops, "layer_norm_far", "layer_norm", [3, 7], 1, 2, 1e-5, offset=100.0)
    trailing_norm(ops, "rms_norm_bare", "rms_norm", [3, 5], 1, 0, 1e-5)
    trailing_norm(ops, "rms_norm_weight", "rms_norm", [2, 3, 5], 1, 1, 1e-5, offset=0.5)
    trailing_norm(ops, "rms_norm_two", "rms_norm", [2, 3, 3], 2, 1, 1e-3)
    trailing_norm(ops, "rms_norm_epsilon", "rms_norm", [3, 5], 1, 1, 0.1, scale=0.1)
    # More rows than one block of the weight's gradient sums.
    trailing_norm(ops, "rms_norm_rows", "rms_norm", [65, 1], 1, 1, 0.5)
    group_norm(ops, "group_norm_bare", [2, 3, 5], 3, 0, 1e-5)
    group_norm(ops, "group_norm_weight", [2, 4, 3], 2, 1, 1e-5)
    group_norm(ops, "group_norm_images", [2, 6, 3, 1], 3, 2, 1e-3)
    group_norm(ops, "group_norm_one", [2, 3, 2, 3], 1, 2, 1e-5)
    group_norm(ops, "group_norm_rows", [3, 9], 3, 2, 0.1)


# --------------------------------------------------------------------------------------------- attention


def options(causal=False, scale=None, mask=None, seen=None):
    if seen is not None and mask is None:
        mask = torch.zeros(seen.shape)
    return {"causal": causal, "scale": scale, "mask": mask, "seen": seen}


def drawn_mask(name, *shape):
    return normal(source(name + "/mask"), *shape, scale=1.5)


def some_keys(*shape):
    """Every query sees the first key and about two thirds of the others."""
    rows, columns = torch.meshgrid(torch.arange(shape[-2]), torch.arange(shape[-1]), indexing="ij")
    seen = ((rows + columns) % 3 != 1) | (columns == 0)
    return seen.to(torch.int64).expand(shape).contiguous()


def first_keys(counts, keys):
    """Of sequence i the first counts[i] keys: the others are padding."""
    seen = torch.arange(keys)[None] < torch.tensor(counts)[:, None]
    return seen.to(torch.int64).reshape(len(counts), 1, 1, keys)


def attend(q, k, v, causal, scale, mask, seen):
    if mask is not None:
        mask = mask.to(q.dtype)
        if seen is not None:
            mask = mask.masked_fill(seen == 0, -torch.inf)
        if causal:  # PyTorch takes the one or the other.
            mask = mask + torch.full((q.shape[-2], k.shape[-2]), -torch.inf, dtype=q.dtype).triu(1)
    # The formula, whatever faster kernels this PyTorch has.
    with sdpa_kernel(SDPBackend.MATH):
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scale)


def attend_packed(packed, options):
    """[B, T, 3, H, D] to [B, T, H, D]."""
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    return attend(q, k, v, **options).transpose(1, 2)


def attention(ops, name, lead, sizes, **given):
    """`sizes`: queries, keys, width of both, width of values. Scores spread over some units: no two weights are alike."""
    queries, keys, width, value_width = sizes
    random, params = source(name), options(**given)
    inputs = {"q": normal(random, *lead, queries, width, scale=1.5), "k": normal(random, *lead, keys, width)}
    inputs |= {"v": normal(random, *lead, keys, value_width)}
    ops.add(name, "scaled_dot_product_attention", params, inputs, lambda q, k, v: attend(q, k, v, **params))


def packed_attention(ops, name, shape, **given):
    params, inputs = options(**given), {"x": normal(source(name), *shape, scale=1.25)}
    ops.add(name, "self_attention", params, inputs, lambda x: attend_packed(x, params))


def attentions(ops):
    attention(ops, "attention_plain", [2], [3, 4, 5, 2])
    attention(ops, "attention_matrices", [], [3, 5, 3, 3])
    attention(ops, "attention_scale", [1], [3, 5, 3, 3], scale=1.25)
    attention(ops, "attention_causal", [1], [5, 5, 3, 3], causal=True)
    attention(ops, "attention_causal_more_keys", [1], [3, 5, 3, 1], causal=True)
    attention(ops, "attention_causal_more_queries", [1], [5, 3, 3, 2], causal=True)
    attention(ops, "attention_heads", [2, 2], [3, 3, 5, 1])
    attention(ops, "attention_heads_causal", [1, 3], [5, 5, 3, 1], causal=True)
    attention(ops, "attention_mask", [2, 2], [3, 5, 3, 1], mask=drawn_mask("attention_mask", 3, 5))
    name = "attention_mask_of_heads"
    attention(ops, name, [2, 3], [3, 4, 1, 2], mask=drawn_mask(name, 1, 3, 3, 4), seen=some_keys(1, 3, 3, 4))
    attention(ops, "attention_mask_of_keys", [3, 1], [3, 5, 1, 3], seen=first_keys([5, 2, 1], 5))
    seen = some_keys(3, 4)
    seen[1] = 0
    attention(ops, "attention_no_key", [2], [3, 4, 3, 3], seen=seen)
    name = "attention_everything"
    mask = drawn_mask(name, 2, 1, 5, 5)
    attention(ops, name, [2, 2], [5, 5, 3, 1], causal=True, scale=0.75, mask=mask, seen=some_keys(2, 1, 5, 5))
    packed_attention(ops, "packed_plain", [2, 3, 3, 2, 3])
    packed_attention(ops, "packed_causal", [1, 5, 3, 3, 3], causal=True)
    packed_attention(ops, "packed_scale", [1, 5, 3, 2, 1], scale=1.25)
    name = "packed_mask"
    packed_attention(ops, name, [2, 3, 3, 2, 3], mask=drawn_mask(name, 3, 3), seen=some_keys(3, 3))


# ------------------------------------------------------------------------------------------------ layers


class SelfAttention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.qkv, self.proj, self.heads = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width), heads

    def forward(self, x, options):
        batch, time, width = x.shape
        packed = self.qkv(x).reshape(batch, time, 3, self.heads, width // self.heads)
        return self.proj(attend_packed(packed, options).reshape(batch, time, width))


class TransformerBlock(torch.nn.Module):
    """x + attention(norm1(x)), and x + down(gelu(up(norm2(x)))) of that, without dropout."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x, options):
        x = x + self.attention(self.norm1(x), options)
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


def assert_as_pytorch(block, x, causal):
    """The block above is what PyTorch's own encoder layer computes; `block` and `x` are of float64."""
    width = x.shape[-1]
    own = torch.nn.TransformerEncoderLayer(
        width, block.attention.heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True, dtype=torch.float64,
        activation=lambda x: functional.gelu(x, approximate="tanh"))
    names = {"attention.qkv.": "self_attn.in_proj_", "attention.proj.": "self_attn.out_proj.", "up.": "linear1.",
             "down.": "linear2.", "norm1.": "norm1.", "norm2.": "norm2."}
    state = {key: next(key.replace(ours, theirs) for ours, theirs in names.items() if key.startswith(ours))
             for key in block.state_dict()}
    own.load_state_dict({theirs: block.state_dict()[key] for key, theirs in state.items()})
    mask = torch.nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=torch.float64) if causal else None
    torch.testing.assert_close(block(x, options(causal)), own(x, mask), rtol=1e-12, atol=1e-12)


def drawn_state(name, module):
    """Matrices keep the size of what they multiply, and no norm begins as 1 and 0: every part shows in the result."""
    random = source(name + "/state")

    def draw(key, shape):
        if len(shape) == 2:
            return normal(random, *shape, scale=shape[1] ** -0.5)
        return uniform(random, 0.5, 2, *shape) if key.endswith("weight") else normal(random, *shape, scale=0.5)

    return {key: draw(key, list(tensor.shape)) for key, tensor in module.state_dict().items()}


def layer(cases, name, kind, config, build, x, options=None):
    case = {"kind": "layer", "name": name, "layer": kind, "config": config, "options": options, "input": x}
    case |= {"state": drawn_state(name, build()), "grad_output": None}
    for suffix, dtype in FLOATS.items():
        module = build().to(dtype)
        module.load_state_dict(case["state"])
        leaf = widened(x, dtype).requires_grad_() if x.is_floating_point() else x
        output = module(leaf) if options is None else module(leaf, options)
        if case["grad_output"] is None:
            case["grad_output"] = normal(source(name + "/grad_output"), *output.shape)
        output.backward(case["grad_output"].to(dtype))
        case["output" + suffix] = output
        case["grads" + suffix] = {key: parameter.grad for key, parameter in module.named_parameters()}
        case["grad_input" + suffix] = leaf.grad
        if kind == "transformer_block" and dtype == torch.float64:
            assert_as_pytorch(module, leaf, options["causal"])
    cases.append(case)


def layers(cases):
    def norm(name, kind, config, build, *x):
        layer(cases, name, kind, config, build, normal(source(name), *x, scale=1.5) + 0.5)

    nn = torch.nn
    norm("LayerNorm", "layer_norm", {"features": 5, "epsilon": None}, lambda: nn.LayerNorm(5), 2, 3, 5)
    norm("LayerNorm_epsilon", "layer_norm", {"features": 3, "epsilon": 0.1}, lambda: nn.LayerNorm(3, 0.1), 5, 3)
    # PyTorch's own default differs by dtype.
    norm("RmsNorm", "rms_norm", {"features": 5, "epsilon": None}, lambda: nn.RMSNorm(5, 1e-5), 2, 3, 5)
    norm("RmsNorm_epsilon", "rms_norm", {"features": 3, "epsilon": 0.1}, lambda: nn.RMSNorm(3, 0.1), 5, 3)
    norm("GroupNorm", "group_norm", {"groups": 3, "channels": 6}, lambda: nn.GroupNorm(3, 6), 2, 6, 3)
    norm("GroupNorm_one", "group_norm", {"groups": 1, "channels": 3}, lambda: nn.GroupNorm(1, 3), 2, 3, 1, 3)

    # Ids more than once, whose gradients add up, and one never.
    ids = torch.tensor([[3, 0, 3, 6, 1], [5, 3, 2, 2, 0]])
    layer(cases, "Embedding", "embedding", {"count": 7, "width": 3}, lambda: nn.Embedding(7, 3), ids)

    def attend(name, kind, build, config, shape, **given):
        x = normal(source(name), *shape)
        layer(cases, name, kind, config, lambda: build(config["width"], config["heads"]), x, options(**given))

    attend("SelfAttention", "self_attention", SelfAttention, {"width": 6, "heads": 2}, [1, 3, 6])
    attend("SelfAttention_causal", "self_attention", SelfAttention, {"width": 3, "heads": 3}, [2, 5, 3], causal=True)
    attend("SelfAttention_padding", "self_attention", SelfAttention, {"width": 4, "heads": 2}, [2, 5, 4],
           seen=first_keys([5, 3], 5))
    block = {"width": 4, "heads": 2, "dropout": 0.0, "training": True}
    attend("TransformerBlock", "transformer_block", TransformerBlock, block, [2, 3, 4])
    # In evaluation nothing is dropped.
    block = {"width": 3, "heads": 3, "dropout": 0.5, "training": False}
    attend("TransformerBlock_causal", "transformer_block", TransformerBlock, block, [2, 5, 3], causal=True)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ops, cases = Ops(), []
    norms(ops)
    attentions(ops)
    layers(cases)
    about = (
        "Normalisation and attention, with the gradients of every input and parameter for the output gradient "
        "`grad_output`; kind says whether a case is an op or a layer."
    )
    cases = [{"kind": "op"} | case for case in ops.cases] + cases
    # PyTorch's own float32 results would double the file.
    unwanted = ("output", "grads", "grad_input")
    cases = [{key: value for key, value in case.items() if key not in unwanted} for case in cases]
    text = document(about, cases).replace("make_goldens.py", "make_goldens_norms.py", 1)
    (HERE / "norms.json").write_text(text, encoding="utf-8", newline="\n")
    print(f"norms.json: {len(cases)} cases, {len(text)} bytes")


if __name__ == "__main__":
    main()
