#!/usr/bin/env python3
"""Writes small randomly initialised models (models/) and their reference logits (logits/).

Needs torch, transformers, safetensors, gguf (PyPI). Run: python3 tests/golden/make_models.py
Each model lies in a Hugging Face directory, some also in a GGUF made as llama.cpp's converter makes it. The logits are those of
transformers in f32 with eager attention, for one sequence: all columns of every eighth position, and of every position the
largest, the mean, the log-sum-exp and the root of the mean square.
"""
import json
import math
import os
import shutil

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
POSITIONS = 520
BASE = dict(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=2048, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=False)


def rope(kind, theta=10000.0, **rest):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **rest))


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(factor=4.0, original_max_position_embeddings=128)
# name: (config class, model class, changes, dtype on disk, spelling of the rope keys, shard size)
MODELS = {
    "llama-tied-f16": ("Llama", dict(tie_word_embeddings=True, **rope("default")), torch.float16, "new", None),
    "llama-linear": ("Llama", rope("linear", factor=3.0), torch.bfloat16, "type", None),
    "llama-llama3": ("Llama", rope("llama3", 50000.0, **LLAMA3), torch.bfloat16, "old", None),
    "llama-yarn": ("Llama", rope("yarn", **YARN), torch.bfloat16, "new", None),
    "mistral-window": ("Mistral", dict(sliding_window=40, num_key_value_heads=1, **rope("default")), torch.float32, "old",
                       None),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=48, max_window_layers=1, num_hidden_layers=3,
                                   **rope("default", 1000000.0)), torch.bfloat16, "old", None),
    "qwen3-sharded": ("Qwen3", dict(head_dim=32, attention_bias=False, **rope("default", 1000000.0)), torch.bfloat16, "new",
                      "100KB"),
}


def randomise(model, generator):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.5 * noise)
            elif "embed_tokens" in name:
                parameter.copy_(noise * (0.3 if model.config.tie_word_embeddings else 1))
            elif "q_proj" in name or "k_proj" in name:
                parameter.copy_(2 * noise / math.sqrt(parameter.shape[-1]))  # attention that looks somewhere
            else:
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))


def respell(directory, spelling):
    """Rewrites the rope keys of config.json as older versions of transformers wrote them."""
    if spelling == "new":
        return
    path = os.path.join(directory, "config.json")
    with open(path) as file:
        config = json.load(file)
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    kind = parameters.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {("type" if spelling == "type" else "rope_type"): kind,
                                                             **parameters}
    if spelling == "old":
        config.pop("layer_types", None)
    with open(path, "w") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


def permute(weight, heads):
    """Rotate-half rows to the interleaved pairs that GGUFs of the llama architecture hold."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, architecture):
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    parameters = config.rope_parameters
    writer.add_rope_freq_base(parameters["rope_theta"])
    if parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
    if parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(parameters["factor"])
    head_dim = config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size - 1)] + ["<|im_end|>"])
    writer.add_token_types([1] * (config.vocab_size - 1) + [3])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        name = name.replace("model.embed_tokens", "token_embd").replace("model.norm", "output_norm").replace("lm_head", "output")
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            stem, suffix = rest.rsplit(".", 1)
            if architecture == "llama" and stem == "self_attn.q_proj":
                values = permute(values, config.num_attention_heads)
            if architecture == "llama" and stem == "self_attn.k_proj":
                values = permute(values, config.num_key_value_heads)
            name = f"blk.{layer}.{names[stem]}.{suffix}"
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    if parameters["rope_type"] == "llama3":
        divisors = []
        for i in range(0, head_dim, 2):
            wavelength = 2 * math.pi * parameters["rope_theta"] ** (i / head_dim)
            original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
            low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
            if wavelength < original / high:
                divisors.append(1)
            elif wavelength > original / low:
                divisors.append(factor)
            else:
                smooth = (original / wavelength - low) / (high - low)
                divisors.append(1 / ((1 - smooth) / factor + smooth))
        writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_logits(name, model, generator):
    tokens = torch.randint(0, model.config.vocab_size, (1, POSITIONS), generator=generator)
    with torch.no_grad():
        logits = model(tokens).logits[0].float()
    stats = torch.stack([logits.max(-1).values, logits.mean(-1), logits.logsumexp(-1), logits.square().mean(-1).sqrt()], -1)
    rows = torch.arange(0, POSITIONS, 8)
    save_file({"tokens": tokens[0].int(), "rows": rows.int(), "logits": logits[rows].contiguous(), "stats": stats.contiguous()},
              os.path.join(HERE, "logits", name + ".safetensors"))


def main():
    for index, (name, (family, changes, dtype, spelling, shard)) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(100 + index)
        config = getattr(transformers, family + "Config")(**{**BASE, **changes})
        config._attn_implementation = "eager"
        model = getattr(transformers, family + "ForCausalLM")(config).eval()
        randomise(model, generator)
        directory = os.path.join(HERE, "models", name)
        shutil.rmtree(directory, ignore_errors=True)
        model.to(dtype).save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
        respell(directory, spelling)
        # Read back, so that the reference sees the rounded weights and the file's spelling, and makes its own f32 frequencies.
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
        model.eval()
        write_logits(name, model, generator)
        if name in ("llama-llama3", "llama-yarn"):
            write_gguf(os.path.join(HERE, "models", name + ".gguf"), model, "llama")
        if name == "qwen2-window":
            # ggml knows no windows for qwen2; a model without them has logits of its own.
            config = getattr(transformers, family + "Config")(**{**BASE, **changes, "use_sliding_window": False})
            config._attn_implementation = "eager"
            plain = transformers.Qwen2ForCausalLM(config).eval()
            plain.load_state_dict(model.state_dict())
            write_gguf(os.path.join(HERE, "models", "qwen2-plain.gguf"), plain, "qwen2")
            write_logits("qwen2-plain", plain, generator)


if __name__ == "__main__":
    main()
