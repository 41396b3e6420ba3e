#!/usr/bin/env python3
"""Golden values from PyTorch for RMSprop, penalties, clipping by value, parameter groups and learning-rate schedules.

    python make_goldens_optimizers2.py            # rewrites optimizers2.json beside this script

The form of the numbers, and why there are two runs, is told in make_goldens.py.
"""

import torch
from make_goldens import FLOATS, HERE, document, normal, offset, source, widened

STEPS = 12
CLASSES = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop,
}
DEFAULTS = {
    "sgd": {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
    "adam": {"lr": 1e-2, "weight_decay": 0.0},
    "adamw": {"lr": 1e-2, "weight_decay": 0.01},
    "rmsprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0, "centered": False},
}


def run(case, start, dtype):
    """Parameters after STEPS steps. The L1 penalty is PyTorch's way to have one: added to the gradient by hand."""
    parameters = {key: torch.nn.Parameter(widened(tensor, dtype)) for key, tensor in start.items()}
    config, bias = dict(case["config"]), case["bias_config"]
    l1 = {"w": config.pop("l1", 0.0)}
    groups = [{"params": [parameters["w"]]}]
    if bias is None:
        groups[0]["params"].append(parameters["b"])
        l1["b"] = l1["w"]
    else:
        bias = dict(bias)
        l1["b"] = bias.pop("l1", 0.0)
        groups.append({"params": [parameters["b"]], **bias})
    optimizer = CLASSES[case["optimizer"]](groups, **config, foreach=False)
    for step in range(STEPS):
        first = 0
        for parameter in parameters.values():
            parameter.grad = parameter.detach() * 0.5 + offset(step, first, parameter.shape, dtype)
            first += parameter.numel()
        if case["max_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), case["max_norm"])
        if case["max_value"] is not None:
            torch.nn.utils.clip_grad_value_(list(parameters.values()), case["max_value"])
        for key, parameter in parameters.items():
            parameter.grad += l1[key] * parameter.detach().sign()
        optimizer.step()
    return {key: value.detach().clone() for key, value in parameters.items()}


def optimizers():
    random = source("optimizers2")
    start = {"w": normal(random, 7, 5), "b": normal(random, 5)}
    cases = [{"kind": "start", "params": start}]

    def add(name, kind, changes=None, bias=None, max_norm=None, max_value=None):
        case = {
            "kind": "run", "name": name, "optimizer": kind, "config": DEFAULTS[kind] | (changes or {}),
            "bias_config": bias, "max_norm": max_norm, "max_value": max_value,
        }
        for suffix, dtype in FLOATS.items():
            case["after" + suffix] = run(case, start, dtype)
        cases.append(case)

    add("rmsprop", "rmsprop")
    add("rmsprop_alpha_eps", "rmsprop", {"alpha": 0.8, "eps": 1e-3})
    add("rmsprop_momentum", "rmsprop", {"momentum": 0.9})
    add("rmsprop_centered", "rmsprop", {"centered": True, "eps": 1e-2})
    add("rmsprop_all", "rmsprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "eps": 1e-2, "l1": 0.02})
    add("sgd_l1", "sgd", {"momentum": 0.9, "l1": 0.05})
    add("adam_l1_l2", "adam", {"weight_decay": 0.1, "l1": 0.05})
    add("adamw_l1", "adamw", {"weight_decay": 0.1, "l1": 0.05})
    add("sgd_clip_value", "sgd", {"momentum": 0.9, "weight_decay": 0.1}, max_value=0.25)
    add("adamw_clip_value", "adamw", max_value=0.25)
    add("rmsprop_clip_both", "rmsprop", {"l1": 0.02}, max_norm=1.0, max_value=0.125)
    add("sgd_groups", "sgd", {"momentum": 0.9, "weight_decay": 0.1}, {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.0})
    add("adamw_groups", "adamw", {"l1": 0.01}, {"lr": 1e-3, "weight_decay": 0.0, "betas": [0.8, 0.9]}, max_norm=1.0)
    add("rmsprop_groups", "rmsprop", {"centered": True, "eps": 1e-2}, {"alpha": 0.9, "centered": False})
    return cases


def scheduled(build, steps):
    """The rate before each step, from a scheduler that is stepped after each."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    scheduler = build(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


BASE = 0.2


def schedules():
    rates = torch.optim.lr_scheduler
    cases = []

    def add(name, schedule, build, steps=40):
        cases.append({"kind": "schedule", "name": name, "base": BASE, "schedule": schedule, "rates64": scheduled(build, steps)})

    add("constant", {"type": "constant"}, lambda o: rates.LambdaLR(o, lambda step: 1.0))
    add("step", {"type": "step", "every": 7, "gamma": 0.5}, lambda o: rates.StepLR(o, 7, 0.5))
    add("exponential", {"type": "exponential", "gamma": 0.9}, lambda o: rates.ExponentialLR(o, 0.9))
    # Only to its end: PyTorch's goes up again after it.
    add("cosine", {"type": "cosine", "steps": 30, "min_factor": 0.1},
        lambda o: rates.CosineAnnealingLR(o, 30, eta_min=0.1 * BASE), steps=31)
    add("linear", {"type": "linear", "steps": 10, "start": 0.25, "end": 0.75}, lambda o: rates.LinearLR(o, 0.25, 0.75, 10))
    add("one_cycle", {"type": "one_cycle", "steps": 41}, lambda o: rates.OneCycleLR(o, BASE, total_steps=41), steps=40)
    add("one_cycle_settings",
        {"type": "one_cycle", "steps": 31, "warm_up": 0.4, "div_factor": 10.0, "final_div_factor": 100.0},
        lambda o: rates.OneCycleLR(o, BASE, total_steps=31, pct_start=0.4, div_factor=10, final_div_factor=100), steps=30)
    add("sequence",
        {"type": "sequence", "first": {"type": "linear", "steps": 8, "start": 0.125},
         "then": [[8, {"type": "cosine", "steps": 20}], [28, {"type": "constant", "factor": 0.5}]]},
        lambda o: rates.SequentialLR(o, [
            rates.LinearLR(o, 0.125, 1.0, 8), rates.CosineAnnealingLR(o, 20), rates.ConstantLR(o, 0.5, 100),
        ], [8, 28]))

    def plateau(name, config, metrics, **arguments):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
        scheduler = rates.ReduceLROnPlateau(optimizer, eps=0, **arguments)
        found = []
        for metric in metrics:
            scheduler.step(metric)
            found.append(optimizer.param_groups[0]["lr"])
        cases.append({"kind": "plateau", "name": name, "base": BASE, "config": config,
                      "metrics64": torch.tensor(metrics, dtype=torch.float64),
                      "rates64": torch.tensor(found, dtype=torch.float64)})

    loss = [1.0, 0.9, 0.89, 0.88999, 0.88998, 0.95, 0.9, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85, 0.84, 0.84, 0.84, 0.84, 0.84,
            0.84, 0.84, 0.84, 0.84, 0.84, 0.84, 0.84, 0.84]
    plateau("plateau", {"factor": 0.5, "patience": 2}, loss, factor=0.5, patience=2)
    plateau("plateau_cooldown", {"factor": 0.1, "patience": 1, "cooldown": 3, "min_factor": 0.005}, loss,
            factor=0.1, patience=1, cooldown=3, min_lr=0.005 * BASE)
    plateau("plateau_absolute", {"factor": 0.5, "patience": 1, "threshold": 0.04, "threshold_mode": "absolute"}, loss,
            factor=0.5, patience=1, threshold=0.04, threshold_mode="abs")
    plateau("plateau_higher", {"better": "higher", "factor": 0.5, "patience": 2, "threshold": 0.01},
            [1 - value for value in loss], mode="max", factor=0.5, patience=2, threshold=0.01)
    plateau("plateau_negative", {"factor": 0.5, "patience": 0}, [-0.5, -0.6, -0.6, -0.61, -0.61],
            factor=0.5, patience=0)
    return cases


def main():
    torch.set_num_threads(1)
    about = (
        "kind run: 12 steps as optimizers.json has them (g = p * 0.5 + s_k), with the gradient clipped by norm over both, "
        "then by value, then l1 sign(p) added; bias_config: other settings of b. kind schedule: the rate before each step. "
        "kind plateau: the rate after each metric."
    )
    text = document(about, optimizers() + schedules()).replace("make_goldens.py", "make_goldens_optimizers2.py", 1)
    (HERE / "optimizers2.json").write_text(text, encoding="utf-8", newline="\n")
    print(f"optimizers2.json: {len(text)} bytes")


if __name__ == "__main__":
    main()
