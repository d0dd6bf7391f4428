#!/usr/bin/env python3
"""kvlink serve under a trace of requests, as clients see it.

  bench/serve_trace.py [mixed] [compare] [--nodes 2] [--minutes 10] [--clients 64] [--llama-server PATH] [--json FILE] [--smoke]

mixed: clients ask for streamed greedy answers about documents, some of which are asked for much more often than others, while documents are deleted and
put again, the nodes evict what they hold, and one node of two is killed and comes back. Afterwards each request is asked once more, alone: its answers
must be the same, or part first where the two likeliest tokens lie within 0.1. A request whose document is deleted at the moment may be refused (404);
nothing else may fail. Prints times to first token and per token, tokens a second, and how the server's memory grows.

compare: the same requests, in turns, to the server, to the same server without reuse (linker full), and to llama.cpp's server with its prompt cache
(--llama-server, or the Python package llama_cpp). Then texts that nobody has sent before, beside a plain prefill of the same text.

The exit status is 1 if an answer failed or differs; how fast they were is only printed.
"""
import argparse
import collections
import itertools
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
import urllib.parse

from serve_load import TOP_TWO, Client, Kvlink, Plain, Texts, Trace, first_difference, on_threads, play
from serve_site import Site

NEAR = 0.1  # of the top two's log probabilities
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def progress(text):
    if sys.stderr.isatty():
        print(f"\r{text:100}\r", end="", file=sys.stderr, flush=True)


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Figures:
    def __init__(self):
        self.all = []

    def add(self, name, value, unit, target=None, met=None):
        self.all.append({"name": name, "value": value, "unit": unit, "target": target, "met": met})
        verdict = "" if met is None else f"   target {target:g}: {'met' if met else 'MISSED'}"
        print(f"{name:64}{value:12.4g} {unit}{verdict}", flush=True)

    def add_quantiles(self, name, values, unit):
        if values:
            ordered = sorted(values)
            for percent in (50, 95, 99):
                self.add(f"{name}, p{percent}", ordered[min(len(ordered) * percent // 100, len(ordered) - 1)], unit)


class Mixed:
    """Clients, what disturbs them, and what they were answered."""

    def __init__(self, args, site, url, model, trace):
        self.args, self.site, self.trace = args, site, trace
        self.server = Kvlink("kvlink", url, model)
        self.over = threading.Event()
        self.answers = []  # (number of the request, answer, when it ended)
        self.failures = collections.Counter()
        self.done = collections.Counter()  # to the documents and nodes
        self.deleted = []  # [id, from, to]
        self.memory = []  # (seconds, bytes)
        self.more = {}
        status, text = Client(url).call("POST", "/v1/chat/completions", self.server.named(trace, 0, 1, **TOP_TWO))
        if status == 200 and json.loads(text)["choices"][0].get("logprobs"):
            self.more = TOP_TWO

    def run(self):
        roles = [self.time, self.watch, self.disturb, self.kill]
        on_threads(len(roles) + self.args.clients, lambda number: roles[number]() if number < len(roles) else self.ask(number))

    def time(self):
        began, length = time.monotonic(), self.args.minutes * 60
        while (passed := time.monotonic() - began) < length:
            progress(f"{passed:.0f} of {length:.0f} s, {len(self.answers)} answers, {dict(self.failures)}")
            time.sleep(min(1, length - passed))
        self.over.set()

    def ask(self, seed):
        chance, client = random.Random(f"{self.args.seed}/{seed}"), Client(self.server.url)
        while not self.over.is_set():
            number = chance.randrange(len(self.trace.requests))
            answer = client.ask(self.server.named(self.trace, number, self.args.tokens, **self.more))
            ended = time.monotonic()
            self.answers.append((number, answer, ended))
            if answer.failure and not self.was_deleted(number, answer, ended):
                self.failures[answer.failure] += 1
                self.over.wait(0.2)
        client.close()

    def was_deleted(self, number, answer, ended):
        """Refused because of a document that was not there for a part of that time."""
        names = self.trace.names(number)
        return answer.failure == "status 404" and any(one in names and begin <= ended and end >= answer.began for one, begin, end in list(self.deleted))

    def watch(self):
        while not self.over.wait(self.args.pause / 4):
            self.memory.append((time.monotonic(), self.site.server.memory()))

    def call(self, method, document, wanted):
        body = {"title": document["title"], "text": document["text"]} if method == "PUT" else None
        status, text = Client(self.server.url).call(method, "/v1/documents/" + urllib.parse.quote(document["id"]), body)
        if status not in wanted:
            self.failures[f"{method} of a document: {status} {text[:100]}"] += 1
        self.done[method] += 1

    def disturb(self):
        chance = random.Random(self.args.seed)
        for step in itertools.cycle(["delete", "evict", "put"]):
            if self.over.wait(self.args.pause):
                return
            if step == "evict":
                self.done["evictions"] += self.site.evict()
                continue
            chosen = chance.sample(self.trace.documents, max(1, len(self.trace.documents) // 8))
            windows = [[one["id"], time.monotonic(), float("inf")] for one in chosen if step == "delete"]
            self.deleted += windows
            for one in chosen if step == "delete" else []:
                self.call("DELETE", one, [200])
            self.over.wait(self.args.pause / 2 if step == "delete" else 0)
            for one in chosen:
                self.call("PUT", one, [200, 201])
            for window in windows:
                window[2] = time.monotonic()

    def kill(self):
        length = self.args.minutes * 60
        if self.args.nodes < 2 or self.over.wait(length * 0.4):
            return
        self.site.nodes[1].kill()
        self.done["kills"] += 1
        self.over.wait(length * 0.2)
        self.site.nodes[1] = self.site.start_node(1)

    def compare_alone(self):
        """How many answers are the same, part where the top two are near, and part elsewhere or where nobody says how near."""
        for one in self.trace.documents:
            self.call("PUT", one, [200, 201])
        client, counts, alone = Client(self.server.url), collections.Counter(), {}
        given = [(number, answer) for number, answer, _ in self.answers if not answer.failure]
        for number, answer in given:
            if number not in alone:
                progress(f"alone: {len(alone)} requests")
                alone[number] = client.ask(self.server.named(self.trace, number, self.args.tokens, **self.more))
                if alone[number].failure:
                    self.failures["alone: " + alone[number].failure] += 1
            difference = first_difference(alone[number], answer)
            if difference is None:
                counts["same"] += 1
            else:
                counts["unknown" if difference[0] is None else "near" if difference[0] <= NEAR else "far"] += 1
        client.close()
        return counts

    def report(self, figures):
        counts = self.compare_alone()
        good = [answer for _, answer, _ in self.answers if not answer.failure]
        gone = sum(self.was_deleted(*one) for one in self.answers)
        progress("")
        for kind, count in self.failures.most_common():
            print(f"failed: {count} x {kind}")
        print(f"meanwhile: {dict(self.done)}")
        figures.add("mixed: answers", len(good), "")
        figures.add("mixed: failures", self.failures.total(), "", 0, self.failures.total() == 0)
        figures.add("mixed: refused since a document was deleted at the moment", gone, "")
        figures.add("mixed: answers as alone", counts["same"] / max(len(good), 1) * 100, "%")
        figures.add("mixed: differ where the top two lie within 0.1", counts["near"], "")
        figures.add("mixed: differ elsewhere", counts["far"], "", 0, counts["far"] == 0)
        if counts["unknown"]:
            figures.add("mixed: differ, and the server does not say where", counts["unknown"], "")
        figures.add_quantiles("mixed: time to first token", [one.first_token_ms for one in good], "ms")
        figures.add_quantiles("mixed: time per token", [one.token_ms for one in good if one.count > 1], "ms")
        figures.add("mixed: answers' tokens", sum(one.count for one in good) / (self.args.minutes * 60), "tokens/s")
        self.report_memory(figures)
        return self.failures.total() == 0 and counts["far"] == 0 and good

    def report_memory(self, figures):
        second = self.memory[len(self.memory) // 2:]
        if len(second) < 2:
            return
        seconds, sizes = zip(*second)
        slope = statistics.linear_regression(seconds, sizes).slope
        grown = slope * (seconds[-1] - seconds[0]) / statistics.mean(sizes) * 100
        figures.add("mixed: server's memory", statistics.mean(sizes) / 2**20, "MiB")
        figures.add("mixed: its slope in the second half", slope * 60 / 2**20, "MiB/min")
        figures.add("mixed: its growth in the second half", grown, "%", *(() if self.args.smoke else (2, grown <= 2)))


def run_mixed(args, figures):
    documents = lines_of(args.documents)
    if args.smoke:
        documents = [{**one, "text": " ".join(one["text"].split()[:60])} for one in documents[:6]]
    trace = Trace(documents, [one["question"] for one in lines_of(args.questions)], args.requests, args.most, args.seed)
    with Site(args.kvlink, args.model, args.nodes, args.threads, "160M") as site:
        site.ingest(documents)
        mixed = Mixed(args, site, *site.serve("--max-waiting", "1024"), trace)
        mixed.run()
        return mixed.report(figures)


class Compare:
    def __init__(self, args, site, trace, texts):
        self.args, self.site, self.trace, self.texts = args, site, trace, texts
        self.url, self.model = site.serve("--private-tokens", "32768")
        self.servers = [Kvlink("kvlink", self.url, self.model), Kvlink("full", self.url, self.model, linker="full")]
        llama = site.llama(args.llama_server, args.llama_model or args.model, 4096, args.players)
        if llama:
            self.servers.append(Plain("llama.cpp", llama, self.model))
        self.failed = 0

    def keep(self, answers):
        good = [one for one in answers if not one.failure]
        for one in answers:
            if one.failure:
                print(f"failed: {one.failure} {one.text[:200]}")
        self.failed += len(answers) - len(good)
        return good

    def known(self, figures):
        """Each round has requests of its own, in turns; the first one warms up."""
        first, seconds, count = (collections.defaultdict(float) for _ in range(3))
        times = collections.defaultdict(list)
        for turn in range(self.args.rounds + 1):
            numbers = [(turn * self.args.block + i) % len(self.trace.requests) for i in range(self.args.block)]
            for server in self.servers if turn % 2 == 0 else reversed(self.servers):
                progress(f"compare: round {turn} of {self.args.rounds}, {server.name}")
                answers, took = play(server.url, [server.named(self.trace, number, self.args.tokens) for number in numbers], self.args.players)
                good = self.keep(answers)
                if turn > 0:
                    times[server.name] += [one.first_token_ms for one in good]
                    seconds[server.name] += took
                    count[server.name] += len(good)
        progress("")
        if self.failed:
            return
        for server in self.servers:
            first[server.name] = statistics.median(times[server.name])
            figures.add(f"compare: {server.name}, time to first token, median", first[server.name], "ms")
            figures.add(f"compare: {server.name}, requests", count[server.name] / seconds[server.name], "requests/s")
        for server in self.servers[1:]:
            faster = first[server.name] / first["kvlink"]
            more = seconds[server.name] / seconds["kvlink"]
            figures.add(f"compare: time to first token against {server.name}", faster, "x", 5, faster >= 5)
            figures.add(f"compare: requests a second against {server.name}", more, "x", 2, more >= 2)

    def unseen(self, figures):
        """One at a time, and each text once with and once without reuse, either one first."""
        client, times = Client(self.url), collections.defaultdict(list)
        for turn in range(self.args.pairs + 1):
            documents = [{name: one[name] for name in ("title", "text")} for one in (self.texts.make(self.args.words) for _ in range(2))]
            for server in self.servers[:2] if turn % 2 == 0 else self.servers[1::-1]:
                progress(f"compare: unseen texts, {turn} of {self.args.pairs}")
                good = self.keep([client.ask(server.body(documents, self.trace.requests[0][1], self.args.tokens))])
                if turn > 0:
                    times[server.name] += [one.first_token_ms for one in good]
                time.sleep(0.5)  # what is stored afterwards is written
        client.close()
        progress("")
        if self.failed:
            return
        kvlink, full = (statistics.median(times[name]) for name in ("kvlink", "full"))
        figures.add("compare: unseen texts, time to first token, median", kvlink, "ms")
        figures.add("compare: unseen texts, of a plain prefill", full, "ms")
        overhead = (kvlink / full - 1) * 100
        figures.add("compare: unseen texts, overhead", overhead, "%", 5, overhead <= 5)


def run_compare(args, figures):
    texts = Texts(lines_of(args.documents), args.seed)
    documents = [texts.make(args.words) for _ in range(args.generated)]
    trace = Trace(documents, [one["question"] for one in lines_of(args.questions)], args.block * (args.rounds + 1), args.most, args.seed)
    with Site(args.kvlink, args.model, min(args.nodes, 1), args.threads, "1G") as site:
        site.ingest(documents)
        compare = Compare(args, site, trace, texts)
        compare.known(figures)
        compare.unseen(figures)
        return compare.failed == 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], "mixed", "compare"], metavar="WHAT", help="mixed or compare; default: both")
    parser.add_argument("--kvlink", default=os.path.join(ROOT, "build/release/bin/kvlink"))
    parser.add_argument("--model", default=os.path.join(ROOT, "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--nodes", type=int, choices=[0, 1, 2], default=1, help="0: a directory; 2: a cluster, with etcd and PostgreSQL")
    parser.add_argument("--documents", default=os.path.join(ROOT, "deploy/demo/documents.jsonl"), help="mixed: these; compare: made of their sentences")
    parser.add_argument("--questions", default=os.path.join(ROOT, "deploy/demo/questions.jsonl"))
    parser.add_argument("--tokens", type=int, default=8, help="of an answer, at most")
    parser.add_argument("--most", type=int, default=4, help="documents of a request")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10, help="of mixed")
    parser.add_argument("--clients", type=int, default=64, help="of mixed")
    parser.add_argument("--requests", type=int, default=128, help="of mixed that differ from each other")
    parser.add_argument("--pause", type=float, default=4, help="seconds between what disturbs mixed")
    parser.add_argument("--players", type=int, default=4, help="clients of compare")
    parser.add_argument("--rounds", type=int, default=3, help="of compare")
    parser.add_argument("--block", type=int, default=16, help="requests of a round of compare")
    parser.add_argument("--generated", type=int, default=16, help="documents of compare")
    parser.add_argument("--words", type=int, default=400, help="of a document of compare")
    parser.add_argument("--pairs", type=int, default=8, help="unseen texts of compare")
    parser.add_argument("--llama-server", default="", help="llama.cpp's server; if not given: the Python package's, if it is installed")
    parser.add_argument("--llama-model", default="", help="default: --model")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--smoke", action="store_true", help="a few seconds of each, for a test")
    args = parser.parse_args()
    for path in ("kvlink", "model", "llama_server", "llama_model"):  # processes have folders of their own
        if getattr(args, path):
            setattr(args, path, os.path.abspath(getattr(args, path)))
    if args.smoke:
        vars(args).update(minutes=0.08, clients=8, requests=12, pause=0.6, players=2, rounds=1, block=3, generated=4, words=60, pairs=1, tokens=4, most=2)
    return args


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not os.path.exists(args.model):
        print(f"skipped: no {args.model}")
        sys.exit(77)
    figures, right = Figures(), True
    for name, run in (("mixed", run_mixed), ("compare", run_compare)):
        if name in args.what or not args.what:
            right = bool(run(args, figures)) and right
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(figures.all, out, indent=1)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
