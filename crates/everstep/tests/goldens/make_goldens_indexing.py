#!/usr/bin/env python3
"""Golden values from PyTorch for indexing, joining, moving and reducing ops, and for the options of cross-entropy.

    python make_goldens_indexing.py            # rewrites indexing.json and reductions.json beside this script

The form of the numbers, and why there are two runs, is told in make_goldens.py.
"""

import torch
import torch.nn.functional as functional
from make_goldens import FLOATS, HERE, document, normal, source, widened


def case(name, op, params, inputs, compute):
    """The gradients are those of sum(output * (1 + index / 8))."""
    result = {"name": name, "op": op, "params": params, "inputs": inputs}
    for suffix, dtype in FLOATS.items():
        leaves = {
            key: widened(tensor, dtype).requires_grad_() if tensor.is_floating_point() else tensor
            for key, tensor in inputs.items()
        }
        output = compute(leaves)
        result["output" + suffix] = output
        if output.is_floating_point():
            weights = 1 + torch.arange(output.numel(), dtype=dtype).reshape(output.shape) / 8
            (output * weights).sum().backward()
            result["grads" + suffix] = {key: leaf.grad for key, leaf in leaves.items() if leaf.is_floating_point()}
    return result


def integers(random, bound, *shape):
    return torch.from_numpy(random.randint(0, bound, shape))


