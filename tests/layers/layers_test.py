#!/usr/bin/env python3
"""Enforces what the documents say of the tree: the layers and libraries of docs/architecture.md, the threads of docs/threads.md, the retired
words of docs/glossary.md; the steady clock; one CMakeLists.txt with listed sources in each folder, what interfaces include, the number and
length of files, the width of pages, comments that clang-format would tear or that cite what is not in the tree.

layers_test.py ROOT checks a tree; layers_test.py --self-test shows on a tree full of violations that each is found.
"""
import fnmatch
import os
import re
import sys
import tempfile

# How a library of the table is recognised, by the header that is included.
LIBRARIES = [
    ("RocksDB", r"rocksdb/"),
    ("liburing", r"liburing"),
    ("UCX", r"(ucp|ucs|uct)/"),
    ("CUDA", r"(cuda|cublas|nvrtc|nvml|cooperative_groups)"),
    ("oneDNN", r"(dnnl|oneapi/dnnl)"),
    ("Highway", r"hwy/"),
    ("OpenMP", r"omp\.h$"),
    ("protobuf", r"google/protobuf/"),
    ("Prometheus", r"prometheus/"),
    ("OpenSSL", r"openssl/"),
    ("gRPC", r"grpcpp?/"),
    ("xxHash", r"xx(hash|h_x86dispatch)\.h$"),
    ("nlohmann", r"nlohmann/"),
    ("libpq", r"(libpq-fe\.h$|postgresql/)"),
    ("LibTorch", r"(torch|ATen|c10)/"),
    ("Boost", r"boost/"),
    ("zlib", r"zlib\.h$"),
    ("zstd", r"zstd(_errors)?\.h$"),
]
TOP = ["base", "proto", "kernels", "transport", "etcd", "store", "worker"]
# What an interface may include of its own folder and those below.
INTERFACES = {
    "store/engine/engine.h": ["store/engine/disk/location.h", "store/engine/statistics.h", "store/engine/types.h"],
}
SOURCE = re.compile(r"\.(h|cc|cu|cuh|inc)$")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
RULER = re.compile(r"^\s*//.*[-=*]{8}")
WARN_LINES = 500
MAX_LINES = 700
MAX_PROSE = 160  # columns of a page's line
MAX_FILES = 25  # of a folder, tests aside
THREAD = re.compile(r"std::(thread|jthread|async)\b|\bpthread_create\b")
# How a name is given: Thread t("name", ...), threads.emplace_back("name", [...), thread_("name", [this] ...); {.name = "name"} of a Worker.
THREAD_NAME = re.compile(r'(?:\bThread(?: \w+)?|\.emplace_back|\b\w+_)\("([a-z]+(?:-[a-z]+)*)", \[|'
                         r'(?:\bThread(?: \w+)?)\("([a-z]+(?:-[a-z]+)*)"')
WORKER_NAME = re.compile(r'(?:\bWorker::Options|\b\w*[wW]orker\w*\()\s*\{\s*\.name = "([^"]+)"')
DOCUMENT = re.compile(r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.md)\b")
# Deadlines are of SteadyNow() (base/clock.h): the wall clock may be set back. Here it is what is asked for.
WALL_CLOCK = re.compile(r"absl::Now\(|system_clock")
WALL_CLOCKS = ["base/clock.cc", "base/clock.h", "store/engine/engine_identity.cc", "store/node/watch/log.cc", "transport/grpc/grpc.cc",
               "worker/serve/dialect.cc", "worker/serve/http/response.cc", "worker/serve/router.cc", "worker/serve/trace/exporter.cc",
               "worker/text/template/jinja_functions.cc"]
