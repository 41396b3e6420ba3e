#!/usr/bin/env python3
"""Golden values from PyTorch, for the tests of Everstep.

    pip install torch numpy
    python make_goldens.py            # rewrites the four JSON files beside this script
    python make_goldens.py --check    # writes nothing; fails where a file is not what this would write

Every computation runs twice on the CPU, in one thread: once in float32, and once in float64 *from the same
float32 values* (inputs, initial weights and output gradients are drawn in float64, rounded to float32 and, for
the second run, widened). So the float64 run is the truth for what is stored, and the distance of the float32
run from it shows how much error PyTorch itself makes. Keys of the float64 run end in "64".

An array is {"shape": [...], "data": [...]}, row-major; a scalar has the shape []. A float32 is written with 9
significant digits, which give it back bit for bit (also when parsed as f64 and then cast; whoever wants it as
f64 casts to f32 first, then widens); a float64 with 13. Labels and argmax results are integers.

The same PyTorch on the same processor writes the same bytes. On another processor or version the last bit of a
float32 result may differ, so --check compares bytes only to say so early; what the Rust tests compare has a
tolerance. Random numbers come from numpy's RandomState, whose streams are frozen, seeded by the case's name:
adding a case changes no other.
"""

import json
import pathlib
import sys
import zlib

import numpy
import torch
import torch.nn.functional as functional

HERE = pathlib.Path(__file__).resolve().parent
FLOATS = {"": torch.float32, "64": torch.float64}  # the suffix of a key -> the dtype of its run


# ---------------------------------------------------------------------------------------------------- JSON


def number(value, digits):
    text = f"{value:.{digits}g}"
    assert "n" not in text, f"{text} has no place in JSON"  # nan, inf
    return text if any(mark in text for mark in ".e") else text + ".0"


