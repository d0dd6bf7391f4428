#!/usr/bin/env python3
"""Compares every logit of SmolLM2 with transformers: the whole of what the committed goldens only sample.

    KVLINK_DUMP_LOGITS=/tmp/logits build/release/bin/model_smollm2_test --gtest_filter='*Bf16*'
    python3 tests/golden/compare_logits.py /tmp/logits [MODEL.gguf]

Prints, over 10 texts of 520 positions: the largest difference of an f32 logit; and of our bf16 and of transformers' own bf16 the mean
KL divergence from transformers' f32 and the share of positions with the same best token. Needs what make_smollm2.py needs.
"""
import os
import sys

import numpy as np
import torch
from safetensors.torch import load_file

import make_smollm2


def kl(p, q):
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@torch.no_grad()
def main():
    folder = sys.argv[1]
    model = make_smollm2.load(sys.argv[2] if len(sys.argv) > 2 else make_smollm2.DEFAULT)
    tokens = load_file(os.path.join(make_smollm2.HERE, "logits", "smollm2_tokens.safetensors"))["tokens"].long()
    shape = (*tokens.shape, model.config.vocab_size)
    ours = {kind: np.memmap(os.path.join(folder, "smollm2." + kind), np.float32, "r", shape=shape) for kind in ("f32", "bf16")}
    half = make_smollm2.as_bf16(model)
    worst, sums, count = 0.0, {}, tokens.numel()
    for i, text in enumerate(tokens):
        exact = model(text[None]).logits[0]
        f32 = torch.from_numpy(ours["f32"][i].copy())
        worst = max(worst, (f32 - exact).abs().max().item())
        rows = {"our f32": f32, "our bf16": torch.from_numpy(ours["bf16"][i].copy()),
                "transformers bf16": half(text[None]).logits[0].float()}
        for name, logits in rows.items():
            total = sums.setdefault(name, [0.0, 0])
            total[0] += kl(exact, logits).sum().item()
            total[1] += (logits.argmax(-1) == exact.argmax(-1)).sum().item()
    print(f"{count} positions, largest difference of an f32 logit {worst:.2e}")
    for name, (divergence, agreed) in sums.items():
        print(f"{name}: mean KL {divergence / count:.2e}, top-1 agreement {agreed / count:.4f}")


if __name__ == "__main__":
    main()