MISSING_DESIGN = re.compile(r"\bdesign,? sections?\b", re.IGNORECASE)


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def rows_of(text, *columns):
    """The rows below the head `columns` of the table of a document that has it."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.startswith("|") and cells(line) == list(columns):
            for row in lines[number + 2:]:
                if not row.startswith("|"):
                    return
                yield cells(row)


class Layers:
    """The table of docs/architecture.md. A row stands for the files of its folder and of those below that have no row of their own. What
    it may include are folders, or single headers; "as `x`" is x and what its row may include. Its libraries are those of the folders
    below as well."""

    def __init__(self, text):
        self.allowed, self.libraries, self.everything = {}, {}, set()
        for folder, _, may, libraries in rows_of(text, "folder", "what it is", "may include", "libraries"):
            folder = folder.strip("`").rstrip("/")
            names = [name.rstrip("/") for name in re.findall(r"`([^`]+)`", may)]
            for name in re.findall(r"as `([^`]+)`", may):
                names += self.allowed[name.rstrip("/")]
            if may == "everything":
                self.everything.add(folder)
            self.allowed[folder] = names
            self.libraries[folder] = [name.strip() for name in libraries.split(",") if name.strip()]

    def row_of(self, folder):
        """The row that a folder belongs to: its own or the nearest above."""
        while folder and folder not in self.allowed:
            folder = os.path.dirname(folder)
        return folder

    def check_include(self, path, number, quote, target, report):
        folder = os.path.dirname(path)
        where = "%s:%d" % (path, number)
        if path in INTERFACES and target.startswith(folder + "/") and target not in INTERFACES[path]:
            report("%s: %s is an interface, and may not include %s" % (where, path, target))
        if target.endswith("_impl.h") and os.path.dirname(target) != folder:
            report("%s: %s is for its own folder" % (where, target))
        row = self.row_of(folder)
        if target.split("/")[0] in TOP and "/" in target:
            other = self.row_of(os.path.dirname(target))
            allowed = self.allowed.get(row, [])
            if other != row and other not in allowed and target not in allowed and row not in self.everything:
                report("%s: %s may not include %s" % (where, row or folder, target))
            return
        known = [name for name, pattern in LIBRARIES if re.match(pattern, target)]
        if quote == '"' and "/" not in target and not known:
            report('%s: include "%s" by its path from the root' % (where, target))
        for name in known:
            owners = [owner for owner in self.libraries if name in self.libraries[owner]]
            if not any(folder == owner or folder.startswith(owner + "/") for owner in owners):
                report("%s: <%s> is of %s, which may be included only in %s" % (where, target, name, ", ".join(owners)))


def document_exists(root, path, cited):
    folder = os.path.dirname(path)
    return any(os.path.exists(os.path.join(root, where, cited)) for where in (folder, "", "docs"))


class Words:
    """The retired words of docs/glossary.md; `x*` stands for all that begin with x."""

    def __init__(self, text):
        self.retired = {}
        for word, _, retired in rows_of(text, "word", "what it is", "retired"):
            for old in re.findall(r"`([^`]+)`", retired):
                self.retired[old] = word.strip("`")
        patterns = [re.escape(old).replace(r"\*", r"\w+") for old in self.retired]
        self.pattern = re.compile(r"(?<!\w)(%s)(?!\w)" % "|".join(patterns)) if patterns else None

    def check(self, path, lines, report):
        if self.pattern is None:
            return
        for number, line in enumerate(lines, 1):
            for found in self.pattern.findall(line):
                word = next(self.retired[old] for old in self.retired if fnmatch.fnmatchcase(found, old))
                report("%s:%d: %s is retired: say %s (docs/glossary.md)" % (path, number, found, word))


class Threads:
    """Every thread is started by base/thread.h, and docs/threads.md has its name."""

    def __init__(self, text):
        self.listed = {name for row in rows_of(text, "thread", "started by", "does", "may block on", "locks")
                       for name in re.findall(r"`([^`]+)`", row[0])}
        self.texts = []

    def check(self, path, text, report):
        self.texts.append(text)
        for number, line in enumerate(text.split("\n"), 1):
            if THREAD.search(line):
                report("%s:%d: threads are started by base/thread.h alone" % (path, number))
            for match in THREAD_NAME.finditer(line):
                name = match.group(1) or match.group(2)
                if name not in self.listed:
                    report("%s:%d: the thread %s is not in docs/threads.md" % (path, number, name))
        for match in WORKER_NAME.finditer(text):
            if match.group(1) not in self.listed:
                number = text.count("\n", 0, match.start()) + 1
                report("%s:%d: the thread %s is not in docs/threads.md" % (path, number, match.group(1)))

    def finish(self, report):
        for name in sorted(self.listed):
            if not any('"%s"' % name in text for text in self.texts):
                report("docs/threads.md: no thread is named %s" % name)


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


def read(root, path):
    path = os.path.join(root, path)
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


def check_source(root, path, text, lists, report, warn):
    lines = text.split("\n")
    folder, name = os.path.split(path)
    if name.endswith((".cc", ".cu")) and lists and not re.search(r"(?<![\w/])%s\b" % re.escape(name), lists):
        report("%s: not listed in %s/CMakeLists.txt" % (path, folder))
    if len(lines) > MAX_LINES and not name.endswith(".inc"):  # tables that a program writes
        report("%s: %d lines, more than %d" % (path, len(lines), MAX_LINES))
    elif len(lines) > WARN_LINES:
        warn("%s: %d lines, aim at %d" % (path, len(lines), WARN_LINES))
    if name.endswith(".h") and not name.endswith("-inl.h") and path.split("/")[0] in TOP:  # Highway reads -inl.h again for each target
        guard = "KVLINK_" + re.sub(r"[/.-]", "_", path).upper() + "_"
        if "#ifndef " + guard not in lines:
            report("%s: the include guard is not %s" % (path, guard))
    check_comments(path, lines, report)
    for number, line in enumerate(lines, 1):
        comment = line[line.find("//"):] if "//" in line else ""
        if WALL_CLOCK.search(line) and path.split("/")[0] in TOP and path not in WALL_CLOCKS:
            report("%s:%d: the wall clock may be set back: take SteadyNow() (base/clock.h)" % (path, number))
        if MISSING_DESIGN.search(comment):
            report("%s:%d: cites a design that is not in the tree" % (path, number))
        for cited in DOCUMENT.findall(comment):
            if not document_exists(root, path, cited):
                report("%s:%d: cites %s, which is not in the tree" % (path, number, cited))


def check_pages(root, report):
    """Prose wraps; a row of a table and a picture may be as wide as they are."""
    pages = sorted(f for f in os.listdir(root) if f.endswith(".md"))
    pages += ["docs/" + f for f in sorted(os.listdir(os.path.join(root, "docs"))) if f.endswith(".md")]
    for path in pages:
        drawn = False
        for number, line in enumerate(read(root, path).split("\n"), 1):
            drawn ^= line.startswith("```")
            if len(line) > MAX_PROSE and not drawn and not line.startswith("|"):
                report("%s:%d: %d columns, more than %d" % (path, number, len(line), MAX_PROSE))


def check(root):
    """(violations, warnings) of the tree at `root`."""
    violations, warnings = [], []
    layers = Layers(read(root, "docs/architecture.md"))
    words = Words(read(root, "docs/glossary.md"))
    threads = Threads(read(root, "docs/threads.md"))
    for top in TOP + ["tests", "bench"]:
        for folder, folders, files in os.walk(os.path.join(root, top)):
            folders[:] = [f for f in folders if f not in ("corpus", "golden", "results", "__pycache__")]
            relative = os.path.relpath(folder, root)
            sources = sorted(f for f in files if SOURCE.search(f))
            lists = ""
            if "CMakeLists.txt" in files:
                lists = expand_foreach(read(root, os.path.join(relative, "CMakeLists.txt")))
                if re.search(r"\bfile\s*\(\s*GLOB", lists, re.IGNORECASE):
                    violations.append("%s/CMakeLists.txt: list the sources, no GLOB" % relative)
            elif any(f.endswith((".cc", ".cu")) for f in sources):
                violations.append("%s: has sources but no CMakeLists.txt" % relative)
            if top != "tests" and len(sources) > MAX_FILES:
                violations.append("%s: %d files, more than %d: make rooms" % (relative, len(sources), MAX_FILES))
            for name in sources:
                path = os.path.join(relative, name)
                text = read(root, path)
                check_source(root, path, text, lists, violations.append, warnings.append)
                words.check(path, text.split("\n"), violations.append)
                if top not in TOP:
                    continue
                for number, line in enumerate(text.split("\n"), 1):
                    match = INCLUDE.match(line)
                    if match:
                        layers.check_include(path, number, match.group(1), match.group(2), violations.append)
                if top != "base" or relative != "base":
                    threads.check(path, text, violations.append)
    threads.finish(violations.append)
    check_pages(root, violations.append)
    return violations, warnings


BAD = {
    "docs/architecture.md": """
