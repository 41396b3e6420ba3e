#!/usr/bin/env python3
"""Writes the fixtures of the example: a small CNN and a small GPT as PyTorch saves them, with inputs and logits.

    pip install torch safetensors
    python make_fixture.py        # writes cnn.safetensors, gpt.safetensors and expected.json beside this script
"""

import json
import pathlib

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
VOCABULARY, WIDTH, LAYERS, HEADS, CONTEXT = 29, 32, 2, 4, 16


class Block(nn.Module):
    """Pre-norm transformer block: fused qkv, causal attention, 4x GELU MLP."""

    def __init__(self, d, h):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.h = h

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (a.view(b, t, self.h, c // self.h).transpose(1, 2) for a in self.qkv(self.n1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.gelu(self.up(self.n2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocab, d, layers, heads, context):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(context, d)
        self.blocks = nn.ModuleList([Block(d, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, vocab, bias=False)

    def forward(self, x):
        e = self.tok(x) + self.pos(torch.arange(x.shape[1]))
        for block in self.blocks:
            e = block(e)
        return self.head(self.norm(e))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10))


def rows(tensor):
    """Numbers that give back each f32 bit for bit."""
    return {"shape": list(tensor.shape), "data": [float(f"{value:.9g}") for value in tensor.flatten().tolist()]}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    image_model, text_model = cnn(), Gpt(VOCABULARY, WIDTH, LAYERS, HEADS, CONTEXT)
    with torch.no_grad():
        # Norms begin as the identity, which would hide a wrong use of them.
        for name, parameter in text_model.named_parameters():
            if name.split(".")[-2] in ("n1", "n2", "norm"):
                parameter.add_(0.3 * torch.randn_like(parameter))
        images = torch.randn(3, 1, 8, 8)
        tokens = torch.randint(0, VOCABULARY, (2, CONTEXT))
        expected = {
            "cnn": {"input": rows(images), "logits": rows(image_model(images))},
            "gpt": {
                "vocabulary": VOCABULARY, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "context": CONTEXT,
                "input": {"shape": list(tokens.shape), "data": tokens.flatten().tolist()},
                "logits": rows(text_model(tokens)),
            },
        }
    save_file(image_model.state_dict(), HERE / "cnn.safetensors")
    save_file(text_model.state_dict(), HERE / "gpt.safetensors")
    text = json.dumps({"torch": torch.__version__, **expected})
    (HERE / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
