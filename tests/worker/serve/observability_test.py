#!/usr/bin/env python3
"""The dashboard and the alert rules of deploy/observability, and the tables of metrics in docs/, against what real processes report:
observability_test.py KVLINK_BINARY MODEL. A server in front of a node and, where etcd is installed, a member of a cluster. Metrics of a cluster's
database are looked up in the source. promtool checks the syntax of the queries where it is installed (Debian: prometheus)."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PATIENCE = 120  # seconds
SELECTOR = re.compile(r"\b(kvlink_\w+|up\b)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
TARGET_LABELS = {"instance", "job", "le"}  # given by Prometheus, or of a histogram
OPEN_LABELS = {"status", "route", "namespace"}  # whose values are not all there at once
ONCE_THERE_ARE_SOME = {"kvlink_transport_closes_total"}  # metrics that are not reported before
failures = []


def check(holds, what):
    if not holds:
        failures.append(what)


def text_of(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


class Metrics:
    """What was scraped: the labels of each name, with their values, and the names of families."""

    def __init__(self):
        self.labels, self.families = {}, set()

    def add(self, page):
        for line in page.splitlines():
            if line.startswith("# TYPE "):
                self.families.add(line.split()[2])
            elif line and not line.startswith("#"):
                name, labels = re.match(r"(\w+)(?:\{(.*)\})? ", line).groups()
                known = self.labels.setdefault(name, {})
                for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or ""):
                    known.setdefault(label, set()).add(value)

    def scrape(self, url):
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            self.add(answer.read().decode())


def ready(process):
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise AssertionError("the process ended before it was ready")


def unused_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Processes:
    def __init__(self, folder, environment):
        self.folder, self.environment, self.running = folder, environment, []

    def start(self, *words):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            process = subprocess.Popen(words, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True)
        self.running.append(process)
        return process

    def node(self, kvlink, name, *more):
        return ready(self.start(kvlink, "store", "--store", os.path.join(self.folder, name), "--listen", f"127.0.0.1:{unused_port()}", "--memory", "128M",
                                "--capacity", "1G", "--metrics", "127.0.0.1:0", *more))

    def stop(self):
        for process in reversed(self.running):
            process.terminate()
        for process in self.running:
            process.wait(PATIENCE)


def ask(url, path, body, method="POST"):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def scrape_member(kvlink, processes, metrics):
    """A member of a cluster without a database, if there is etcd. Whether there is."""
    if not shutil.which("etcd"):
        print("skipped: no etcd, so metrics of a cluster are looked up in the source")
        return False
    client, peer = (f"http://127.0.0.1:{unused_port()}" for _ in range(2))
    processes.start("etcd", "--name", "one", "--data-dir", os.path.join(processes.folder, "etcd"), "--listen-client-urls", client, "--advertise-client-urls",
                    client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}", "--log-level", "error")
    cluster = client[len("http://"):]
    until = time.monotonic() + PATIENCE
    while subprocess.run([kvlink, "cluster", "create", "--cluster", cluster, "--copies", "1", "--acknowledged", "1"], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, check=False).returncode != 0:
        assert time.monotonic() < until, "no cluster can be created"
        time.sleep(0.2)
    metrics.scrape(f"http://{processes.node(kvlink, 'member', '--cluster', cluster)['metrics']}/metrics")
    return True


def scrape_all(kvlink, model):
    """(of the server, of nodes)"""
    server_metrics, node_metrics = Metrics(), Metrics()
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(folder, {**os.environ, "KVLINK_MODEL": model, "UCX_NET_DEVICES": "lo"})
        try:
            node = processes.node(kvlink, "node")
            url = ready(processes.start(kvlink, "serve", "--store", node["grpc"], "--listen", "127.0.0.1:0", "--max-tokens", "4"))["url"]
            ask(url, "/v1/documents/mars", {"title": "Mars", "text": "Mars has two moons, Phobos and Deimos."}, "PUT")
            question = {"model": os.path.basename(model)[:-len(".gguf")], "messages": [{"role": "user", "content": "Which moons?"}],
                        "documents": [{"id": "mars"}]}
            ask(url, "/v1/chat/completions", question)
            server_metrics.scrape(url + "/metrics")
            node_metrics.scrape(f"http://{node['metrics']}/metrics")
            member = scrape_member(kvlink, processes, node_metrics)
        finally:
            processes.stop()
    read = server_metrics.labels["kvlink_serve_phase_seconds_count"]
    assert {"catalog", "lookup", "load", "link", "decode"} <= read["phase"], read
    add_cluster(node_metrics, member)
    return server_metrics, node_metrics


def add_cluster(metrics, member):
    """The metrics of a cluster in the source: those of its database, and all if there was no `member`. It has to report all others."""
    source = text_of("store", "cluster", "node", "figures.cc")
    tables = re.split(r"constexpr FigureRow<\w+> (\w+)\[\]", source)
    for name, rows in zip(tables[1::2], tables[2::2]):
        for metric, labels in re.findall(r'\{\{"\w+", k\w+, "(\w+)", "([^"]*)"', rows):
            if member and name != "kDropRows":
                check(f"kvlink_{metric}" in metrics.labels, f"kvlink_{metric} is not reported by a member")
            known = metrics.labels.setdefault(f"kvlink_{metric}", {})
            for label, value in re.findall(r"(\w+)=(\w+)", labels):
                known.setdefault(label, set()).add(value)
            metrics.families.add(f"kvlink_{metric}")


def queries():
    """(where, query) of the dashboard and the rules."""
    found = []
    for panel in json.loads(text_of("deploy", "observability", "dashboard.json"))["panels"]:
        for target in panel.get("targets", []):
            found.append((f"panel '{panel['title']}'", target["expr"].replace("$__rate_interval", "5m"), target["legendFormat"]))
    rules = re.findall(r"- alert: (\w+)\n\s+expr: '(.*)'\n", text_of("deploy", "observability", "alerts.yml"))
    found += [(f"alert {name}", expr, "") for name, expr in rules]
    assert len(rules) == text_of("deploy", "observability", "alerts.yml").count("expr:") > 10
    return found


def check_query(where, query, legend, labels_of):
    names = [name for name, _ in SELECTOR.findall(query) if name != "up"]
    check(names or "up{" in query, f"{where}: reads no metric of ours: {query}")
    known = set(TARGET_LABELS)
    for name, matchers in SELECTOR.findall(query):
        if name == "up":
            continue
        if name not in labels_of:
            check(False, f"{where}: there is no metric {name}")
            continue
        known |= set(labels_of[name])
        for label, operator, value in MATCHER.findall(matchers):
            values = labels_of[name].get(label)
            check(values is not None, f"{where}: {name} has no label {label}")
            if values is None or label in OPEN_LABELS:
                continue
            for one in value.split("|") if "~" in operator else [value]:
                check(one in values, f"{where}: {name} has no {label}=\"{one}\", but {sorted(values)}")
    for group in re.findall(r"\b(?:by|without|on|ignoring) \(([^)]*)\)", query):
        for label in re.split(r",\s*", group):
            check(label in known, f"{where}: no metric has the label {label}: {query}")
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        check(label in known, f"{where}: the legend names a label {label} that no metric has")
    if "histogram_quantile" in query:
        check("_bucket" in query and re.search(r"by \([^)]*\ble\b", query), f"{where}: a quantile needs the buckets, by le: {query}")


def check_syntax(found):
    promtool = shutil.which("promtool")
    if promtool is None:
        print("skipped: no promtool, so the syntax of queries is not checked")
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as file:
        file.write("groups:\n  - name: dashboard\n    rules:\n")
        for number, (_, query, _) in enumerate(found):
            file.write(f"      - record: query_{number}\n        expr: '{query}'\n")
        file.flush()
        for path in (file.name, os.path.join(ROOT, "deploy", "observability", "alerts.yml")):
            ran = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
            check(ran.returncode == 0, f"promtool: {ran.stdout}{ran.stderr}")


def anchors(document):
    """Of its headings, as they are linked to."""
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text_of(document), re.MULTILINE)}


def check_runbooks():
    rules = text_of("deploy", "observability", "alerts.yml")
    runbooks = re.findall(r"runbook: (\S+)#(\S+)\n", rules)
    check(len(runbooks) == rules.count("- alert:"), "each alert names a section of the documentation")
    for document, anchor in runbooks:
        check(anchor in anchors(document), f"{document} has no section {anchor}")


def check_serving(metrics):
    """The table of docs/serving.md and the server: what one has, the other has, too."""
    table = text_of("docs", "serving.md").split("| metric | meaning |\n")[1].split("\n\n")[0]
    described = set()
    for row in table.splitlines()[1:]:
        for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", row.split("|")[1]):
            described.add(f"kvlink_serve_{name}")
            real = next((metrics.labels[full] for full in (f"kvlink_serve_{name}", f"kvlink_serve_{name}_count") if full in metrics.labels), {})
            check(set(labels.split(",") if labels else []) == set(real), f"docs/serving.md: labels of {name}: {labels}, but {sorted(real)}")
    for name in sorted(described - metrics.families):
        check(False, f"docs/serving.md: there is no metric {name}")
    for name in sorted(metrics.families - described):
        check(False, f"docs/serving.md: does not describe {name}")


def check_operations(metrics):
    for document in ("operations.md", "cluster.md"):
        text = text_of("docs", document)
        table = re.search(r"^\| look at \| when \|\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
        cells = [row.split("|")[1] for row in table.group(1).splitlines()] if table else []
        named = re.findall(r"\bkvlink_[a-z_]*[a-z]\b", text) + [f"kvlink_{one}" for cell in cells for one in re.findall(r"`(cluster_\w+)`", cell)]
        for name in set(named) - ONCE_THERE_ARE_SOME:
            check(name in metrics.labels or name in metrics.families, f"docs/{document}: there is no metric {name}")


def main():
    kvlink, model = sys.argv[1:]
    if not os.path.exists(model):
        print("skipped: no model")
        sys.exit(77)
    found = queries()
    check_syntax(found)
    check_runbooks()
    server, nodes = scrape_all(kvlink, model)
    for where, query, legend in found:
        check_query(where, query, legend, {**nodes.labels, **server.labels})
    check_serving(server)
    check_operations(nodes)
    for failure in failures:
        print(failure)
    print(f"{len(found)} queries, {len(failures)} mistakes")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
