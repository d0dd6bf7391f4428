#!/usr/bin/env python3
"""The commands of README.md, CONTRIBUTING.md and docs/*.md, so that they stay true. commands_test.py parse|run FOLDER_OF_BINARIES

parse  every line of a ``` block that begins with kvlink, kvlink-store, kvlink-train or make is read as a shell reads it and given to the program with
       --help behind it, which parses what is before; so are the options in `inline` commands. Targets of make must exist.
run    those lines of kvlink run, in order, page by page, in a folder that has what they name; all but those of SKIPPED. Skips (77) without the model.
"""
import glob
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
PATIENCE = 300  # seconds
PROGRAMS = ("kvlink", "kvlink-store", "kvlink-train")

# Lines that do not run here, by what they contain, and why.
SKIPPED = [
    (r"etcd-1|--cluster|KVLINK_STORE=", "names a cluster's hosts; cli_cluster_test runs these commands"),
    (r"10\.0\.0\.5|/var/lib/kvlink", "names an address or a folder of another machine"),
    (r"^kvlink serve\b", "serves until it is stopped; serve_test and serve_clients_test run it"),
    (r"--watch\b", "goes on until it is stopped"),
    (r"^kvlink eval\b", "answers for minutes or hours, or asks a public data set; cli_eval_test runs the command"),
    (r"^kvlink-train\b", "trains for minutes; the tests of worker/train run it"),
    (r"tuned|mine\.json", "needs what kvlink-train would have written"),
    (r"corpus\.jsonl", "a corpus of the reader's; other lines ingest documents"),
]


def pages():
    names = ["README.md", "CONTRIBUTING.md"] + sorted("docs/" + os.path.basename(path) for path in glob.glob(os.path.join(ROOT, "docs", "*.md")))
    for name in names:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            yield name, file.read()


