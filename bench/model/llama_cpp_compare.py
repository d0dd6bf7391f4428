#!/usr/bin/env python3
"""Prefill and decode beside llama.cpp, on the same threads, interleaved in the same run.

llama.cpp runs through llama-cpp-python (build it natively: CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary
llama-cpp-python llama-cpp-python); the quantisations are made from the given GGUF. Ours is `bench_ttft --serve`.

  bench/model/llama_cpp_compare.py [--model GGUF] [--bench build/release/bin/bench_ttft] [--threads 2] [--tokens 1024]
                             [--decode 32] [--rounds 5] [--cache DIR] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import llama_cpp

# llama.cpp's names of file types; None: the file unchanged.
TYPES = {"F32": 0, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "as given": None}


class LlamaCpp:
    def __init__(self, path, args):
        self.model = llama_cpp.Llama(model_path=path, n_ctx=args.tokens + 1024, n_batch=args.tokens, n_ubatch=512,
                                     n_threads=args.threads, n_threads_batch=args.threads, verbose=False,
                                     flash_attn=True)  # llama.cpp's own default; its binding turns it off

    def prefill(self, count):
        self.model.reset()
        tokens = [100 + i * 7919 % 40000 for i in range(count)]
        began = time.perf_counter()
        self.model.eval(tokens)
        return time.perf_counter() - began

    def decode(self, count):
        began = time.perf_counter()
        for i in range(count):
            self.model.eval([100 + i])
        return time.perf_counter() - began


class Ours:
    def __init__(self, args):
        self.process = subprocess.Popen([args.bench, "--serve", "--model", args.model, "--threads", str(args.threads)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("bench_ttft --serve ended")
        return line.strip()

    def ask(self, what, count):
        self.process.stdin.write(f"{what} {count}\n")
        self.process.stdin.flush()
        return float(self.answer())

    def prefill(self, count):
        return self.ask("prefill", count)

    def decode(self, count):
        return self.ask("decode", count)


def quantised(args):
    os.makedirs(args.cache, exist_ok=True)
    files = {}
    for name, kind in TYPES.items():
        if kind is None:
            files[name] = args.model
            continue
        files[name] = os.path.join(args.cache, f"{os.path.basename(args.model)}.{name}.gguf")
        if not os.path.exists(files[name]):
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype, params.allow_requantize, params.nthread = kind, True, args.threads
            if llama_cpp.llama_model_quantize(args.model.encode(), files[name].encode(), params) != 0:
                sys.exit(f"llama.cpp cannot make {name} of {args.model}")
    return files


def main():
    parser = argparse.ArgumentParser()
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    parser.add_argument("--model", default=os.path.join(root, "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--bench", default=os.path.join(root, "build/release/bin/bench_ttft"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", default=os.path.join(tempfile.gettempdir(), "kvlink_llama_cpp"))
    parser.add_argument("--json")
    args = parser.parse_args()

    runners = {f"llama.cpp {name}": LlamaCpp(path, args) for name, path in quantised(args).items()}
    runners["kvlink"] = Ours(args)
    prefill = {name: [] for name in runners}
    decode = {name: [] for name in runners}
    for round_number in range(args.rounds + 1):
        for name, runner in runners.items():
            seconds = runner.prefill(args.tokens), runner.decode(args.decode)
            if round_number > 0:  # the first one warms up
                prefill[name].append(args.tokens / seconds[0])
                decode[name].append(args.decode / seconds[1])
    rate = {name: (statistics.median(prefill[name]), statistics.median(decode[name])) for name in runners}
    print(f"{'':22}{'prefill tokens/s':>18}{'decode tokens/s':>18}")
    for name, (p, d) in rate.items():
        print(f"{name:22}{p:18.0f}{d:18.1f}")
    figures = []
    for name, (p, d) in rate.items():
        figures += [{"name": f"{name} prefill {args.tokens}", "value": p, "unit": "tokens/s", "target": None, "met": None},
                    {"name": f"{name} decode", "value": d, "unit": "tokens/s", "target": None, "met": None}]
    best = max(p for name, (p, d) in rate.items() if name != "kvlink")
    ratio = rate["kvlink"][0] / best
    print(f"kvlink's prefill is {ratio:.2f} times llama.cpp's best")
    figures.append({"name": "prefill against llama.cpp's best", "value": ratio, "unit": "x", "target": 1, "met": ratio > 1})
    if args.json:
        with open(args.json, "w") as out:
            json.dump(figures, out, indent=1)


if __name__ == "__main__":
    main()
