#!/usr/bin/env python3
"""Enforces the layers of the tree (docs/architecture.md): who may include whom, which library is seen where, one CMakeLists.txt with
listed sources in each folder, the length of files, and comments that clang-format would tear.

layers_test.py ROOT checks a tree; layers_test.py --self-test shows on a tree full of violations that each is found.
"""
import os
import re
import sys
import tempfile

# Folder -> what its files may include, besides their own folder. A folder stands for its own files and those of the folders below that
# have no entry here; "store/store.h" stands for that header alone.
MODEL = ["base", "kernels", "worker/text", "worker/text/template", "worker/files", "worker/model"]
WORKER = MODEL + ["proto", "store/store.h", "worker/link"]
EVERYTHING = ["base", "base/cli", "kernels", "proto", "transport", "store", "store/engine", "store/embedded", "store/client", "store/cluster",
              "store/cli", "store/node", "store/client/control", "store/engine/disk", "worker"]
NODE = ["base", "proto", "transport", "store", "store/engine", "store/engine/disk", "store/engine/memory", "store/node",
        "store/node/watch"]
LAYERS = {
    "base": [],
    "base/cli": ["base"],
    "proto": ["base"],
    "kernels": ["base"],
    "kernels/ref": ["base", "kernels"],
    "kernels/cpu": ["base", "kernels", "kernels/ref"],  # stands in where Highway is missing
    "kernels/cuda": ["base", "kernels"],
    "transport": ["base"],
    "store": ["base", "proto"],
    "store/engine": ["base", "proto", "store/engine/disk", "store/engine/index", "store/engine/memory"],
    "store/engine/disk": ["base", "proto"],
    "store/engine/index": ["base", "proto", "store/engine/disk", "store/engine/s3_fifo.h"],
    "store/engine/memory": ["base", "proto", "store/engine/s3_fifo.h"],
    "store/embedded": ["base", "proto", "store", "store/engine"],
    "store/client": ["base", "proto", "transport", "store", "store/client/control", "store/client/data"],
    "store/client/control": ["base", "proto", "transport", "store"],
    "store/client/data": ["base", "proto", "transport", "store", "store/client", "store/client/control"],
    "store/cli": ["base", "base/cli", "proto", "store", "store/embedded", "store/client", "store/client/control", "store/node"],
    "store/cluster": ["base", "proto", "transport", "store"],
    "store/node": NODE + ["store/node/control", "store/node/data"],
    "store/node/control": NODE,
    "store/node/data": NODE,
    "store/node/watch": NODE,
    "worker/text": ["base"],
    "worker/text/template": ["base", "worker/text"],
    "worker/files": ["base", "kernels/rope.h", "worker/text"],
    "worker/model": ["base", "kernels", "worker/files"],
    "worker/link": MODEL,
    "worker/encode": WORKER,
    "worker/ingest": WORKER + ["worker/encode"],
    "worker/infer": WORKER + ["worker/encode"],
    "worker/train": WORKER + ["worker/encode"],
    "worker/api": EVERYTHING,
    "worker/cli": EVERYTHING,
}
# The backends stand beside kernels.h, not above it: folders over kernels name one only where they choose it.
CHOOSES_BACKEND = ["worker/api", "worker/cli"]

# Library header -> the folders that may see it.
LIBRARIES = [
    (r"rocksdb/", ["store/engine"]),
    (r"liburing", ["store/engine"]),
    (r"(ucp|ucs|uct)/", ["transport/ucx"]),
    (r"(cuda|cublas|nvrtc|nvml|cooperative_groups)", ["kernels/cuda"]),
    (r"(dnnl|oneapi/dnnl|hwy/)", ["kernels/cpu"]),
    (r"omp\.h$", ["kernels/cpu"]),
    (r"google/protobuf/", ["proto"]),
    (r"prometheus/", ["store/node"]),
    (r"openssl/", ["proto"]),
    (r"grpcpp?/", ["transport/grpc", "store/client", "store/cluster", "store/node", "worker/api"]),
    (r"xxhash\.h$", ["base", "proto", "store/engine", "kernels"]),
    (r"nlohmann/", ["store/cli", "store/node", "worker"]),
    (r"(zlib|zstd)\.h$", ["worker/ingest", "worker/cli"]),
]
TOP = ["base", "proto", "kernels", "transport", "store", "worker"]
SOURCE = re.compile(r"\.(h|cc|cu|cuh)$")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
RULER = re.compile(r"^\s*//.*[-=*]{8}")
WARN_LINES = 500
MAX_LINES = 700


