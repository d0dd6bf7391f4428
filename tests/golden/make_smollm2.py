#!/usr/bin/env python3
"""Writes smollm2_*.safetensors: what transformers computes for SmolLM2-135M-Instruct, from the same GGUF that the tests read.

Needs torch, transformers, accelerate, tokenizers, safetensors, gguf (PyPI). Run: python3 tests/golden/make_smollm2.py [MODEL.gguf]
  smollm2_tokens   tokens [10, 520]: the demo's documents; f32_top1, bf16_top1 [10, 520] by transformers
  smollm2_logits   of text 0 in f32: 64 columns, maxima of runs of 64 columns at every eighth position, statistics
  smollm2_greedy   20 prompts, 48 greedy tokens each, and the margin between the two largest logits at each
The full comparison (every logit of all texts) is compare_logits.py.
"""
import copy
import json
import os
import sys

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT = os.path.join(HERE, "..", "..", "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
TEXTS, LENGTH, NEW = 10, 520, 48
QUESTIONS = ["What is the capital of France?", "Write a poem about the sea.", "How do plants grow?", "Count from 1 to 10.",
             "Explain gravity to a child.", "Name three colours.", "What is 12 plus 30?", "Tell a story about a fox.",
             "Why is the sky blue?", "How do I boil an egg?", "What does a doctor do?", "Write a Python function that adds two numbers.",
             "Who wrote Hamlet?", "What is a prime number?", "Describe a rainy day.", "List four animals.",
             "Translate 'good morning' to Spanish.", "What is the largest ocean?", "Give me advice about sleep.", "What is a verb?"]


def load(path):
    """The model in f32 through transformers' own GGUF reader, checked against the gguf package's expansion."""
    directory, name = os.path.split(os.path.abspath(path))
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, gguf_file=name, dtype=torch.float32,
                                                              attn_implementation="eager").eval()
    config, state = model.config, model.state_dict()
    assert config.rope_parameters["rope_theta"] == 100000 and config.tie_word_embeddings, config
    reader = gguf.GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}

    def expanded(name, heads=0):
        tensor = tensors[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        if heads:  # undo the interleaved rotation pairs
            values = values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        return values

    for layer in range(config.num_hidden_layers):
        for ours, theirs, heads in [("attn_q", "self_attn.q_proj", config.num_attention_heads),
                                    ("attn_k", "self_attn.k_proj", config.num_key_value_heads),
                                    ("attn_v", "self_attn.v_proj", 0), ("attn_output", "self_attn.o_proj", 0),
                                    ("ffn_gate", "mlp.gate_proj", 0), ("ffn_up", "mlp.up_proj", 0),
                                    ("ffn_down", "mlp.down_proj", 0), ("attn_norm", "input_layernorm", 0),
                                    ("ffn_norm", "post_attention_layernorm", 0)]:
            assert np.array_equal(expanded(f"blk.{layer}.{ours}.weight", heads),
                                  state[f"model.layers.{layer}.{theirs}.weight"].numpy()), (layer, ours)
    assert np.array_equal(expanded("token_embd.weight"), state["model.embed_tokens.weight"].numpy())
    assert np.array_equal(expanded("output_norm.weight"), state["model.norm.weight"].numpy())
    return model


def as_bf16(model):
    """The model as a checkpoint loaded in bf16: the rotary frequencies stay f32."""
    half = copy.deepcopy(model).bfloat16()
    half.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.clone()
    return half


def tokenizer(path):
    """Byte-level BPE of the GGUF's vocabulary; SmolLM splits every digit, which transformers' GGUF reader forgets."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    result = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    result.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                    pre_tokenizers.ByteLevel(add_prefix_space=False)])
    result.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"].contents()
    result.add_special_tokens([AddedToken(t, special=True) for t, kind in zip(tokens, types) if kind == 3])
    return result


def chat(bpe, text):
    return bpe.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n").ids


def texts_of_documents(bpe):
    """The demo's documents, two to a text, cut to the same length."""
    with open(os.path.join(HERE, "..", "..", "deploy", "demo", "documents.jsonl")) as file:
        documents = [json.loads(line) for line in file]
    texts = []
    for i in range(TEXTS):
        pair = documents[2 * i:2 * i + 2]
        ids = bpe.encode("".join(f"{d['title']}\n{d['text']}\n\n" for d in pair)).ids
        assert len(ids) >= LENGTH, (i, len(ids))
        texts.append(ids[:LENGTH])
    return torch.tensor(texts)


@torch.no_grad()
def greedy(model, bpe):
    prompts = [chat(bpe, question) for question in QUESTIONS]
    tokens, margins = [], []
    for ids in prompts:
        past, step = None, torch.tensor([ids])
        row, margin = [], []
        for _ in range(NEW):  # past an end-of-sequence too: the comparison is of logits
            out = model(step, past_key_values=past, use_cache=True)
            past = out.past_key_values
            top = out.logits[0, -1].topk(2)
            row.append(int(top.indices[0]))
            margin.append(float(top.values[0] - top.values[1]))
            step = torch.tensor([[row[-1]]])
        tokens.append(row)
        margins.append(margin)
    return {"prompts": torch.tensor(sum(prompts, []), dtype=torch.int32),
            "prompt_lengths": torch.tensor([len(p) for p in prompts], dtype=torch.int32),
            "tokens": torch.tensor(tokens, dtype=torch.int32), "margins": torch.tensor(margins)}


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    out = os.path.join(HERE, "logits")
    model, bpe = load(path), tokenizer(path)
    greedy_path = os.path.join(out, "smollm2_greedy.safetensors")
    if not os.path.exists(greedy_path):  # the slowest part; delete the file to make it again
        save_file(greedy(model, bpe), greedy_path)
    texts = texts_of_documents(bpe)
    with torch.no_grad():
        logits = model(texts[:1]).logits[0]
        top1 = torch.stack([model(text[None]).logits[0].argmax(-1) for text in texts])
        columns = torch.arange(0, 49152, 768)
        rows = torch.arange(0, LENGTH, 8)
        stats = torch.stack([logits.max(-1).values, logits.mean(-1), logits.logsumexp(-1), logits.square().mean(-1).sqrt()], -1)
        save_file({"tokens": texts[0].int(), "columns": columns.int(), "logits": logits[:, columns].contiguous(),
                   "rows": rows.int(), "block_maxima": logits[rows].reshape(len(rows), -1, 64).max(-1).values.contiguous(),
                   "stats": stats.contiguous()}, os.path.join(out, "smollm2_logits.safetensors"))
        half = as_bf16(model)
        bf16 = torch.stack([half(text[None]).logits[0].float().argmax(-1) for text in texts])
    save_file({"tokens": texts.int(), "f32_top1": top1.int(), "bf16_top1": bf16.int()},
              os.path.join(out, "smollm2_tokens.safetensors"))
    print("transformers bf16 agrees with f32 in", (top1 == bf16).float().mean().item(), "of", top1.numel(), "positions")


if __name__ == "__main__":
    main()