| folder | what it is | may include | libraries |
|---|---|---|---|
| `base/` | | | xxHash |
| `proto/` | | `base` | |
| `kernels/` | | `base` | |
| `kernels/cpu/` | | `base` `kernels` | oneDNN |
| `kernels/cuda/` | | `base` `kernels` | CUDA |
| `transport/ucx/` | | `base` | UCX |
| `store/` | | `base` `proto` | |
| `store/engine/` | | `base` `proto` | RocksDB |
| `store/embedded/` | | `store` `store/engine` | |
| `worker/model/` | | `base` `kernels` | |
| `worker/encode/` | | `worker/model` `proto` `store/store.h` | |
| `worker/infer/` | | as `worker/encode` | |
| `worker/cli/` | | everything | |
""",
    "docs/glossary.md": """
| word | what it is | retired |
|---|---|---|
| `max_` | the upper limit | `kMost*`, `to be had` |
""",
    "README.md": "wide " * 40 + "\n| " + "wide " * 40 + "\n```\n" + "wide " * 40 + "\n```\n",
    "docs/threads.md": """
| thread | started by | does | may block on | locks |
|---|---|---|---|---|
| `known` | | | | |
| `gone` | | | | |
""",
    "store/engine/CMakeLists.txt": "foreach(name a z)\n  kvlink_library(${name} SOURCES ${name}.cc)\nendforeach()\n",
    "store/engine/a.cc": '#include <rocksdb/db.h>\n#include "kernels/kernels.h"\n',
    "store/engine/b.cc": "\n",
    "store/engine/threads.h": '#ifndef KVLINK_STORE_ENGINE_THREADS_H_\nstd::thread a;\nThread b("known", [] {});\nthreads.emplace_back("other", [] {});\n'
                              'C() : thread_("third", [this] {}) {}\npthread_create();\n'
                              'worker_({.name = "fourth"}), w(Worker::Options{\n    .name = "fifth"})\n',
    "store/embedded/e.h": '#ifndef WRONG\n#include <rocksdb/db.h>\n#include "worker/model/model.h"\n#include "store/engine/engine_impl.h"\n',
    "store/engine/engine.h": '#ifndef KVLINK_STORE_ENGINE_ENGINE_H_\n#include "store/engine/types.h"\n#include "store/engine/engine_impl.h"\n',
    "base/c.h": '#ifndef KVLINK_BASE_C_H_\n#include "proto/formats.h"\n#include "near.h"\nstd::thread thread;\n',
    "base/table.inc": '#include "proto/formats.h"\n' + "\n" * 800,
    "base/cites.h": "#ifndef KVLINK_BASE_CITES_H_\n// As the design, section 5, and design section 2 say.\n// docs/gone.md, threads.md\nx = \"a.md\";\n"
                    "const int kMostBytes = 1;  // to be had, unkMostBytes\n",
    "base/clock_user.h": "#ifndef KVLINK_BASE_CLOCK_USER_H_\nabsl::Now();\n",
    "kernels/k.h": '#ifndef KVLINK_KERNELS_K_H_\n#include <dnnl.hpp>\n#  include <cuda_runtime.h>\n#include "kernels/cpu/cpu.h"\n',
    "worker/model/CMakeLists.txt": "file(GLOB sources *.cc)\n",
    "worker/model/m.h": '#ifndef KVLINK_WORKER_MODEL_M_H_\n#include "store/store.h"\n#include <ucp/api/ucp.h>\n',
    "worker/infer/i.cc": '#include "store/engine/a.h"\n#include "worker/cli/c.h"\n#include "worker/model/m.h"\n',
    "proto/long.h": "#ifndef KVLINK_PROTO_LONG_H_\n" + "\n" * 800,
    "base/ruler.h": "#ifndef KVLINK_BASE_RULER_H_\n  // --- reading\n  // " + "-" * 90 + "\n",
    "base/table.h": "#ifndef KVLINK_BASE_TABLE_H_\n//   first   " + "w" * 90 + "\n//   torn\n//           rest of the first\n",
    # What is allowed, beside what is not.
    "worker/cli/c.h": '#ifndef KVLINK_WORKER_CLI_C_H_\n#include "store/embedded/e.h"\n#include "kernels/cpu/cpu.h"\n#include "worker/infer/i.h"\n',
    "worker/encode/f.h": '#ifndef KVLINK_WORKER_ENCODE_F_H_\n#include "store/store.h"\n#include "proto/formats.h"\n#include <vector>\n',
}
BAD.update(("bench/crowded/%d.h" % number, "\n") for number in range(MAX_FILES + 1))
BAD.update(("tests/crowded/%d.h" % number, "\n") for number in range(MAX_FILES + 1))
EXPECTED = [
    "store/engine/a.cc:2: store/engine may not include kernels/kernels.h",
    "store/engine/b.cc: not listed in store/engine/CMakeLists.txt",
    "store/engine/threads.h:2: threads are started by base/thread.h alone",
    "store/engine/threads.h:4: the thread other is not in docs/threads.md",
    "store/engine/threads.h:5: the thread third is not in docs/threads.md",
    "store/engine/threads.h:6: threads are started by base/thread.h alone",
    "store/engine/threads.h:7: the thread fourth is not in docs/threads.md",
    "store/engine/threads.h:7: the thread fifth is not in docs/threads.md",
    "docs/threads.md: no thread is named gone",
    "README.md:1: 200 columns, more than 160",
    "store/embedded/e.h: the include guard is not KVLINK_STORE_EMBEDDED_E_H_",
    "store/embedded/e.h:2: <rocksdb/db.h> is of RocksDB, which may be included only in store/engine",
    "store/embedded/e.h:3: store/embedded may not include worker/model/model.h",
    "store/embedded/e.h:4: store/engine/engine_impl.h is for its own folder",
    "store/engine/engine.h:3: store/engine/engine.h is an interface, and may not include store/engine/engine_impl.h",
    "base/c.h:2: base may not include proto/formats.h",
    'base/c.h:3: include "near.h" by its path from the root',
    "base/table.inc:1: base may not include proto/formats.h",
    "base/cites.h:2: cites a design that is not in the tree",
    "base/cites.h:3: cites docs/gone.md, which is not in the tree",
    "base/cites.h:5: kMostBytes is retired: say max_ (docs/glossary.md)",
    "base/cites.h:5: to be had is retired: say max_ (docs/glossary.md)",
    "base/clock_user.h:2: the wall clock may be set back: take SteadyNow() (base/clock.h)",
    "bench/crowded: %d files, more than %d: make rooms" % (MAX_FILES + 1, MAX_FILES),
    "kernels/k.h:2: <dnnl.hpp> is of oneDNN, which may be included only in kernels/cpu",
    "kernels/k.h:3: <cuda_runtime.h> is of CUDA, which may be included only in kernels/cuda",
    "kernels/k.h:4: kernels may not include kernels/cpu/cpu.h",
    "worker/model/CMakeLists.txt: list the sources, no GLOB",
    "worker/model/m.h:2: worker/model may not include store/store.h",
    "worker/model/m.h:3: <ucp/api/ucp.h> is of UCX, which may be included only in transport/ucx",
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
