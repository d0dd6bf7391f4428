#!/usr/bin/env python3
"""Checks with clang that locks are held where the annotations of base/mutex.h say so (-Werror=thread-safety).

annotations.py BUILD [JOBS]: every product file of BUILD/compile_commands.json that includes base/mutex.h, itself or by a header that it
includes, is parsed and not compiled. Needs the generated headers of BUILD.
"""
import concurrent.futures
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRODUCT = ("base/", "proto/", "kernels/", "transport/", "etcd/", "store/", "worker/")


def included(path):
    full = os.path.join(ROOT, path)
    if not os.path.exists(full):
        return []
    with open(full, encoding="utf-8") as file:
        return INCLUDE.findall(file.read())


def has_locks(path):
    """Members that a lock guards are private: their class's own file, which includes its header, is where they are used."""
    names = included(path)
    return "base/mutex.h" in names or any("base/mutex.h" in included(name) for name in names)


def check(entry):
    arguments = shlex.split(entry["command"])
    while not re.search(r"(\+\+|cc|clang)(-[0-9.]+)?$", arguments[0]) or arguments[0].endswith("ccache"):
        arguments.pop(0)
    del arguments[arguments.index("-o"):arguments.index("-o") + 2]
    if "-include" in arguments:  # GCC's precompiled header
        del arguments[arguments.index("-include"):arguments.index("-include") + 2]
    kept = [a for a in arguments[1:] if a != "-c" and not a.startswith(("-W", "-O", "-fsanitize"))]
    command = ["clang++", *kept, "-fsyntax-only", "-Wno-everything", "-Wthread-safety", "-Werror=thread-safety"]
    return subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True)


def main():
    if shutil.which("clang++") is None:
        print("annotations: there is no clang++ (deploy/install-deps.sh installs it)")
        return 1
    with open(os.path.join(sys.argv[1], "compile_commands.json"), encoding="utf-8") as file:
        entries = [e for e in json.load(file) if os.path.relpath(e["file"], ROOT).startswith(PRODUCT)]
    entries = [e for e in entries if has_locks(os.path.relpath(e["file"], ROOT))]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count()) as pool:
        for outcome in pool.map(check, entries):
            failed += outcome.returncode != 0
            sys.stdout.write(outcome.stderr)
    print("annotations: %d files, %d with errors" % (len(entries), failed))
    return 1 if failed or not entries else 0


sys.exit(main())
