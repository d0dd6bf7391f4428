#!/usr/bin/env python3
"""Writes small random models whose files say something unusual (models/) and their logits (logits/, as make_models.py).

Needs numpy and safetensors (PyPI). Run: python3 tests/golden/make_variants.py
The reference is the forward pass below in f64: it follows transformers' modeling_llama.py and modeling_ministral.py, and of
modeling_utils.py what it does where files disagree.
"""
import json
import os
import shutil

import numpy as np
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
POSITIONS, VOCAB, HIDDEN, INNER, HEADS, KV_HEADS, DIM, EPS, THETA = 520, 256, 64, 96, 4, 2, 16, 1e-5, 10000.0
BASE = dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS, max_position_embeddings=2048, rms_norm_eps=EPS, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=False, rope_theta=THETA)
MODELS = {
    # Biases everywhere, and silu under its other name.
    "llama-bias": dict(architectures=["LlamaForCausalLM"], attention_bias=True, mlp_bias=True, hidden_act="swish"),
    # What transformers loads as Ministral.
    "mistral-mixed": dict(architectures=["MistralForCausalLM"], num_hidden_layers=3, sliding_window=40,
                          layer_types=["full_attention", "sliding_attention", "full_attention"]),
    # Said to be tied, but an output matrix of its own is there: it is used.
    "llama-untied": dict(architectures=["LlamaForCausalLM"], tie_word_embeddings=True),
}


def make_weights(config, random):
    def matrix(rows, columns, scale=1.0):
        return (scale * random.normal(0, 1, (rows, columns)) / np.sqrt(columns)).astype(np.float16)

    def vector(size, mean, deviation):
        return (mean + deviation * random.normal(0, 1, size)).astype(np.float16)

    weights = {"model.embed_tokens.weight": random.normal(0, 1, (VOCAB, HIDDEN)).astype(np.float16),
               "model.norm.weight": vector(HIDDEN, 1, 0.2), "lm_head.weight": matrix(VOCAB, HIDDEN)}
    shapes = {"self_attn.q_proj": (HEADS * DIM, HIDDEN), "self_attn.k_proj": (KV_HEADS * DIM, HIDDEN),
              "self_attn.v_proj": (KV_HEADS * DIM, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * DIM),
              "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
    for layer in range(config["num_hidden_layers"]):
        prefix = "model.layers.%d." % layer
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[prefix + name + ".weight"] = vector(HIDDEN, 1, 0.2)
        for name, (rows, columns) in shapes.items():
            scale = 2.0 if "q_proj" in name or "k_proj" in name else 1.0  # attention that looks somewhere
            weights[prefix + name + ".weight"] = matrix(rows, columns, scale)
            if config.get("mlp_bias" if "mlp" in name else "attention_bias"):
                weights[prefix + name + ".bias"] = vector(rows, 0, 0.5)
    return weights


def forward(config, stored, tokens):
    weights = {name: value.astype(np.float64) for name, value in stored.items()}
    length = len(tokens)
    positions = np.arange(length)
    angles = positions[:, None] / THETA ** (np.arange(0, DIM, 2) / DIM)
    cosine, sine = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weights[name + ".weight"]

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0)

    def rotate(x):
        return x * cosine + np.concatenate([-x[..., DIM // 2:], x[..., :DIM // 2]], -1) * sine

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        prefix = "model.layers.%d." % layer
        h = norm(x, prefix + "input_layernorm")
        q = rotate(linear(h, prefix + "self_attn.q_proj").reshape(length, HEADS, DIM))
        k = rotate(linear(h, prefix + "self_attn.k_proj").reshape(length, KV_HEADS, DIM))
        v = linear(h, prefix + "self_attn.v_proj").reshape(length, KV_HEADS, DIM)
        k, v = (np.repeat(t, HEADS // KV_HEADS, 1) for t in (k, v))
        distance = positions[:, None] - positions[None]
        seen = distance >= 0
        if config.get("layer_types", ["full_attention"] * 9)[layer] == "sliding_attention":
            seen &= distance < config["sliding_window"]
        scores = np.where(seen, np.einsum("ihd,jhd->hij", q, k) / np.sqrt(DIM), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hij,jhd->ihd", scores, v).reshape(length, -1), prefix + "self_attn.o_proj")
        h = norm(x, prefix + "post_attention_layernorm")
        gate = linear(h, prefix + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, prefix + "mlp.up_proj"), prefix + "mlp.down_proj")
    return norm(x, "model.norm") @ weights["lm_head.weight"].T


def main():
    for index, (name, changes) in enumerate(MODELS.items()):
        random = np.random.default_rng(200 + index)
        config = {**BASE, **changes}
        weights = make_weights(config, random)
        directory = os.path.join(HERE, "models", name)
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        save_file(weights, os.path.join(directory, "model.safetensors"))
        with open(os.path.join(directory, "config.json"), "w") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
        tokens = random.integers(0, VOCAB, POSITIONS)
        logits = forward(config, weights, tokens)
        top = logits.max(-1)
        stats = np.stack([top, logits.mean(-1), top + np.log(np.exp(logits - top[:, None]).sum(-1)),
                          np.sqrt((logits * logits).mean(-1))], -1)
        rows = np.arange(0, POSITIONS, 8)
        save_file({"tokens": tokens.astype(np.int32), "rows": rows.astype(np.int32),
                   "logits": logits[rows].astype(np.float32), "stats": stats.astype(np.float32)},
                  os.path.join(HERE, "logits", name + ".safetensors"))


if __name__ == "__main__":
    main()