def write(name, about, cases):
    text = document(about, cases).replace("make_goldens.py", "make_goldens_indexing.py", 1)
    (HERE / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{name}: {len(cases)} cases, {len(text)} bytes")


def indexing():
    cases = []

    def add(name, op, params, inputs, compute):
        cases.append(case(name, op, params, inputs, compute))

    random = source("indexing")
    x = lambda *shape: normal(random, *shape)
    add("embedding", "embedding", {}, {"x": x(5, 3), "ids": integers(random, 5, 2, 4)},
        lambda i: functional.embedding(i["ids"], i["x"]))
    for axis in (0, 1, -1):
        add(f"index_select {axis}", "index_select", {"axis": axis}, {"x": x(3, 4, 3), "ids": integers(random, 3, 5)},
            lambda i, a=axis: i["x"].index_select(a, i["ids"]))
        shape = [3, 4, 3]
        shape[axis] = 5
        add(f"index_add {axis}", "index_add", {"axis": axis},
            {"x": x(3, 4, 3), "ids": integers(random, 3, 5), "source": x(*shape)},
            lambda i, a=axis: i["x"].index_add(a, i["ids"], i["source"]))
        index = integers(random, 3, 2, 3, 2)
        add(f"gather {axis}", "gather", {"axis": axis}, {"x": x(3, 4, 3), "ids": index},
            lambda i, a=axis: i["x"].gather(a, i["ids"]))
        add(f"scatter_add {axis}", "scatter_add", {"axis": axis},
            {"x": x(3, 4, 3), "ids": index, "source": x(2, 3, 2)},
            lambda i, a=axis: i["x"].scatter_add(a, i["ids"], i["source"]))
    add("cat", "cat", {"axis": 1}, {"x": x(2, 3), "y": x(2, 2)}, lambda i: torch.cat([i["x"], i["y"]], 1))
    add("stack", "stack", {"axis": -2}, {"x": x(2, 3), "y": x(2, 3)}, lambda i: torch.stack([i["x"], i["y"]], -2))
    for count in (2, 4, 9):
        for part in range(len(torch.zeros(5, 2).chunk(count))):
            add(f"chunk {count} {part}", "chunk", {"count": count, "part": part}, {"x": x(5, 2)},
                lambda i, c=count, p=part: i["x"].chunk(c, 0)[p])
    add("pad", "pad", {"padding": [[1, 2], [0, 3]], "value": 0.5}, {"x": x(2, 3)},
        lambda i: functional.pad(i["x"], (0, 3, 1, 2), value=0.5))
    add("flip", "flip", {"axes": [0, -1]}, {"x": x(2, 2, 3)}, lambda i: i["x"].flip([0, -1]))
    add("repeat", "repeat", {"repeats": [2, 1, 3]}, {"x": x(2, 2)}, lambda i: i["x"].repeat(2, 1, 3))
    for diagonal in (-1, 0, 2):
        add(f"tril {diagonal}", "tril", {"diagonal": diagonal}, {"x": x(2, 3, 4)},
            lambda i, d=diagonal: i["x"].tril(d))
        add(f"triu {diagonal}", "triu", {"diagonal": diagonal}, {"x": x(2, 3, 4)},
            lambda i, d=diagonal: i["x"].triu(d))
    add("one_hot", "one_hot", {"classes": 4}, {"ids": integers(random, 4, 2, 3)},
        lambda i: functional.one_hot(i["ids"], 4))
    write("indexing.json", "output, and gradients of the sum of its elements, the k-th times 1 + k / 8", cases)


def reductions():
    cases = []

    def add(name, op, params, inputs, compute):
        cases.append(case(name, op, params, inputs, compute))

    random = source("reductions")
    x = lambda *shape: normal(random, *shape, scale=1.5)
    for axes in ([0], [1], [0, 2], [0, 1, 2]):
        label = f" {axes}"
        params = {"axes": axes}
        for correction in (0, 1):
            p = {"axes": axes, "correction": correction}
            add(f"var {correction}{label}", "var", p, {"x": x(3, 2, 4)},
                lambda i, p=p: i["x"].var(p["axes"], correction=p["correction"]))
            add(f"std {correction}{label}", "std", p, {"x": x(3, 2, 4)},
                lambda i, p=p: i["x"].std(p["axes"], correction=p["correction"]))
        for power in (0.5, 1.0, 2.0, 3.0, "inf", "-inf"):
            add(f"norm {power}{label}", "norm", {"axes": axes, "p": power}, {"x": x(3, 2, 4)},
                lambda i, a=axes, p=power: torch.linalg.vector_norm(i["x"], float(p), a))
        add("logsumexp" + label, "logsumexp", params, {"x": x(3, 2, 4)}, lambda i, a=axes: i["x"].logsumexp(a))
        add("amin" + label, "min", params, {"x": x(3, 2, 4)}, lambda i, a=axes: i["x"].amin(a))
    ties = torch.tensor([[1.0, 1.0, 2.0, 1.0], [0.0, -1.0, -1.0, 5.0]])
    add("amin ties", "min", {"axes": [1]}, {"x": ties}, lambda i: i["x"].amin([1]))
    add("std of equal elements", "std", {"axes": [1], "correction": 1}, {"x": torch.full((2, 3), 1.5)},
        lambda i: i["x"].std([1]))
    for power in (1.0, 2.0, 3.0, "inf"):
        zeros = torch.tensor([[0.0, 0.0, 0.0], [0.0, -2.0, 1.0]])
        add(f"norm {power} with zeros", "norm", {"axes": [1], "p": power}, {"x": zeros},
            lambda i, p=power: torch.linalg.vector_norm(i["x"], float(p), [1]))
    zeros = torch.tensor([[2.0, 3.0, -0.5], [2.0, 0.0, -0.5], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    add("prod", "prod", {"axes": [1]}, {"x": x(2, 5)}, lambda i: i["x"].prod(1))
    add("prod with zeros", "prod", {"axes": [1]}, {"x": zeros}, lambda i: i["x"].prod(1))
    for axis in (0, 1, -1):
        add(f"cumsum {axis}", "cumsum", {"axis": axis}, {"x": x(3, 2, 4)}, lambda i, a=axis: i["x"].cumsum(a))
        add(f"log_softmax {axis}", "log_softmax", {"axis": axis}, {"x": x(3, 2, 4)},
            lambda i, a=axis: i["x"].log_softmax(a))
        add(f"argmin {axis}", "argmin", {"axis": axis}, {"x": x(3, 2, 4)}, lambda i, a=axis: i["x"].argmin(a))
    cross_entropies(add, random)
    write("reductions.json", "output, and gradients of the sum of its elements, the k-th times 1 + k / 8", cases)


def cross_entropies(add, random):
    number = 0
    for weighted in (False, True):
        for smoothing in (0.0, 0.2):
            for ignored in (None, 1):
                for reduction in ("mean", "sum", "none"):
                    inputs = {"x": normal(random, 6, 4, scale=2.0), "ids": integers(random, 4, 6)}
                    weights = [0.5, 2.0, 1.25, 0.25] if weighted else None
                    params = {"class_weights": weights, "label_smoothing": smoothing, "ignore_index": ignored,
                              "reduction": reduction}
                    add(f"cross_entropy {number}", "cross_entropy", params, inputs,
                        lambda i, p=params: functional.cross_entropy(
                            i["x"], i["ids"], reduction=p["reduction"], label_smoothing=p["label_smoothing"],
                            ignore_index=-100 if p["ignore_index"] is None else p["ignore_index"],
                            weight=None if p["class_weights"] is None
                            else torch.tensor(p["class_weights"], dtype=i["x"].dtype)))
                    number += 1
            for reduction in ("mean", "sum", "none"):
                inputs = {"x": normal(random, 3, 4, scale=2.0), "t": functional.softmax(normal(random, 3, 4), -1)}
                params = {"class_weights": [0.5, 2.0, 1.25, 0.25] if weighted else None,
                          "label_smoothing": smoothing, "ignore_index": None, "reduction": reduction}
                add(f"cross_entropy_soft {number}", "cross_entropy_soft", params, inputs,
                    lambda i, p=params: functional.cross_entropy(
                        i["x"], i["t"], reduction=p["reduction"], label_smoothing=p["label_smoothing"],
                        weight=None if p["class_weights"] is None
                        else torch.tensor(p["class_weights"], dtype=i["x"].dtype)))
                number += 1


def main():
    torch.set_num_threads(1)
    indexing()
    reductions()


if __name__ == "__main__":
    main()
