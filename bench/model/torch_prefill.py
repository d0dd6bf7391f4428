#!/usr/bin/env python3
"""Full prefill in PyTorch with its fused attention, of the model that bench_device times: the shape of Llama-3.1-8B, random bf16 weights,
logits of the last row alone. An honest denominator for "less than a full prefill" is not slower than this.

  bench/model/torch_prefill.py [--device cuda] [--contexts 1024,...] [--fresh 64] [--rounds 5] [--layers 32] [--small] [--json FILE]

Needs torch 2.5 or later; with --device cuda (the default) one that sees a device. Exits with 3 where there is none.
"""
import argparse
import json
import math
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:
    print("torch_prefill: skipped, there is no torch of 2.5 or later")
    sys.exit(3)

LLAMA_8B = dict(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, dim=128, vocab=128256)
TOY = dict(layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, dim=16, vocab=320)
EPS = 1e-5
# Excludes the implementation that writes all scores to memory.
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def llama3_frequencies(dim, device):
    """Of Llama 3.1: theta 500000, factor 8, low 1, high 4, 8192 positions originally."""
    frequencies = 1.0 / (500000.0 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
    wave = 2 * math.pi / frequencies
    smooth = ((8192 / wave - 1) / (4 - 1)).clamp(0, 1)
    return ((1 - smooth) * frequencies / 8 + smooth * frequencies).to(device)


class Model:
    def __init__(self, shape, device):
        self.shape, self.device = shape, device
        hidden, dim = shape["hidden"], shape["dim"]
        self.table = self.random(shape["vocab"], hidden)
        self.head = self.random(shape["vocab"], hidden)
        self.frequencies = llama3_frequencies(dim, device)
        self.one = torch.ones(hidden, dtype=torch.bfloat16, device=device)
        self.layers = [dict(qkv=self.random((shape["heads"] + 2 * shape["kv_heads"]) * dim, hidden),
                            output=self.random(hidden, shape["heads"] * dim),
                            gate_up=self.random(2 * shape["intermediate"], hidden),
                            down=self.random(hidden, shape["intermediate"])) for _ in range(shape["layers"])]

    def random(self, rows, columns):
        return torch.empty(rows, columns, dtype=torch.bfloat16, device=self.device).normal_(0, 0.02)

    def norm(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.one, EPS)

    @staticmethod
    def rotate(x, cosine, sine):
        first, second = x.chunk(2, dim=-1)
        return x * cosine + torch.cat((-second, first), dim=-1) * sine

    @torch.inference_mode()
    def prefill(self, tokens):
        """Logits of the last row; keys and values of all layers are kept, as an answer needs them."""
        shape, rows = self.shape, tokens.shape[0]
        heads, kv_heads, dim = shape["heads"], shape["kv_heads"], shape["dim"]
        angles = torch.arange(rows, dtype=torch.float64, device=self.device)[:, None] * self.frequencies[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        cosine, sine = angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)
        x, cache = F.embedding(tokens, self.table), []
        for index, layer in enumerate(self.layers):
            qkv = F.linear(self.norm(x), layer["qkv"]).view(rows, heads + 2 * kv_heads, dim).transpose(0, 1)
            q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=0)
            q, k = self.rotate(q, cosine, sine), self.rotate(k, cosine, sine)
            v = v.contiguous()
            cache.append((k, v))
            with sdpa_kernel(FUSED):
                attended = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
            attended = attended.transpose(0, 1).reshape(rows, heads * dim)
            if index + 1 == len(self.layers):
                x, attended = x[-1:], attended[-1:]
            x = x + F.linear(attended, layer["output"])
            gate, up = F.linear(self.norm(x), layer["gate_up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.linear(self.norm(x), self.head).float().argmax(dim=-1).item()


def seconds(model, rows, rounds, synchronise):
    tokens = torch.arange(rows, device=model.device) * 7919 % model.shape["vocab"]
    taken = []
    for round_number in range(rounds + 1):
        synchronise()
        began = time.perf_counter()
        model.prefill(tokens)
        synchronise()
        if round_number > 0:  # the first one warms up
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--contexts", default="")
    parser.add_argument("--fresh", type=int, help="tokens beside the documents', as bench_device has them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--small", action="store_true", help="the toy of bench_device --small")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch_prefill: skipped, torch sees no CUDA device")
        return 3
    shape = dict(TOY if args.small else LLAMA_8B)
    if args.layers:
        shape["layers"] = args.layers
    fresh = args.fresh if args.fresh is not None else 8 if args.small else 64
    contexts = args.contexts or ("128,256" if args.small else "1024,2048,5120,16384,32768,65536")
    synchronise = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    torch.manual_seed(1)
    model = Model(shape, torch.device(args.device))
    print(f"PyTorch {torch.__version__} on {torch.cuda.get_device_name() if args.device == 'cuda' else args.device}")
    figures = []
    for context in map(int, contexts.split(",")):
        milliseconds = 1e3 * seconds(model, context + fresh, args.rounds, synchronise)
        print(f"  PyTorch's full prefill {context:6d} {milliseconds:10.4g} ms", flush=True)
        figures.append({"name": f"PyTorch's full prefill {context}", "value": milliseconds, "unit": "ms", "target": None, "met": None})
    if args.json:
        with open(args.json, "w") as out:
            json.dump(figures, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