def words_of(line):
    """The words of the first command of a line, up to a pipe, a redirection or a comment; None if a quotation is still open."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = []
    try:
        for word in lexer:
            if word[0] in "|&;<>":
                break
            words.append(word)
    except ValueError:
        return None
    return words


def commands(text):
    """(number of the line, words) of the lines of ``` blocks without a language, joined where they go on."""
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if block.group(1):
            continue
        number, pending = text.count("\n", 0, block.start()) + 1, ""
        for line in block.group(2).split("\n"):
            number += 1
            pending += line
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            if pending.startswith(" "):  # a drawing
                pending = ""
                continue
            words = words_of(pending)
            if words is None:
                pending += "\n"
                continue
            pending = ""
            if words and (words[0] in PROGRAMS or words[0] == "make"):
                yield number, words


def inline_commands(text):
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for found in re.finditer(r"`((?:%s) [^`]+)`" % "|".join(PROGRAMS), text):
        yield found.group(1).split()


def show(words):
    return " ".join(shlex.quote(word) for word in words)


class Parsing:
    def __init__(self, folder):
        self.folder, self.failures, self.counted, self.helps = folder, [], 0, {}
        with open(os.path.join(ROOT, "Makefile"), encoding="utf-8") as file:
            self.targets = set(re.findall(r"^([a-z][a-z-]*):", file.read(), re.MULTILINE))

    def binary(self, name):
        path = os.path.join(self.folder, name)
        return path if os.path.exists(path) else None  # kvlink-train is optional

    def run(self, words):
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL)

    def help_of(self, program, command):
        if (program, command) not in self.helps:
            self.helps[program, command] = self.run([self.binary(program), command, "--help"])
        return self.helps[program, command]

    def check_line(self, where, words):
        if words[0] == "make":
            unknown = [word for word in words[1:] if "=" not in word and word not in self.targets]
            if unknown:
                self.failures.append(f"{where}: {show(words)}: no target {unknown[0]}")
        elif self.binary(words[0]) is not None:
            given = [word for word in words[1:] if word != "..."]
            done = self.run([self.binary(words[0]), *given, "--help"])
            if done.returncode != 0 or not done.stdout.startswith("Usage: "):
                self.failures.append(f"{where}: {show(words)}: {done.stderr.strip()}")
        self.counted += 1

    def check_inline(self, where, words):
        program, command = words[0], words[1]
        if not re.fullmatch(r"[a-z+-]+", command) or command.startswith("-") or self.binary(program) is None:
            return  # `kvlink COMMAND ...`
        done = self.help_of(program, command)
        if done.returncode != 0:
            self.failures.append(f"{where}: `{' '.join(words)}`: {done.stderr.strip()}")
            return
        for option in re.findall(r"--[a-z][a-z0-9-]*", " ".join(words)):
            if not re.search(re.escape(option) + r"(?![\w-])", done.stdout):
                self.failures.append(f"{where}: `{' '.join(words)}`: {command} has no {option}")
        self.counted += 1


def parse(folder):
    parsing = Parsing(folder)
    for page, text in pages():
        for number, words in commands(text):
            parsing.check_line(f"{page}:{number}", words)
        for words in inline_commands(text):
            parsing.check_inline(page, words)
    print("\n".join(parsing.failures))
    print(f"{parsing.counted} commands, {len(parsing.failures)} failures")
    assert parsing.counted > 60, "the pages have more commands than were found"
    return 1 if parsing.failures else 0


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Workplace:
    """A folder that has what the lines name: two of the demo's documents, the model and its profile; and a port in place of 7400."""

    def __init__(self, folder, binaries):
        self.folder, self.binaries, self.port, self.nodes = folder, binaries, free_port(), []
        self.environment = {**os.environ, "HOME": folder, "KVLINK_STORE": os.path.join(folder, "store"), "KVLINK_MODEL": MODEL}
        os.makedirs(os.path.join(folder, "deploy/demo"))
        for name in ("models", "deploy/profiles"):
            os.symlink(os.path.join(ROOT, name), os.path.join(folder, name))
        with open(os.path.join(ROOT, "deploy/demo/documents.jsonl"), encoding="utf-8") as file:
            few = [line for line in file if json.loads(line)["id"] in ("moon", "mars")]
        for name in ("deploy/demo/documents.jsonl", "documents.jsonl"):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.writelines(few)

    def here(self, word):
        word = word.replace("127.0.0.1:7400", f"127.0.0.1:{self.port}")
        return os.path.join(self.folder, word[2:]) if word.startswith("~/") else word

    def run(self, words):
        """What went wrong, or None. A node is left running."""
        words = [os.path.join(self.binaries, words[0])] + [self.here(word) for word in words[1:]]
        if words[1] == "store":
            node = subprocess.Popen(words, cwd=self.folder, env={**self.environment, "KVLINK_STORE": os.path.join(self.folder, "node")},
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.nodes.append(node)
            return None if json.loads(node.stdout.readline())["created"] else "the node has no store of its own"
        done = subprocess.run(words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=PATIENCE)
        if done.returncode == 0 and done.stdout == "" and "--directory" not in words:
            return "printed nothing"
        return None if done.returncode == 0 else f"status {done.returncode}: {done.stderr.strip()}"

    def end(self):
        for node in self.nodes:
            node.send_signal(signal.SIGTERM)
            node.wait(PATIENCE)


def run_page(page, text, binaries, ran):
    failures, lines = [], []
    for number, words in commands(text):
        if words[0] == "make":
            continue  # the tests are part of make test; the demos build and install
        line = show(words)
        reason = next((why for pattern, why in SKIPPED if re.search(pattern, line)), None)
        if reason is None:
            lines.append((number, words, line))
        else:
            print(f"{page}:{number}: not run, {reason}: {line}")
    if not lines:
        return failures
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(folder, binaries)
        try:
            if place.run(["kvlink", "ingest", "documents.jsonl"]) is not None:
                return [f"{page}: the documents cannot be ingested"]
            for number, words, line in lines:
                begin = time.monotonic()
                failure = place.run(words)
                ran.append(line)
                print(f"{page}:{number}: {failure or 'ok'}, {time.monotonic() - begin:.1f} s: {line}", flush=True)
                if failure is not None:
                    failures.append(line)
        finally:
            place.end()
    return failures


def run(folder):
    if not os.path.exists(MODEL):
        print(f"skipped: {MODEL} is missing (deploy/install-deps.sh fetches it)")
        return 77
    ran, failures = [], []
    for page, text in pages():
        failures += run_page(page, text, folder, ran)
    print(f"{len(ran)} commands run, {len(failures)} failures")
    assert len(ran) > 15, "the pages have more commands than were run"
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit({"parse": parse, "run": run}[sys.argv[1]](os.path.abspath(sys.argv[2])))
