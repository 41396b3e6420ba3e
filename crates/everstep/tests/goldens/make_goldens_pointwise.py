#!/usr/bin/env python3
"""Golden values from PyTorch for functions of single elements, with their edges, and for the halves.

    python make_goldens_pointwise.py         # rewrites pointwise.json beside this script

Each computation runs in float64 from float32 values: the truth for what is stored. Edges are not finite, and JSON has
no place for them: such a number is a string, "inf", "-inf" or "nan".
"""

import json
import math

import numpy
import torch
import torch.nn.functional as functional
from make_goldens import HERE, normal, source

EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 2.0, -3.0, 1e-30, -1e-30, 1e-6, -1e-6, 20.0, -20.0, 60.0, -60.0,
         1e10, -1e10, 1e30, -1e30, math.inf, -math.inf, math.nan]
BASES = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, 7.5, -7.5, 1e10, math.inf, -math.inf, math.nan]
WHOLE = [0, 1, -1, 2, 3, -3, 7, -7, 2**31 - 1, -(2**31)]


def number(value):
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    return value


def flat(tensor):
    return [number(value) for value in tensor.detach().reshape(-1).tolist()]


def single(values):
    return torch.tensor(values, dtype=torch.float32)


def case(name, op, compute, inputs, params=None, gradients=True):
    """`inputs` are float32; the gradients are those of the sum of (1 + index / 8) times each element."""
    leaves = [tensor.double().requires_grad_(gradients) for tensor in inputs]
    output = compute(*leaves)
    result = {"name": name, "op": op, "params": params or {}, "inputs": [flat(tensor) for tensor in inputs]}
    result["output"] = flat(output.to(torch.float64))
    if gradients:
        weights = 1 + torch.arange(output.numel(), dtype=torch.float64) / 8
        found = torch.autograd.grad((output * weights).sum(), leaves)
        result["gradients"] = [flat(gradient) for gradient in found]
    return result


def pairs(values):
    return [single(column) for column in zip(*[(a, b) for a in values for b in values])]


UNARY = {
    "abs": torch.abs, "log1p": torch.log1p, "expm1": torch.expm1, "rsqrt": torch.rsqrt, "sin": torch.sin,
    "cos": torch.cos, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil, "round": torch.round,
    "recip": torch.reciprocal, "silu": functional.silu, "softplus": functional.softplus,
}
NUMBERED = {
    "elu": (functional.elu, [{"alpha": 1.0}, {"alpha": 0.5}]),
    "leaky_relu": (functional.leaky_relu, [{"negative_slope": 0.01}, {"negative_slope": 0.25}]),
    "clamp": (torch.clamp, [{"min": -1.0, "max": 0.5}, {"min": -0.5}, {"max": 0.25}, {"min": 1.0, "max": -1.0}]),
}
COMPARE = {"eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge}
STEPS = ("sign", "floor", "ceil", "round")


def main():
    torch.set_num_threads(1)
    cases = []
    for name, compute in UNARY.items():
        x = normal(source("pointwise " + name), 24, scale=2.0)
        x = x.abs() if name == "rsqrt" else x.clamp(min=-0.95) if name == "log1p" else x
        cases.append(case(name, name, compute, [x], gradients=name not in STEPS))
        cases.append(case(name + " edges", name, compute, [single(EDGES)], gradients=False))
    for name, (compute, choices) in NUMBERED.items():
        for params in choices:
            def call(x, params=params, compute=compute):
                return compute(x, **params)
            x = normal(source(f"pointwise {name}"), 24, scale=2.0)
            cases.append(case(f"{name} {params}", name, call, [x], params))
            cases.append(case(f"{name} {params} edges", name, call, [single(EDGES)], params, gradients=False))
            on_bounds = single([value for value in params.values()] + [0.0])
            if name == "clamp":
                cases.append(case(f"clamp {params} on its bounds", name, call, [on_bounds], params))
    random = source("pointwise pairs")
    x, y = normal(random, 40, scale=3.0), normal(random, 40, scale=2.0)
    cases.append(case("pow", "pow", torch.pow, [x.abs(), y]))
    integers = single(random.randint(-4, 6, 40).tolist())
    base = case("pow of whole exponents", "pow", lambda a: torch.pow(a, integers.double()), [x])
    base["inputs"].append(flat(integers))
    cases.append(base)
    edges = pairs([0.0, 1.0, 2.0, 3.0, 0.5])
    cases.append(case("pow at its edges", "pow", torch.pow, edges))
    cases.append(case("pow edges", "pow", torch.pow, pairs(BASES), gradients=False))
    for exponent in (0.0, 1.0, 2.0, 3.0, -1.0, 0.5):
        x_of = x.abs() if exponent == 0.5 else x
        cases.append(case(f"pow {exponent}", "pow_scalar", lambda a, e=exponent: torch.pow(a, e), [x_of], {"other": exponent}))
    cases.append(case("rem", "rem", torch.remainder, [x * 5, y]))
    cases.append(case("rem edges", "rem", torch.remainder, pairs(BASES), gradients=False))
    for name, compute in COMPARE.items():
        cases.append(case(name, name, lambda a, b, f=compute: f(a, b).double(), pairs(BASES), gradients=False))
    cases.append(case("where", "where", lambda a, b: torch.where(a > 0, a * b, a - b), [x, y]))

    a, b = zip(*[(p, q) for p in WHOLE for q in WHOLE if q != 0 and not (p == -(2**31) and q == -1)])
    left, right = torch.tensor(a, dtype=torch.int32), torch.tensor(b, dtype=torch.int32)
    whole = {"name": "rem of integers", "op": "rem_i32", "params": {}, "inputs": [list(a), list(b)]}
    whole["output"] = torch.remainder(left, right).tolist()
    cases.append(whole)

    halves = numpy.random.RandomState(5).randint(0, 2**32, 600, dtype=numpy.uint64).astype(numpy.uint32)
    values = torch.from_numpy(halves.view(numpy.float32).copy())
    near = normal(source("pointwise halves"), 200, scale=300.0)
    values = torch.cat([values, near, single([65504, 65519.996, 65520, 6.1e-5, 2.9e-8, 3e-8, 5.96e-8, math.inf, 1e-40])])
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        cases.append(case(name, name, lambda x, d=dtype: x.float().to(d).double(), [values], gradients=False))
        # An op on halves: computed wide, rounded once.
        x_half, y_half = near[:40].to(dtype).float() / 64, near[40:80].to(dtype).float() / 64
        x_half, y_half = x_half.to(dtype).float(), y_half.to(dtype).float()
        for op, compute in (("mul", torch.mul), ("add", torch.add), ("tanh", lambda a, b: torch.tanh(a))):
            output = compute(x_half.to(dtype), y_half.to(dtype)).double()
            cases.append({"name": f"{op} of {name}", "op": f"{op}_{name}", "params": {},
                          "inputs": [flat(x_half), flat(y_half)], "output": flat(output)})

    lines = ",\n".join(json.dumps(item, allow_nan=False) for item in cases)
    head = f'"generator": "make_goldens_pointwise.py",\n"torch": "{torch.__version__}",\n'
    text = "{\n" + head + '"cases": [\n' + lines + "\n]\n}\n"
    (HERE / "pointwise.json").write_text(text, encoding="utf-8", newline="\n")
    print(f"pointwise.json: {len(text)} bytes, {len(cases)} cases")


if __name__ == "__main__":
    main()
