#!/usr/bin/env python3
"""Writes dequant.gguf: random blocks of every tensor type we read, beside what the `gguf` package expands them to.

Needs numpy and gguf (PyPI). Run: python3 tests/golden/make_dequant.py
"""
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS, COLUMNS = 3, 512
# Byte offsets of the f16 numbers in a block: random bytes there would be infinities and NaNs.
HALVES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.IQ4_NL: [0],
          Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.Q2_K: [80, 82], Type.Q3_K: [108],
          Type.IQ4_XS: [0]}


def main():
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(os.path.join(HERE, "dequant.gguf"), "test")
    for kind, halves in HALVES.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ROWS * COLUMNS // block, size), dtype=np.uint8)
        for i in halves:
            blocks[:, i:i + 2] = random.normal(0, 1, (len(blocks), 1)).astype(np.float16).view(np.uint8)
        blocks[0, halves[0]:halves[0] + 2] = np.array([6e-8], np.float16).view(np.uint8)  # a subnormal scale
        rows = blocks.reshape(ROWS, -1)
        writer.add_tensor(kind.name, rows, raw_dtype=kind)
        writer.add_tensor(kind.name + ".expected", quants.dequantize(rows, kind).astype(np.float32))
    values = random.normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
    half = values.astype(np.float16)
    half[0, :8] = [0, -0.0, 6e-8, -6e-8, 65504, -65504, 6.1e-5, 6.0e-5]
    writer.add_tensor("F16", half)
    writer.add_tensor("F16.expected", half.astype(np.float32))
    brain = quants.quantize(values, Type.BF16)
    writer.add_tensor("BF16", brain, raw_dtype=Type.BF16)
    writer.add_tensor("BF16.expected", quants.dequantize(brain, Type.BF16).astype(np.float32))
    writer.add_tensor("F32", values)
    writer.add_tensor("F32.expected", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
