#!/usr/bin/env python3
"""Compiles the kernels of kernels/cuda for each architecture and prints what they take: registers, spilled bytes, stack, static shared
memory. Fails if one does not compile, or if a kernel of attention or decoding spills.

cuda_report.py ROOT [NVCC]; dynamic shared memory is the launch's (attention_tensor.cu asserts that it fits every device).
"""
import concurrent.futures
import glob
import itertools
import os
import re
import subprocess
import sys
import tempfile

ARCHITECTURES = ["sm_80", "sm_90a"]
MAY_NOT_SPILL = re.compile(r"Attention|Decode")
ENTRY = re.compile(r"Compiling entry function '(\S+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def kernel_name(symbol):
    """TensorAttention<128> of a mangled TensorAttentionKernel<128>."""
    name = re.search(r"\d+([A-Z][A-Za-z0-9]*)Kernel(?:ILi(\d+)E)?", symbol)
    if not name:
        return symbol
    return name.group(1).lstrip("0123456789") + ("<%s>" % name.group(2) if name.group(2) else "")


def parse(report):
    """[(kernel, registers, stack, spilled, shared)] of ptxas -v."""
    rows, symbol, stack = [], None, (0, 0, 0)
    for line in report.split("\n"):
        if match := ENTRY.search(line):
            symbol = match.group(1)
        elif match := STACK.search(line):
            stack = tuple(int(value) for value in match.groups())
        elif symbol and (match := USED.search(line)):
            shared = SHARED.search(line)
            rows.append((kernel_name(symbol), int(match.group(1)), stack[0], stack[1] + stack[2], int(shared.group(1)) if shared else 0))
            symbol = None
    return rows


def compile_for(nvcc, root, arch, source):
    with tempfile.TemporaryDirectory() as scratch:
        return subprocess.run(
            [nvcc, "-std=c++20", "--expt-relaxed-constexpr", "-O3", "-I", root, "-arch=" + arch, "-Xptxas", "-v", "-cubin", source, "-o",
             os.path.join(scratch, "out.cubin")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def main():
    root, nvcc = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "nvcc"
    sources = sorted(glob.glob(os.path.join(root, "kernels/cuda/**/*.cu"), recursive=True))
    failed = not sources
    print("%-8s %-24s %9s %7s %8s %7s" % ("arch", "kernel", "registers", "stack", "spilled", "shared"))
    units = list(itertools.product(ARCHITECTURES, sources))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = pool.map(lambda unit: compile_for(nvcc, root, *unit), units)
        for (arch, source), run in zip(units, runs):
            if run.returncode != 0:
                print("%s: %s does not compile:\n%s" % (arch, os.path.basename(source), run.stdout))
                failed = True
                continue
            for kernel, registers, stack, spilled, shared in parse(run.stdout):
                bad = spilled > 0 and MAY_NOT_SPILL.search(kernel)
                failed = failed or bool(bad)
                print("%-8s %-24s %9d %7d %8d %7d%s" % (arch, kernel, registers, stack, spilled, shared, "  MAY NOT SPILL" if bad else ""))
    print("cuda-check: %s" % ("FAILED" if failed else "ok"))
    return 1 if failed else 0


sys.exit(main())
