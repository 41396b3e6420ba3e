#!/usr/bin/env python3
"""Golden values from PyTorch for batch norm: three training passes, then one in evaluation.

    python make_goldens_batch_norm.py            # rewrites batch_norm.json beside this script

The form of the numbers, and why there are two runs, is told in make_goldens.py.
"""

import torch
from make_goldens import FLOATS, HERE, document, normal, source, uniform, widened

LAYERS = {"BatchNorm1d": torch.nn.BatchNorm1d, "BatchNorm2d": torch.nn.BatchNorm2d}


def case(name, layer, *shape, momentum=0.1, epsilon=1e-5, shift=0.0):
    random = source(name)
    channels = shape[1]
    batches = [normal(random, *shape) + shift for _ in range(3)]
    state = {"weight": uniform(random, 0.5, 1.5, channels), "bias": normal(random, channels)}
    out = {"name": name, "layer": layer, "momentum": momentum, "epsilon": epsilon, "batches": batches, "state": state}
    out["grad_output"] = normal(random, *shape)
    for suffix, dtype in FLOATS.items():
        norm = LAYERS[layer](channels, eps=epsilon, momentum=momentum).to(dtype)
        norm.load_state_dict({key: widened(value, dtype) for key, value in state.items()}, strict=False)
        for batch in batches:
            x = widened(batch, dtype).requires_grad_()
            y = norm(x)
        wanted = [x, norm.weight, norm.bias]
        gradients = torch.autograd.grad(y, wanted, out["grad_output"].to(dtype))
        out["output" + suffix] = y
        out["grads" + suffix] = dict(zip(["x", "weight", "bias"], gradients, strict=True))
        out["running" + suffix] = {"running_mean": norm.running_mean, "running_var": norm.running_var}
        norm.eval()
        out["eval" + suffix] = norm(widened(batches[0], dtype))
    return out


def main():
    torch.set_num_threads(1)
    cases = [
        case("rows", "BatchNorm1d", 5, 3),
        case("four_rows", "BatchNorm1d", 4, 2, momentum=0.5),
        case("signals", "BatchNorm1d", 3, 2, 7, epsilon=1e-3),
        case("images", "BatchNorm2d", 2, 3, 4, 5),
        case("far_from_zero", "BatchNorm2d", 3, 2, 3, 3, shift=30.0),
        case("one_image", "BatchNorm2d", 1, 4, 2, 3, momentum=1.0),
    ]
    about = "Batch norm: the third of three training passes with its gradients, the statistics then, and an evaluation."
    # PyTorch's own float32 results would double the file.
    cases = [{key: value for key, value in case.items() if key + "64" not in case} for case in cases]
    (HERE / "batch_norm.json").write_text(document(about, cases), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
