#!/usr/bin/env python3
"""Golden values from PyTorch for convolutions and poolings, with their gradients.

    python make_goldens_conv.py            # rewrites conv.json beside this script

The form of the numbers, and why there are two runs, is told in make_goldens.py. The names of `params` are those of
Everstep's `ConvOptions` and `PoolOptions`; a pair is (height, width).
"""

import torch
import torch.nn.functional as functional
from make_goldens import HERE, Ops, document, normal, relu, source


def conv(ops, name, x, weight, bias=True, activation="none", **options):
    """Of one dimension where x has three: of each pair the width counts."""
    random = source(name)
    fan = weight[1] * weight[2] * (weight[3] if len(weight) > 3 else 1)
    inputs = {"x": normal(random, *x), "w": normal(random, *weight, scale=fan**-0.5)}
    inputs |= {"b": normal(random, weight[0])} if bias else {}
    method = functional.conv1d if len(x) == 3 else functional.conv2d
    own = {key: value[1:] if len(x) == 3 and key != "groups" else value for key, value in options.items()}

    def compute(x, w, b=None):
        y = method(x, w, b, **own)
        return relu(y) if activation == "relu" else y

    ops.add(name, f"conv{len(x) - 2}d", {"options": options, "activation": activation}, inputs, compute)


def convs(ops):
    conv(ops, "conv2d_plain", [2, 3, 5, 4], [4, 3, 3, 2])
    conv(ops, "conv2d_same_relu", [2, 2, 5, 5], [3, 2, 3, 3], activation="relu", padding=[1, 1])
    conv(ops, "conv2d_bare", [1, 2, 4, 4], [2, 2, 2, 2], bias=False)
    conv(ops, "conv2d_stride", [2, 2, 7, 6], [3, 2, 3, 3], stride=[2, 3], padding=[1, 2])
    conv(ops, "conv2d_stride_leaves_pixels", [1, 2, 6, 8], [2, 2, 2, 3], stride=[3, 2])
    conv(ops, "conv2d_dilation", [1, 2, 8, 7], [3, 2, 3, 2], dilation=[2, 3], padding=[0, 1])
    conv(ops, "conv2d_groups", [2, 4, 5, 4], [6, 2, 3, 3], groups=2, padding=[1, 0])
    conv(ops, "conv2d_depthwise", [2, 3, 5, 5], [6, 1, 3, 3], groups=3, stride=[2, 2], padding=[1, 1])
    conv(ops, "conv2d_1x1", [2, 5, 3, 4], [3, 5, 1, 1], activation="relu")
    conv(ops, "conv2d_everything", [2, 4, 9, 8], [4, 2, 3, 2], groups=2, stride=[2, 1], padding=[2, 1], dilation=[1, 2])
    conv(ops, "conv2d_larger", [2, 5, 6, 7], [7, 5, 3, 3], padding=[1, 1])
    conv(ops, "conv1d_plain", [2, 3, 9], [4, 3, 3])
    conv(ops, "conv1d_everything", [2, 4, 12], [6, 2, 3], groups=2, stride=[1, 2], padding=[0, 2], dilation=[1, 3])


METHODS = {
    "max_pool2d": functional.max_pool2d, "max_pool1d": functional.max_pool1d,
    "avg_pool2d": functional.avg_pool2d, "avg_pool1d": functional.avg_pool1d,
    "adaptive_avg_pool2d": functional.adaptive_avg_pool2d, "adaptive_avg_pool1d": functional.adaptive_avg_pool1d,
}


def pool(ops, name, op, x, **options):
    own = dict(options)
    if op.startswith("adaptive"):
        own = {"output_size": own["output"]}
    else:
        own = {("kernel_size" if key == "kernel" else key): value for key, value in own.items()}
        if "count_padding" in own:
            own["count_include_pad"] = own.pop("count_padding")
        if op.endswith("1d"):
            own = {key: value[1:] if isinstance(value, list) else value for key, value in own.items()}
    ops.add(name, op, {"options": options}, {"x": normal(source(name), *x)}, lambda x: METHODS[op](x, **own))


def pools(ops):
    pool(ops, "max_2", "max_pool2d", [2, 2, 4, 6], kernel=[2, 2])
    pool(ops, "max_overlap", "max_pool2d", [2, 2, 7, 6], kernel=[3, 2], stride=[1, 2], padding=[1, 1])
    pool(ops, "max_dilation", "max_pool2d", [1, 2, 9, 8], kernel=[3, 2], stride=[2, 1], padding=[1, 0], dilation=[2, 3])
    pool(ops, "max_signal", "max_pool1d", [2, 3, 11], kernel=[1, 3], stride=[1, 2], padding=[0, 1])
    pool(ops, "avg_2", "avg_pool2d", [2, 2, 5, 4], kernel=[2, 2])
    pool(ops, "avg_padding", "avg_pool2d", [1, 2, 6, 7], kernel=[3, 4], stride=[2, 3], padding=[1, 2])
    pool(ops, "avg_inside", "avg_pool2d", [1, 2, 6, 7], kernel=[3, 4], stride=[2, 3], padding=[1, 2], count_padding=False)
    pool(ops, "avg_signal", "avg_pool1d", [2, 3, 10], kernel=[1, 4], stride=[1, 3], padding=[0, 2])
    pool(ops, "adaptive", "adaptive_avg_pool2d", [2, 2, 7, 5], output=[3, 2])
    pool(ops, "adaptive_more", "adaptive_avg_pool2d", [1, 2, 3, 4], output=[5, 4])
    pool(ops, "adaptive_global", "adaptive_avg_pool2d", [2, 3, 4, 5], output=[1, 1])
    pool(ops, "adaptive_signal", "adaptive_avg_pool1d", [2, 3, 10], output=4)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ops = Ops()
    convs(ops)
    pools(ops)
    about = "Convolutions and poolings, with the gradients of every input for the output gradient `grad_output`."
    # PyTorch's own float32 results would double the file.
    cases = [{key: value for key, value in case.items() if key not in ("output", "grads")} for case in ops.cases]
    text = document(about, cases)
    (HERE / "conv.json").write_text(text, encoding="utf-8", newline="\n")
    print(f"conv.json: {len(text)} bytes")


if __name__ == "__main__":
    main()