def layer_of(folder):
    """The entry of LAYERS that a folder belongs to: itself or the nearest above."""
    while folder and folder not in LAYERS:
        folder = os.path.dirname(folder)
    return folder


def within(folder, parents):
    return any(folder == parent or folder.startswith(parent + "/") for parent in parents)


def check_include(path, number, quote, target, report):
    folder = os.path.dirname(path)
    where = "%s:%d" % (path, number)
    if target.split("/")[0] in TOP and "/" in target:
        layer, other = layer_of(folder), layer_of(os.path.dirname(target))
        allowed = LAYERS.get(layer, [])
        if other != layer and other not in allowed and target not in allowed and not ("worker" in allowed and other.startswith("worker/")):
            backend = layer in CHOOSES_BACKEND and other.startswith("kernels/")
            if not backend:
                report("%s: %s may not include %s" % (where, layer or folder, target))
        return
    known = any(re.match(pattern, target) for pattern, _ in LIBRARIES)
    if quote == '"' and "/" not in target and not known:
        report('%s: include "%s" by its path from the root' % (where, target))
    for pattern, folders in LIBRARIES:
        if re.match(pattern, target) and not within(folder, folders):
            report("%s: <%s> may be included only in %s" % (where, target, ", ".join(folders)))


def check_comments(path, lines, report):
    """Comments that clang-format breaks when it fills lines: rulers, and tables that are wider than a line."""
    for number, line in enumerate(lines, 1):
        if RULER.match(line):
            report("%s:%d: no rulers in comments: a heading is a line of its own" % (path, number))
    for number in range(2, len(lines)):
        full, tail, rest = (re.match(r"^\s*//( +)\S", line) for line in lines[number - 2:number + 1])
        if full and tail and rest and len(lines[number - 2]) > 80 and len(lines[number - 1]) < 60:
            if len(rest.group(1)) >= len(tail.group(1)) + 4:
                report("%s:%d: a table torn by clang-format: keep its lines within the width" % (path, number))


def expand_foreach(lists):
    """The text of a CMakeLists.txt with foreach(name a b ...) written out."""
    def write_out(match):
        variable, *values = match.group(1).split()
        return "".join(match.group(2).replace("${%s}" % variable, value) for value in values)
    return re.sub(r"foreach\s*\(([^)]*)\)(.*?)endforeach\s*\(\s*\)", write_out, lists, flags=re.DOTALL)


def check(root):
    """(violations, warnings) of the tree at `root`."""
    violations, warnings = [], []
    for top in TOP + ["tests", "bench"]:
        for folder, folders, files in os.walk(os.path.join(root, top)):
            folders[:] = [f for f in folders if f not in ("corpus", "golden", "results", "__pycache__")]
            relative = os.path.relpath(folder, root)
            sources = sorted(f for f in files if SOURCE.search(f))
            lists = ""
            if "CMakeLists.txt" in files:
                with open(os.path.join(folder, "CMakeLists.txt"), encoding="utf-8") as file:
                    lists = expand_foreach(file.read())
                if re.search(r"\bfile\s*\(\s*GLOB", lists, re.IGNORECASE):
                    violations.append("%s/CMakeLists.txt: list the sources, no GLOB" % relative)
            elif any(f.endswith((".cc", ".cu")) for f in sources):
                violations.append("%s: has sources but no CMakeLists.txt" % relative)
            for name in sources:
                path = os.path.join(relative, name)
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    lines = file.read().split("\n")
                if name.endswith((".cc", ".cu")) and lists and not re.search(r"(?<![\w/])%s\b" % re.escape(name), lists):
                    if name != "replay_main.cc":  # named by kvlink_fuzzer
                        violations.append("%s: not listed in %s/CMakeLists.txt" % (path, relative))
                if len(lines) > MAX_LINES:
                    violations.append("%s: %d lines, more than %d" % (path, len(lines), MAX_LINES))
                elif len(lines) > WARN_LINES:
                    warnings.append("%s: %d lines, aim at %d" % (path, len(lines), WARN_LINES))
                if name.endswith(".h") and not name.endswith("-inl.h") and top in TOP:  # Highway reads -inl.h again for each target
                    guard = "KVLINK_" + re.sub(r"[/.-]", "_", path).upper() + "_"
                    if "#ifndef " + guard not in lines:
                        violations.append("%s: the include guard is not %s" % (path, guard))
                check_comments(path, lines, violations.append)
                if top not in TOP:
                    continue
                for number, line in enumerate(lines, 1):
                    match = INCLUDE.match(line)
                    if match:
                        check_include(path, number, match.group(1), match.group(2), violations.append)
    return violations, warnings