def dump(value):
    """JSON on one line. A tensor becomes {"shape", "data"}; a Python float keeps all its digits."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().reshape(-1).tolist()
        if value.dtype == torch.float32:
            texts = [number(item, 9) for item in flat]
            again = numpy.array([float(text) for text in texts]).astype(numpy.float32)
            assert again.tobytes() == numpy.array(flat, numpy.float32).tobytes(), "must round-trip"
        elif value.dtype == torch.float64:
            texts = [number(item, 13) for item in flat]
        else:
            texts = [str(item) for item in flat]
        return f'{{"shape": {list(value.shape)}, "data": [{", ".join(texts)}]}}'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(dump(item) for item in value) + "]"
    return json.dumps(value, allow_nan=False)


def document(about, cases):
    """One fixture; each case is one line of the file, so that a diff names the cases that changed."""
    head = {"generator": "make_goldens.py", "torch": torch.__version__, "about": about}
    lines = [f"{json.dumps(key)}: {json.dumps(str(item))}," for key, item in head.items()]
    body = ",\n".join(dump(case) for case in cases)
    return "{\n" + "\n".join(lines) + '\n"cases": [\n' + body + "\n]\n}\n"


# ------------------------------------------------------------------------------------------------- inputs


def source(name):
    return numpy.random.RandomState(zlib.crc32(name.encode()))


def normal(random, *shape, scale=1.0):
    return torch.from_numpy(numpy.asarray(random.standard_normal(shape) * scale)).to(torch.float32)


def uniform(random, low, high, *shape):
    return torch.from_numpy(numpy.asarray(random.uniform(low, high, shape))).to(torch.float32)


def values(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def labels(random, count, classes):
    return torch.from_numpy(random.randint(0, classes, count).astype(numpy.int64))


def widened(tensor, dtype):
    """A copy, always: an optimizer writes in place, and `to` with the same dtype would give the tensor itself."""
    return tensor.detach().to(dtype, copy=True)


# ---------------------------------------------------------------------------------------------------- ops

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def relu(x):
    """Within rounding of the kink the two runs could take different sides; no such input is wanted."""
    assert x.detach().abs().min() > 1e-5, "too near to the kink of relu: change the seed"
    return torch.relu(x)


class Ops:
    def __init__(self):
        self.cases = []

    def add(self, name, op, params, inputs, compute, grad_output=None):
        """Runs `compute(inputs) -> output` in both dtypes, with gradients of every floating-point input."""
        assert all(case["name"] != name for case in self.cases), name
        case = {"name": name, "op": op, "inputs": inputs, "params": params}
        for suffix, dtype in FLOATS.items():
            leaves = {
                key: widened(tensor, dtype).requires_grad_() if tensor.is_floating_point() else tensor
                for key, tensor in inputs.items()
            }
            output = compute(*leaves.values())
            case["output" + suffix] = output
            wanted = [key for key, leaf in leaves.items() if leaf.requires_grad and output.requires_grad]
            if wanted:
                if grad_output is None:
                    grad_output = normal(source(name + "/grad_output"), *output.shape)
                gradients = torch.autograd.grad(output, [leaves[key] for key in wanted], grad_output.to(dtype))
            else:
                gradients = []
            case["grad_output"] = grad_output
            case["grads" + suffix] = dict(zip(wanted, gradients))
        order = ["name", "op", "inputs", "params", "output", "grad_output", "grads", "output64", "grads64"]
        self.cases.append({key: case[key] for key in order})


def linear_cases(ops):
    def add(name, leading, bias, activation):
        random = source(name)
        inputs = {"x": normal(random, *leading, 7), "w": normal(random, 3, 7, scale=0.5)}
        inputs |= {"b": normal(random, 3)} if bias else {}

        def compute(x, w, b=None):
            before = functional.linear(x, w, b)
            return relu(before) if activation == "relu" else ACTIVATIONS[activation](before)

        ops.add(name, "linear", {"bias": bias, "activation": activation}, inputs, compute)

    for activation in ACTIVATIONS:
        suffix = "" if activation == "none" else "_" + activation
        add("linear_bias" + suffix, [5], True, activation)
        add("linear" + suffix, [5], False, activation)
    add("linear_bias_3d", [2, 3], True, "none")
    add("linear_bias_one_row", [1], True, "none")


def matmul_cases(ops):
    def add(name, left, right, transpose_a=False, transpose_b=False):
        random = source(name)

        def compute(a, b):
            a = a.transpose(-2, -1) if transpose_a else a
            b = b.transpose(-2, -1) if transpose_b else b
            return torch.matmul(a, b)

        params = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        ops.add(name, "matmul", params, {"a": normal(random, *left), "b": normal(random, *right)}, compute)

    add("matmul_2d", [5, 7], [7, 3])
    add("matmul_row_times_column", [1, 9], [9, 1])
    add("matmul_outer", [3, 1], [1, 5])
    add("matmul_batched", [2, 3, 4, 5], [2, 3, 5, 6])
    add("matmul_broadcast_missing", [3, 4, 5], [5, 6])
    add("matmul_broadcast_one", [1, 4, 5], [3, 5, 2])
    add("matmul_broadcast_both", [2, 1, 3, 4], [3, 4, 2])
    add("matmul_transpose_a", [7, 5], [7, 3], transpose_a=True)
    add("matmul_transpose_b", [5, 7], [3, 7], transpose_b=True)
    add("matmul_transpose_both", [7, 5], [3, 7], transpose_a=True, transpose_b=True)
    add("matmul_batched_transpose_b", [2, 3, 5], [2, 7, 5], transpose_b=True)


def softmax_cases(ops):
    def add(name, x, axis):
        ops.add(name, "softmax", {"axis": axis}, {"x": x}, lambda x: torch.softmax(x, axis))

    add("softmax_last", normal(source("softmax_last"), 3, 7, scale=2.0), -1)
    add("softmax_middle", normal(source("softmax_middle"), 2, 5, 3, scale=2.0), 1)
    add("softmax_first", normal(source("softmax_first"), 5, 3, scale=2.0), 0)
    add("softmax_one_column", normal(source("softmax_one_column"), 4, 1), -1)
    large = values(
        [80.0, -80.0, 0.0, 79.5, 1.0],
        [-80.0, -80.0, -80.0, -80.0, -80.0],
        [80.0, 80.0, 80.0, 80.0, 80.0],
        [-80.0, -79.0, -80.5, -78.25, -81.0],
        [80.0, 79.0, 80.5, 78.25, 81.0],
    )
    add("softmax_large", large, -1)
    add("softmax_large_middle", large.t().reshape(1, 5, 5).contiguous(), 1)

    def cross_entropy(name, logits, targets, grad_output):
        ops.add(
            name, "cross_entropy", {"reduction": "mean"}, {"logits": logits, "labels": targets},
            functional.cross_entropy, torch.tensor(grad_output, dtype=torch.float32),
        )

    random = source("cross_entropy")
    cross_entropy("cross_entropy", normal(random, 6, 10, scale=2.0), labels(random, 6, 10), 1.0)
    random = source("cross_entropy_scaled")
    cross_entropy("cross_entropy_scaled", normal(random, 5, 3), labels(random, 5, 3), -0.75)
    cross_entropy("cross_entropy_large", large, torch.tensor([1, 4, 0, 3, 2]), 1.0)
    random = source("cross_entropy_one_row")
    cross_entropy("cross_entropy_one_row", normal(random, 1, 7), labels(random, 1, 7), 1.0)
    random = source("cross_entropy_one_class")
    cross_entropy("cross_entropy_one_class", normal(random, 3, 1), labels(random, 3, 1), 1.0)


def pointwise_cases(ops):
    functions = {name: call for name, call in ACTIVATIONS.items() if name != "none"}
    functions |= {"exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "neg": torch.neg}
    for op, call in functions.items():
        random = source(op)
        positive = op in ("log", "sqrt")
        x = uniform(random, 0.05, 9.0, 3, 1, 5) if positive else normal(random, 3, 1, 5, scale=2.0)
        ops.add(op, op, {}, {"x": x}, call)
    # Where the formulas saturate or cancel; relu's derivative at 0 is 0.
    tails = values(-80.0, -30.0, -9.0, -5.5, -3.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 3.0, 5.5, 9.0, 30.0, 80.0)
    for op in ("relu", "gelu", "gelu_tanh", "tanh", "sigmoid", "exp"):
        ops.add(op + "_tails", op, {}, {"x": tails}, functions[op])
    tails = values(1e-30, 1e-10, 1e-3, 0.999, 1.0, 1.001, 1e4, 1e20)
    for op in ("log", "sqrt"):
        ops.add(op + "_tails", op, {}, {"x": tails}, functions[op])

    binary = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}
    for op, call in binary.items():
        for name, left, right in (
            ("", [3, 5], [3, 5]), ("_broadcast", [3, 1, 4], [2, 1]),
            ("_broadcast_row", [2, 3, 4], [4]), ("_broadcast_0d", [3, 1, 4], []),
        ):
            random = source(op + name)
            x, y = normal(random, *left), normal(random, *right)
            if op == "div":  # away from 0, both signs kept
                y = torch.where(y < 0, y - 0.5, y + 0.5)
            ops.add(op + name, op, {}, {"x": x, "y": y}, call)
        x = normal(source(op + "_scalar"), 3, 5)
        x = torch.where(x < 0, x - 0.5, x + 0.5)
        ops.add(f"{op}_scalar", op, {"y": 1.5}, {"x": x}, lambda x, call=call: call(x, 1.5))
        reverse = lambda y, call=call: call(torch.tensor(-0.75, dtype=y.dtype), y)
        ops.add(f"scalar_{op}", op, {"x": -0.75}, {"y": x}, reverse)


def reduction_cases(ops):
    calls = {
        "sum": lambda x, axes, keepdim: torch.sum(x, axes, keepdim),
        "mean": lambda x, axes, keepdim: torch.mean(x, axes, keepdim),
        "max": lambda x, axes, keepdim: torch.amax(x, axes, keepdim),
    }
    for op, call in calls.items():
        for axes in ([2], [1], [0], [0, 2], [1, 2], [0, 1, 2]):
            for keepdim in (False, True):
                name = f"{op}_axes_{''.join(map(str, axes))}" + ("_keepdim" if keepdim else "")
                x = normal(source(name), 3, 5, 2)
                assert x.unique().numel() == x.numel(), "a tie has no single derivative"
                ops.add(
                    name, op, {"axes": axes, "keepdim": keepdim}, {"x": x},
                    lambda x, call=call, axes=axes, keepdim=keepdim: call(x, axes, keepdim),
                )
    for axis, keepdim in [(0, False), (1, False), (1, True), (2, False), (2, True)]:
        name = f"argmax_axis_{axis}" + ("_keepdim" if keepdim else "")
        ops.add(
            name, "argmax", {"axis": axis, "keepdim": keepdim}, {"x": normal(source(name), 3, 5, 2)},
            lambda x, axis=axis, keepdim=keepdim: torch.argmax(x, axis, keepdim),
        )
    # The first of equals wins.
    ties = values([1.0, 3.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0], [-2.0, -1.0, -3.0, -1.0, -1.0])
    first = torch.tensor([1, 0, 1])
    assert torch.equal(torch.argmax(ties, 1), first)
    ops.add("argmax_ties", "argmax", {"axis": 1, "keepdim": False}, {"x": ties}, lambda x: torch.argmax(x, 1))


def movement_cases(ops):
    def permute(name, shape, axes, target):
        params, inputs = {"axes": axes, "shape": target}, {"x": normal(source(name), *shape)}
        ops.add(name, "permute_reshape", params, inputs, lambda x: x.permute(axes).reshape(target))

    permute("permute_reshape_rotate", [2, 3, 5], [2, 0, 1], [5, 6])
    permute("permute_reshape_heads", [2, 3, 2, 5], [0, 2, 1, 3], [4, 15])
    permute("permute_reshape_flat", [3, 7], [1, 0], [21])
    permute("permute_reshape_plain", [3, 4], [0, 1], [2, 1, 6])

    def cut(name, shape, ranges):
        index = tuple(slice(start, end) for start, end in ranges)
        ops.add(name, "slice", {"ranges": ranges}, {"x": normal(source(name), *shape)}, lambda x: x[index])

    cut("slice_first", [5, 3], [[1, 4], [0, 3]])
    cut("slice_middle", [3, 5, 2], [[0, 3], [2, 3], [0, 2]])
    cut("slice_every_axis", [4, 5, 3], [[1, 3], [0, 4], [1, 3]])
    # Used twice, with an overlap: the gradients of both parts add up.
    ops.add(
        "slice_overlap", "slice_overlap", {"ranges": [[0, 4], [2, 6]]},
        {"x": normal(source("slice_overlap"), 6, 3)}, lambda x: x[0:4] * x[2:6],
    )


def make_ops():
    ops = Ops()
    for add in linear_cases, matmul_cases, softmax_cases, pointwise_cases, reduction_cases, movement_cases:
        add(ops)
    about = (
        "Ops with their vector-Jacobian products: grads = d(sum(output * grad_output)) / d(input). output and "
        "grads are PyTorch's in float32, output64 and grads64 its in float64 from the same inputs."
    )
    return document(about, ops.cases)


# ------------------------------------------------------------------------------------------------- layers


class Mlp(torch.nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.fc1 = torch.nn.Linear(inputs, hidden)
        self.fc2 = torch.nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.fc2(relu(self.fc1(x)))


def state_from(name, module):
    """A state dict drawn by us (uniform within 1/sqrt(fan_in), torch.nn.Linear's own bound), in float32."""
    random = source(name + "/state")
    fan_in = {key: tensor.shape[1] for key, tensor in module.state_dict().items() if tensor.dim() == 2}
    bounds = {key: fan_in[key.replace("bias", "weight")] ** -0.5 for key in module.state_dict()}
    shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
    return {key: uniform(random, -bound, bound, *shapes[key]) for key, bound in bounds.items()}


def layer_case(name, layer, config, build, x, targets):
    case = {"kind": "layer", "name": name, "layer": layer, "config": config}
    case |= {"state": state_from(name, build()), "input": x, "labels": targets}
    for suffix, dtype in FLOATS.items():
        module = build().to(dtype)
        module.load_state_dict(case["state"])
        leaf = widened(x, dtype).requires_grad_()
        output = module(leaf)
        loss = functional.cross_entropy(output, targets)
        loss.backward()
        case["output" + suffix] = output
        case["loss" + suffix] = loss
        case["grads" + suffix] = {key: parameter.grad for key, parameter in module.named_parameters()}
        case["grad_input" + suffix] = leaf.grad
    return case


class Recorder(torch.Tensor):
    """Notes what an initialiser asks for (+-bound, or 0 and a standard deviation), instead of drawing it."""

    def uniform_(self, low, high, generator=None):
        assert low == -high
        self.asked = high

    def normal_(self, mean, deviation, generator=None):
        assert mean == 0
        self.asked = deviation


def initialiser_cases():
    init = torch.nn.init
    for shape in ([5, 4], [3, 5], [128, 784], [10, 128], [16, 3, 5, 5]):
        fan_in, fan_out = init._calculate_fan_in_and_fan_out(torch.empty(shape))
        fans = {"fan_in": fan_in, "fan_out": fan_out}

        def case(initialiser, params, gain, spread, call, arguments):
            weight = torch.empty(shape).as_subclass(Recorder)
            call(weight, **arguments)
            assert abs(weight.asked - spread) <= 1e-15 * spread, (initialiser, params, weight.asked, spread)
            key = "bound" if initialiser.endswith("uniform") else "std"
            return {
                "kind": "init", "initialiser": initialiser, "shape": shape, "fan_in": fan_in,
                "fan_out": fan_out, "params": params, "gain": float(gain), key: weight.asked,
            }

        for mode in ("fan_in", "fan_out"):
            for nonlinearity, slope in (("relu", 0.0), ("leaky_relu", 5**0.5), ("linear", 0.0), ("tanh", 0.0)):
                gain = init.calculate_gain(nonlinearity, slope)
                params = {"mode": mode, "nonlinearity": nonlinearity, "negative_slope": slope}
                arguments = {"a": slope, "mode": mode, "nonlinearity": nonlinearity}
                std = gain / fans[mode] ** 0.5
                yield case("kaiming_uniform", params, gain, std * 3**0.5, init.kaiming_uniform_, arguments)
                yield case("kaiming_normal", params, gain, std, init.kaiming_normal_, arguments)
        for nonlinearity in ("linear", "relu", "tanh"):
            gain = init.calculate_gain(nonlinearity)
            params = {"nonlinearity": nonlinearity}
            std = gain * (2 / (fan_in + fan_out)) ** 0.5
            yield case("xavier_uniform", params, gain, std * 3**0.5, init.xavier_uniform_, {"gain": gain})
            yield case("xavier_normal", params, gain, std, init.xavier_normal_, {"gain": gain})


def make_layers():
    cases = []

    def linear(name, leading, inputs, outputs, bias):
        random = source(name)
        config = {"in_features": inputs, "out_features": outputs, "bias": bias}
        build = lambda: torch.nn.Linear(inputs, outputs, bias)
        x, targets = normal(random, leading, inputs), labels(random, leading, outputs)
        cases.append(layer_case(name, "linear", config, build, x, targets))

    linear("linear", 6, 7, 3, True)
    linear("linear_no_bias", 6, 7, 3, False)
    linear("linear_one_row", 1, 5, 2, True)
    for name, rows in (("mlp", 6), ("mlp_one_row", 1)):
        random = source(name)
        x, targets = normal(random, rows, 4), labels(random, rows, 3)
        config = {"sizes": [4, 5, 3], "activation": "relu"}
        cases.append(layer_case(name, "mlp", config, lambda: Mlp(4, 5, 3), x, targets))
    cases += initialiser_cases()
    about = (
        "kind layer: a state dict, an input, the logits, the mean cross-entropy with the labels and its gradients. "
        "mlp is fc2(relu(fc1(x))). kind init: the bound of U(-bound, bound) or the std of N(0, std^2)."
    )
    return document(about, cases)


# --------------------------------------------------------------------------------------------- optimizers

SNAPSHOTS = (1, 2, 10, 100)


def offset(step, first, shape, dtype):
    """s_k[i], exact in float32. i counts through all parameters in order: w has 0..34, b has 35..39."""
    count = int(numpy.prod(shape))
    data = [(((step * 131 + i * 17) % 29) - 14) / 16 for i in range(first, first + count)]
    return torch.tensor(data, dtype=dtype).reshape(shape)


def optimizer_run(build, start, max_norm, decay, dtype):
    """Returns {steps done: parameters} and, with clipping, every norm before clipping."""
    parameters = {key: torch.nn.Parameter(widened(tensor, dtype)) for key, tensor in start.items()}
    optimizer = build(list(parameters.values()))
    base = optimizer.param_groups[0]["lr"]
    after, norms = {}, []
    for step in range(max(SNAPSHOTS)):
        first = 0
        for parameter in parameters.values():
            gradient = parameter.detach() * 0.5 + offset(step, first, parameter.shape, dtype)
            parameter.grad = gradient
            first += parameter.numel()
        if max_norm is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(list(parameters.values()), max_norm).item())
        if decay:
            optimizer.param_groups[0]["lr"] = base * (1 - step / 200)
        optimizer.step()
        if step + 1 in SNAPSHOTS:
            after[str(step + 1)] = {key: value.detach().clone() for key, value in parameters.items()}
    return after, norms


