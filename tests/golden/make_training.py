#!/usr/bin/env python3
"""Writes what PyTorch computes in one training step of each mode (training.safetensors), for tests/worker/train.

Needs torch and numpy (Debian: python3-torch). Run: python3 tests/golden/make_training.py
The model is models/qwen3-sharded, written out here with a dense mask over everything, and torch.optim.AdamW. Losses are per learned
token; gradients are those before clipping, of each trained tensor its norm and its product with sin(1), sin(2), ...; after the step,
the same of what the tensor changed by.
"""
import glob
import json
import math
import os
import struct

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "models", "qwen3-sharded")
LINKS, SLOTS, HEADER, TRAILER, RANK, ALPHA = 2, 3, 3, 2, 4, 8.0
TEACHER, ANSWER, RATE, DECAY, CLIP = 0.7, 0.4, 1e-3, 0.05, 0.5


def read_safetensors(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        assert entry["dtype"] == "BF16", entry
        wide = np.frombuffer(data[begin:end], dtype=np.uint16).astype(np.uint32) << 16
        tensors[name] = torch.from_numpy(wide.view(np.float32).reshape(entry["shape"]).copy())
    return tensors


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, tensor in tensors.items():
        array = np.ascontiguousarray(tensor)
        kind = {"float32": "F32", "int32": "I32"}[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(x, positions, theta):
    half = x.shape[-1] // 2
    angles = torch.outer(positions.double(), theta ** (-torch.arange(half).double() / half)).float()
    cosine, sine = torch.cos(angles)[:, None, :], torch.sin(angles)[:, None, :]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def forward(config, w, lora, x, segments):
    """Logits of every row of one sequence."""
    heads, groups, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    length = x.shape[0]
    positions = torch.arange(length)
    seen = positions[:, None] >= positions[None, :]
    seen &= (segments[:, None] == segments[None, :]) | (segments[:, None] == 0)

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        if lora:
            y = y + (x @ lora[name + ".lora_a"].T @ lora[name + ".lora_b"].T) * (ALPHA / RANK)
        return y

    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = norm(x, w[p + "input_layernorm.weight"], config["rms_norm_eps"])
        q = linear(h, p + "self_attn.q_proj").view(length, heads, dim)
        k = linear(h, p + "self_attn.k_proj").view(length, groups, dim)
        v = linear(h, p + "self_attn.v_proj").view(length, groups, dim)
        theta = config["rope_parameters"]["rope_theta"]
        q = rotate(norm(q, w[p + "self_attn.q_norm.weight"], config["rms_norm_eps"]), positions, theta)
        k = rotate(norm(k, w[p + "self_attn.k_norm.weight"], config["rms_norm_eps"]), positions, theta)
        k, v = k.repeat_interleave(heads // groups, 1), v.repeat_interleave(heads // groups, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(dim)
        weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
        x = x + linear(torch.einsum("hij,jhd->ihd", weights, v).reshape(length, heads * dim), p + "self_attn.o_proj")
        h = norm(x, w[p + "post_attention_layernorm.weight"], config["rms_norm_eps"])
        x = x + linear(torch.nn.functional.silu(linear(h, p + "mlp.gate_proj")) * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
    x = norm(x, w["model.norm.weight"], config["rms_norm_eps"])
    return x @ w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T


def lessons(links, wrapper, vocab):
    """(tokens, segments, learned) of the student and of the teacher, twice."""
    made = []
    for lesson, documents in enumerate([[9, 14], [5, 11, 7]]):
        def token(i):
            return 3 + (i * 37 + lesson * 101) % (vocab - 3)
        student, segments, teacher = [token(1), token(2), token(3)], [0] * 3, [token(1), token(2), token(3)]
        count = 3
        for slot, size in enumerate(documents):
            text = [token(count + i) for i in range(size)]
            count += size
            header = [vocab + SLOTS * links + i for i in range(HEADER)] if wrapper else []
            trailer = [vocab + SLOTS * links + HEADER + i for i in range(TRAILER)] if wrapper else []
            inside = header + text + trailer
            student += inside + [vocab + slot * links + i for i in range(links)]
            segments += [slot + 1] * len(inside) + [0] * links
            teacher += text
        rest = [token(count + i) for i in range(10)]
        student, segments, teacher = student + rest, segments + [0] * 10, teacher + rest
        made.append(((student, segments, list(range(len(student) - 4, len(student)))),
                     (teacher, [0] * len(teacher), list(range(len(teacher) - 4, len(teacher))))))
    return made


def embed(w, extra, tokens):
    vocab = w["model.embed_tokens.weight"].shape[0]
    return torch.stack([w["model.embed_tokens.weight"][t] if t < vocab else extra[t - vocab] for t in tokens])


def summary(tensor):
    flat = tensor.detach().double().flatten()
    return [float(flat.norm()), float(flat @ torch.sin(torch.arange(1, flat.numel() + 1).double()))]


def main():
    torch.manual_seed(7)
    with open(os.path.join(MODEL, "config.json")) as file:
        config = json.load(file)
    base = {}
    for shard in sorted(glob.glob(os.path.join(MODEL, "*.safetensors"))):
        base.update(read_safetensors(shard))
    vocab, hidden = config["vocab_size"], config["hidden_size"]
    golden = {}
    for mode in ["wrapper", "links", "wrapper+links", "lora", "full"]:
        wrapper, links = "wrapper" in mode, 0 if mode == "wrapper" else LINKS
        teacher_weight = 0.0 if mode == "full" else TEACHER
        w = {name: tensor.clone() for name, tensor in base.items()}
        trained = {}
        if mode == "full":
            trained.update(w)
        if links:
            trained["link_embeddings"] = torch.randn(SLOTS * LINKS, hidden)
        if wrapper:
            trained["wrapper_header"] = torch.randn(HEADER, hidden)
            trained["wrapper_trailer"] = torch.randn(TRAILER, hidden)
        lora = {}
        if mode == "lora":
            for name, tensor in base.items():
                if name.startswith("model.layers.") and name.endswith("proj.weight"):
                    stem = name[:-len(".weight")]
                    lora[stem + ".lora_a"] = torch.randn(RANK, tensor.shape[1]) / math.sqrt(tensor.shape[1])
                    lora[stem + ".lora_b"] = 0.1 * torch.randn(tensor.shape[0], RANK)
            trained.update(lora)
        for name, tensor in trained.items():
            if name not in base:
                golden[f"{mode}/begin/{name}"] = tensor.numpy().copy()
        for tensor in trained.values():
            tensor.requires_grad_(True)
        begin = {name: tensor.detach().clone() for name, tensor in trained.items()}
        parts = [trained[name] for name in ["link_embeddings", "wrapper_header", "wrapper_trailer"] if name in trained]
        extra = torch.cat(parts) if parts else None
        divergence = entropy = 0
        count = 0
        for index, ((tokens, segments, learned), (full, zeros, taught)) in enumerate(lessons(links, wrapper, vocab)):
            rows = torch.tensor(learned) - 1
            logits = forward(config, w, lora, embed(w, extra, tokens), torch.tensor(segments))[rows]
            likely = torch.log_softmax(logits, -1)
            entropy = entropy - likely[torch.arange(len(rows)), torch.tensor(tokens)[learned]].sum()
            with torch.no_grad():
                wanted = torch.log_softmax(
                    forward(config, base, {}, embed(base, None, full), torch.tensor(zeros))[torch.tensor(taught) - 1], -1)
            divergence = divergence + (wanted.exp() * (wanted - likely)).sum()
            count += len(rows)
        ((teacher_weight * divergence + ANSWER * entropy) / count).backward()
        golden[f"{mode}/losses"] = np.array([float(divergence) if teacher_weight else 0, float(entropy), count], np.float32)
        for name, tensor in trained.items():
            golden[f"{mode}/gradient/{name}"] = np.array(summary(tensor.grad), np.float32)
        optimizer = torch.optim.AdamW(list(trained.values()), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
        total = torch.nn.utils.clip_grad_norm_(list(trained.values()), CLIP)
        golden[f"{mode}/norm"] = np.array([float(total)], np.float32)
        optimizer.step()
        for name, tensor in trained.items():
            golden[f"{mode}/change/{name}"] = np.array(summary(tensor - begin[name]), np.float32)
    write_safetensors(os.path.join(HERE, "training.safetensors"), golden)


main()
