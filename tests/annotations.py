#!/usr/bin/env python3
"""Checks with clang that locks are held where the annotations of base/mutex.h say so (-Werror=thread-safety).

annotations.py BUILD [JOBS]: every unit of BUILD/compile_commands.json with a product file that includes base/mutex.h, itself or by a header
that it includes, is parsed and not compiled. Needs the generated headers of BUILD.
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
UNITY = re.compile(r"/Unity/unity_\d+_cxx\.cxx$")  # a file of CMake's that includes some of a target's sources
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


def sources_of(unit):
    paths = included(unit["file"]) if UNITY.search(unit["file"]) else [unit["file"]]
    return [os.path.relpath(path, ROOT) for path in paths]


def check(unit):
    arguments = shlex.split(unit["command"])
    while not re.search(r"(\+\+|cc|clang)(-[0-9.]+)?$", arguments[0]) or arguments[0].endswith("ccache"):
        arguments.pop(0)
    del arguments[arguments.index("-o"):arguments.index("-o") + 2]
    if "-include" in arguments:  # GCC's precompiled header
        del arguments[arguments.index("-include"):arguments.index("-include") + 2]
    kept = [a for a in arguments[1:] if a != "-c" and not a.startswith(("-W", "-O", "-fsanitize"))]
    command = ["clang++", *kept, "-fsyntax-only", "-Wno-everything", "-Wthread-safety", "-Werror=thread-safety"]
    return subprocess.run(command, cwd=unit["directory"], capture_output=True, text=True)


def main():
    if shutil.which("clang++") is None:
        print("annotations: there is no clang++ (deploy/install-deps.sh installs it)")
        return 1
    with open(os.path.join(sys.argv[1], "compile_commands.json"), encoding="utf-8") as file:
        units = json.load(file)
    count = lambda unit: sum(path.startswith(PRODUCT) and has_locks(path) for path in sources_of(unit))
    files = sum(map(count, units))
    units = [unit for unit in units if count(unit)]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count()) as pool:
        for outcome in pool.map(check, units):
            failed += outcome.returncode != 0
            sys.stdout.write(outcome.stderr)
    print("annotations: %d files in %d units, %d with errors" % (files, len(units), failed))
    return 1 if failed or not units else 0


sys.exit(main())