BAD = {
    "store/engine/CMakeLists.txt": "foreach(name a z)\n  kvlink_library(${name} SOURCES ${name}.cc)\nendforeach()\n",
    "store/engine/a.cc": '#include <rocksdb/db.h>\n#include "kernels/kernels.h"\n',
    "store/engine/b.cc": "\n",
    "store/embedded/e.h": '#ifndef WRONG\n#include <rocksdb/db.h>\n#include "worker/model/model.h"\n',
    "base/c.h": '#ifndef KVLINK_BASE_C_H_\n#include "proto/formats.h"\n#include "near.h"\n',
    "kernels/k.h": '#ifndef KVLINK_KERNELS_K_H_\n#include <dnnl.hpp>\n#  include <cuda_runtime.h>\n#include "kernels/cpu/cpu.h"\n',
    "worker/model/CMakeLists.txt": "file(GLOB sources *.cc)\n",
    "worker/model/m.h": '#ifndef KVLINK_WORKER_MODEL_M_H_\n#include "store/store.h"\n#include <ucp/api/ucp.h>\n',
    "worker/infer/i.cc": '#include "store/engine/a.h"\n#include "worker/cli/c.h"\n',
    "proto/long.h": "#ifndef KVLINK_PROTO_LONG_H_\n" + "\n" * 800,
    "base/ruler.h": "#ifndef KVLINK_BASE_RULER_H_\n  // --- reading\n  // " + "-" * 90 + "\n",
    "base/table.h": "#ifndef KVLINK_BASE_TABLE_H_\n//   first   " + "w" * 90 + "\n//   torn\n//           rest of the first\n",
    # What is allowed, beside what is not.
    "worker/cli/c.h": '#ifndef KVLINK_WORKER_CLI_C_H_\n#include "store/embedded/e.h"\n#include "kernels/cpu/cpu.h"\n#include "worker/infer/i.h"\n',
    "worker/encode/f.h": '#ifndef KVLINK_WORKER_ENCODE_F_H_\n#include "store/store.h"\n#include "proto/formats.h"\n#include <vector>\n',
}
EXPECTED = [
    "store/engine/a.cc:2: store/engine may not include kernels/kernels.h",
    "store/engine/b.cc: not listed in store/engine/CMakeLists.txt",
    "store/embedded/e.h: the include guard is not KVLINK_STORE_EMBEDDED_E_H_",
    "store/embedded/e.h:2: <rocksdb/db.h> may be included only in store/engine",
    "store/embedded/e.h:3: store/embedded may not include worker/model/model.h",
    "base/c.h:2: base may not include proto/formats.h",
    'base/c.h:3: include "near.h" by its path from the root',
    "kernels/k.h:2: <dnnl.hpp> may be included only in kernels/cpu",
    "kernels/k.h:3: <cuda_runtime.h> may be included only in kernels/cuda",
    "kernels/k.h:4: kernels may not include kernels/cpu/cpu.h",
    "worker/model/CMakeLists.txt: list the sources, no GLOB",
    "worker/model/m.h:2: worker/model may not include store/store.h",
    "worker/model/m.h:3: <ucp/api/ucp.h> may be included only in transport/ucx",
    "worker/infer: has sources but no CMakeLists.txt",
    "worker/infer/i.cc:1: worker/infer may not include store/engine/a.h",
    "worker/infer/i.cc:2: worker/infer may not include worker/cli/c.h",
    "proto/long.h: 802 lines, more than 700",
    "base/ruler.h:3: no rulers in comments: a heading is a line of its own",
    "base/table.h:3: a table torn by clang-format: keep its lines within the width",
]


def self_test():
    with tempfile.TemporaryDirectory() as root:
        for path, text in BAD.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        violations, _ = check(root)
    missed = sorted(set(EXPECTED) - set(violations))
    extra = sorted(set(violations) - set(EXPECTED))
    for line in missed:
        print("missed:", line)
    for line in extra:
        print("reported without reason:", line)
    return 1 if missed or extra else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    violations, warnings = check(sys.argv[1])
    for line in warnings:
        print("warning:", line)
    for line in violations:
        print("error:", line)
    print("%d violations" % len(violations))
    return 1 if violations else 0


sys.exit(main())
