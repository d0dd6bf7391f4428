"""Writes rope.json: frequencies and attention factors of transformers' rope types, and angles at positions to 131072.

Run with an environment that has torch and transformers: python tests/golden/make_rope.py
Each case is computed twice: as transformers does it (f32), and with torch's f32 replaced by f64, which is what we compute.
"""
import json
import math
import pathlib

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

POSITIONS = [0, 1, 2, 63, 64, 1000, 14000, 99999, 131072]
F32 = torch.float32

CASES = [
    ("default", 64, 10000.0, {}),
    ("default", 128, 1000000.0, {}),
    ("default", 80, 100000.0, {}),
    ("linear", 64, 10000.0, {"factor": 4.0}),
    ("linear", 128, 500000.0, {"factor": 2.5}),
    ("llama3", 128, 500000.0, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 8192}),
    ("llama3", 64, 500000.0, {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 8192}),
    ("yarn", 128, 1000000.0, {"factor": 4.0, "original_max_position_embeddings": 32768}),
    ("yarn", 64, 10000.0, {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707,
                           "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0}),
    ("yarn", 96, 10000.0, {"factor": 16.0, "original_max_position_embeddings": 4096, "attention_factor": 1.5,
                           "beta_fast": 16.0, "beta_slow": 2.0}),
    ("yarn", 64, 150000.0, {"factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}),
]


def default_frequencies(config, _device):
    parameters = config.rope_parameters
    dim = config.head_dim
    exponent = torch.arange(0, dim, 2, dtype=torch.int64).to(dtype=torch.float) / dim
    return 1.0 / (parameters["rope_theta"] ** exponent), 1.0


def compute(kind, dim, theta, parameters, dtype):
    config = LlamaConfig(hidden_size=dim * 4, num_attention_heads=4, head_dim=dim, max_position_embeddings=131072,
                         rope_parameters={"rope_type": kind, "rope_theta": theta, **parameters})
    torch.float, torch.float32 = dtype, dtype
    torch.set_default_dtype(dtype)
    try:
        function = ROPE_INIT_FUNCTIONS.get(kind, default_frequencies)
        frequencies, factor = function(config, None)
    finally:
        torch.float, torch.float32 = F32, F32
        torch.set_default_dtype(F32)
    assert frequencies.dtype == dtype, frequencies.dtype
    return [float(f) for f in frequencies], float(factor)


def main():
    cases = []
    for kind, dim, theta, parameters in CASES:
        single, factor = compute(kind, dim, theta, parameters, F32)
        double, _ = compute(kind, dim, theta, parameters, torch.float64)
        pairs = sorted({0, 1, dim // 8, dim // 4, dim // 2 - 1})
        angles = [{"position": p, "cos": [math.cos(p * double[i]) for i in pairs],
                   "sin": [math.sin(p * double[i]) for i in pairs]} for p in POSITIONS]
        cases.append({"type": kind, "rotary_dim": dim, "theta": theta, "parameters": parameters, "inv_freq_f32": single,
                      "inv_freq": double, "attention_factor": factor, "pairs": pairs, "angles": angles})
    out = pathlib.Path(__file__).with_name("rope.json")
    out.write_text(json.dumps({"transformers": transformers.__version__, "cases": cases}, indent=0) + "\n")
    print(out, len(cases), "cases")


main()