def make_optimizers():
    random = source("optimizers")
    start = {"w": normal(random, 7, 5), "b": normal(random, 5)}
    cases = [{"kind": "start", "params": start}]
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    defaults = {
        "sgd": {"lr": 0.1, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
        "adam": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
        "adamw": {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01},
    }

    def add(name, kind, changes=None, max_norm=None, decay=False):
        config = defaults[kind] | (changes or {})
        case = {
            "kind": "run", "name": name, "optimizer": kind, "config": config, "max_norm": max_norm,
            "lr_schedule": "linear_200" if decay else "constant",
        }
        build = lambda parameters: classes[kind](parameters, **config, foreach=False)
        for suffix, dtype in FLOATS.items():
            after, norms = optimizer_run(build, start, max_norm, decay, dtype)
            case["after" + suffix] = after
            if max_norm is not None:
                case["norms" + suffix] = torch.tensor(norms, dtype=dtype)
        cases.append(case)

    add("sgd", "sgd")
    add("sgd_momentum", "sgd", {"momentum": 0.9})
    add("sgd_momentum_dampening_0", "sgd", {"momentum": 0.9, "dampening": 0.0, "lr": 0.05})
    add("sgd_momentum_dampening", "sgd", {"momentum": 0.9, "dampening": 0.1})
    add("sgd_nesterov", "sgd", {"momentum": 0.9, "nesterov": True})
    add("sgd_weight_decay", "sgd", {"weight_decay": 0.01})
    add("sgd_nesterov_weight_decay", "sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01})
    add("sgd_clip_1", "sgd", max_norm=1.0)
    add("adam", "adam")
    add("adam_weight_decay", "adam", {"weight_decay": 0.01})
    add("adam_betas", "adam", {"betas": [0.8, 0.95], "lr": 1e-2})
    add("adam_eps", "adam", {"eps": 1e-6, "lr": 1e-2})
    add("adamw", "adamw")
    add("adamw_weight_decay", "adamw", {"weight_decay": 0.1, "lr": 1e-2})
    add("adamw_no_weight_decay", "adamw", {"weight_decay": 0.0, "lr": 1e-2})
    add("adamw_betas", "adamw", {"betas": [0.8, 0.95], "lr": 1e-2})
    add("adamw_eps", "adamw", {"eps": 1e-6, "lr": 1e-2})
    add("adamw_lr_schedule", "adamw", {"lr": 1e-2}, decay=True)
    add("adamw_clip_1", "adamw", {"lr": 1e-2}, max_norm=1.0)
    add("adamw_clip_sometimes", "adamw", {"lr": 1e-2}, max_norm=4.25)
    add("adamw_clip_lr_schedule", "adamw", {"lr": 1e-2}, max_norm=1.0, decay=True)
    some = next(case for case in cases if case.get("name") == "adamw_clip_sometimes")["norms"]
    assert 10 < (some > 4.25).sum() < 90, "this case is about norms on both sides"
    about = (
        "100 steps, k = 0..99, from the start case's params, with g = p * 0.5 + s_k, "
        "s_k[i] = (((k*131 + i*17) % 29) - 14) / 16, i counting row-major through w (0..34), then b (35..39). "
        "lr_schedule linear_200: lr_k = lr * (1 - k/200). max_norm: torch.nn.utils.clip_grad_norm_ over both before "
        "the step, norms[k] its result (the norm before clipping). after[n]: the parameters when n steps are done."
    )
    return document(about, cases)


# ----------------------------------------------------------------------------------------------- training


def batch(step, dtype):
    """Six rows of eight values, exact in float32, each row's class given by its phase."""
    phases = [(step * 37 + row * 11) % 23 for row in range(6)]
    x = [[(((phase + column * 7) % 23) - 11) / 8 for column in range(8)] for phase in phases]
    return torch.tensor(x, dtype=dtype), torch.tensor([phase // 6 for phase in phases])


def make_training():
    config = {
        "sizes": [8, 16, 4], "activation": "relu", "steps": 20, "batch_size": 6,
        "optimizer": "adamw", "lr": 1e-2, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01,
    }
    cases = []
    for name, max_norm in (("adamw", None), ("adamw_clip", 0.75)):
        state = state_from("training", Mlp(8, 16, 4))
        case = {"kind": "run", "name": name, "config": config, "max_norm": max_norm, "state": state}
        for suffix, dtype in FLOATS.items():
            model = Mlp(8, 16, 4).to(dtype)
            model.load_state_dict(case["state"])
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=config["lr"], betas=config["betas"], eps=config["eps"],
                weight_decay=config["weight_decay"], foreach=False,
            )
            losses, norms = [], []
            for step in range(config["steps"]):
                x, targets = batch(step, dtype)
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(x), targets)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))
                norms.append(norm.item())
                optimizer.step()
                losses.append(loss.item())
            case["losses" + suffix] = torch.tensor(losses, dtype=dtype)
            case["norms" + suffix] = torch.tensor(norms, dtype=dtype)
            case["final" + suffix] = {key: value.clone() for key, value in model.state_dict().items()}
        cases.append(case)
    about = (
        "fc2(relu(fc1(x))), mean cross-entropy, AdamW, 20 steps. Batch k = 0..19, row r = 0..5, column c = 0..7: "
        "t = (k*37 + r*11) % 23, x[r][c] = (((t + c*7) % 23) - 11) / 8, label[r] = t / 6 rounded down. losses[k] is "
        "the loss before step k, norms[k] the gradient norm before clipping; max_norm null: no clipping."
    )
    return document(about, cases)


# --------------------------------------------------------------------------------------------------- main


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    check = sys.argv[1:] == ["--check"]
    assert check or not sys.argv[1:], __doc__
    different = []
    makers = {"ops": make_ops, "layers": make_layers, "optimizers": make_optimizers, "training": make_training}
    for stem, make in makers.items():
        name, text = stem + ".json", make()
        json.loads(text)
        path = HERE / name
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                different.append(name)
        else:
            path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{name}: {len(text)} bytes")
    if different:
        sys.exit(f"not as committed: {', '.join(different)}")


if __name__ == "__main__":
    main()
