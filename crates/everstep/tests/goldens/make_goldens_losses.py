#!/usr/bin/env python3
"""Golden values from PyTorch for the losses: values and gradients of the input and, where it has one, the target.

    python make_goldens_losses.py            # rewrites losses.json beside this script

The form of the numbers, and why there are two runs, is told in make_goldens.py.
"""

import torch
import torch.nn.functional as functional
from make_goldens import FLOATS, HERE, document, labels, normal, source, uniform, widened


def case(name, loss, params, inputs, compute):
    """`compute(inputs, reduction)`; the gradients are those of sum(loss * (1 + index / 8)) without a reduction."""
    result = {"name": name, "loss": loss, "params": params, "inputs": inputs}
    for suffix, dtype in FLOATS.items():
        for reduction in ("mean", "sum", "none"):
            leaves = {
                key: widened(tensor, dtype).requires_grad_() if tensor.is_floating_point() else tensor
                for key, tensor in inputs.items()
            }
            output = compute(leaves, reduction)
            weights = 1 + torch.arange(output.numel(), dtype=dtype).reshape(output.shape) / 8
            (output * weights).sum().backward()
            result[reduction + suffix] = output
            result[f"grads_{reduction}{suffix}"] = {
                key: leaf.grad for key, leaf in leaves.items() if leaf.is_floating_point() and key in ("x", "t")
            }
    return result


def main():
    torch.set_num_threads(1)
    cases = []

    def two(name, shape):
        random = source("losses " + name)
        return {"x": normal(random, *shape, scale=1.5), "t": normal(random, *shape)}

    def add(name, loss, params, inputs, compute):
        cases.append(case(name, loss, params, inputs, compute))

    for shape in ((4, 5), (7,), (2, 1, 3)):
        suffix = "x".join(map(str, shape))
        add(f"mse {suffix}", "mse", {}, two("mse" + suffix, shape),
            lambda i, r: functional.mse_loss(i["x"], i["t"], reduction=r))
    add("l1", "l1", {}, two("l1", (4, 5)), lambda i, r: functional.l1_loss(i["x"], i["t"], reduction=r))
    equal = two("l1 equal", (6,))
    equal["t"][:3] = equal["x"][:3]
    add("l1 of equal elements", "l1", {}, equal, lambda i, r: functional.l1_loss(i["x"], i["t"], reduction=r))
    for delta in (1.0, 0.3, 5.0):
        add(f"huber {delta}", "huber", {"delta": delta}, two(f"huber {delta}", (4, 5)),
            lambda i, r, d=delta: functional.huber_loss(i["x"], i["t"], reduction=r, delta=d))
    for beta in (1.0, 0.3, 0.0):
        add(f"smooth_l1 {beta}", "smooth_l1", {"beta": beta}, two(f"smooth_l1 {beta}", (4, 5)),
            lambda i, r, b=beta: functional.smooth_l1_loss(i["x"], i["t"], reduction=r, beta=b))

    def binary(name, shape, scale, weight=None):
        random = source("losses " + name)
        inputs = {"x": normal(random, *shape, scale=scale), "t": uniform(random, 0, 1, *shape)}
        if weight:
            inputs["pos_weight"] = uniform(random, 0.2, 3, *weight)
        add(name, "bce_with_logits", {}, inputs,
            lambda i, r: functional.binary_cross_entropy_with_logits(
                i["x"], i["t"], reduction=r,
                pos_weight=i["pos_weight"].detach() if "pos_weight" in i else None))

    binary("bce", (4, 5), 2)
    binary("bce far out", (12,), 60)
    binary("bce weighted", (4, 5), 2, (5,))
    random = source("losses bce zeros")
    hard = {"x": torch.tensor([0.0, 0.0, 90.0, 90.0, -90.0, -90.0, 1e-6]), "t": torch.tensor([0.0, 1, 0, 1, 0, 1, 1])}
    add("bce hard", "bce_with_logits", {}, hard,
        lambda i, r: functional.binary_cross_entropy_with_logits(i["x"], i["t"], reduction=r))

    for rows, classes in ((6, 4), (1, 3)):
        random = source(f"losses nll {rows}")
        inputs = {"x": functional.log_softmax(normal(random, rows, classes), -1), "labels": labels(random, rows, classes)}
        add(f"nll {rows}", "nll", {}, inputs, lambda i, r: functional.nll_loss(i["x"], i["labels"], reduction=r))

    random = source("losses kl_div")
    x = functional.log_softmax(normal(random, 4, 5), -1)
    t = functional.softmax(normal(random, 4, 5), -1)
    add("kl_div", "kl_div", {}, {"x": x, "t": t}, lambda i, r: functional.kl_div(i["x"], i["t"], reduction=r))
    # Probabilities of 0: PyTorch's gradient of the target is infinite there, so only that of x is asked for.
    t = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    x = functional.log_softmax(normal(random, 2, 4), -1)
    add("kl_div with zeros", "kl_div", {}, {"x": x, "fixed_t": t},
        lambda i, r: functional.kl_div(i["x"], i["fixed_t"].detach(), reduction=r))

    about = (
        "x, t (or labels): mean, sum and none are the loss by each reduction; grads_*: gradients of the sum of its "
        "elements, the k-th times 1 + k / 8."
    )
    text = document(about, cases).replace("make_goldens.py", "make_goldens_losses.py", 1)
    (HERE / "losses.json").write_text(text, encoding="utf-8", newline="\n")
    print(f"losses.json: {len(text)} bytes")


if __name__ == "__main__":
    main()
