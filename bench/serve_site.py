"""The processes that serve_trace.py asks: kvlink serve over a directory, a node, or a cluster of two nodes with its etcd and PostgreSQL, and llama.cpp's
server. Everything that was started and written is gone when the site is closed."""
import contextlib
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

START = 120  # seconds for a process to be ready


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_until(what, ready, alive=lambda: True):
    until = time.monotonic() + START
    while not ready():
        if not alive() or time.monotonic() > until:
            raise RuntimeError(f"{what} does not start")
        time.sleep(0.05)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


class Process:
    """One of ours, whose output is kept in the site's folder."""

    def __init__(self, site, name, command, user=None):
        self.name, self.errors, self.output = name, os.path.join(site.folder, name + ".log"), os.path.join(site.folder, name + ".out")
        as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
        with open(self.output, "wb") as out, open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=site.environment,
                                            cwd=site.folder, **as_user)

    def alive(self):
        return self.process.poll() is None

    def ready(self):
        """The line of JSON that commands of kvlink print when they are ready."""
        def line():
            with open(self.output, encoding="utf-8") as file:
                return file.read()
        try:
            wait_until(self.name, lambda: line().endswith("\n"), self.alive)
        except RuntimeError as error:
            with open(self.errors, encoding="utf-8", errors="replace") as file:
                raise RuntimeError(f"{error}: {file.read()[-500:].strip()}") from None
        return json.loads(line())

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, how=signal.SIGTERM):
        if self.alive():
            self.process.send_signal(how)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    def memory(self):
        """Bytes of its own, without those of files."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))


class Site(contextlib.AbstractContextManager):
    """`nodes`: 0: a directory; 1: a node; 2: a cluster that keeps everything on both."""

    def __init__(self, kvlink, model, nodes, threads, memory):
        self.kvlink, self.model, self.threads, self.memory = kvlink, model, threads, memory
        self.folder = tempfile.mkdtemp(prefix="kvlink-serve-trace-")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("KVLINK_")}
        self.environment.update({"UCX_NET_DEVICES": os.environ.get("UCX_NET_DEVICES", "lo"), "UCX_MEM_EVENTS": "n"})
        self.stack = contextlib.ExitStack()
        self.stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.listen, self.nodes, self.server, self.cluster = [], [], None, ""
        try:
            self.place = self.open_place(nodes)
        except BaseException:
            self.stack.close()
            raise

    def __exit__(self, *_):
        self.stack.close()

    def start(self, name, command, how=signal.SIGTERM, user=None):
        process = Process(self, name, command, user)
        self.stack.callback(process.stop, how)
        return process

    def run(self, *words):
        done = subprocess.run([self.kvlink, *words], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"kvlink {' '.join(words)}: exit status {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def open_place(self, nodes):
        if nodes == 0:
            return ["--store", os.path.join(self.folder, "store")]
        if nodes == 2:
            self.make_cluster()
        for number in range(nodes):
            self.listen.append(f"127.0.0.1:{free_port()}")
            self.nodes.append(self.start_node(number))
        if nodes == 1:
            return ["--store", self.listen[0]]
        for listen in self.listen:
            wait_until(listen, lambda listen=listen: any(listen in line and "active" in line for line in self.run("members", *self.place).splitlines()))
        return self.place

    def start_node(self, number):
        node = self.start(f"node-{number}", [self.kvlink, "store", "--store", os.path.join(self.folder, f"node-{number}"), *self.cluster_flags(),
                                             "--listen", self.listen[number], "--memory", "256M", "--capacity", "8G"])
        node.ready()
        return node

    def cluster_flags(self):
        return ["--cluster", self.cluster] if self.cluster else []

    def make_cluster(self):
        etcd, peers, postgres = free_port(), free_port(), free_port()
        bins = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not shutil.which("etcd") or not bins:
            raise RuntimeError("a cluster needs etcd and PostgreSQL: make deps")
        self.start("etcd", ["etcd", "--name", "trace", "--data-dir", os.path.join(self.folder, "etcd"),
                            "--listen-client-urls", f"http://127.0.0.1:{etcd}", "--advertise-client-urls", f"http://127.0.0.1:{etcd}",
                            "--listen-peer-urls", f"http://127.0.0.1:{peers}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peers}",
                            "--initial-cluster", f"trace=http://127.0.0.1:{peers}"])
        user = "postgres" if os.getuid() == 0 else None  # it does not run as root
        data, run = os.path.join(self.folder, "postgres"), os.path.join(self.folder, "run")
        os.chmod(self.folder, 0o755)
        for made in (data, run):
            os.mkdir(made, 0o700)
            if user:
                shutil.chown(made, user, user)
        as_user = {"user": user, "group": user, "extra_groups": []} if user else {}
        subprocess.run([os.path.join(bins[-1], "initdb"), "-D", data, "-A", "trust", "-U", "kvlink", "--no-sync"], check=True, cwd=self.folder,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user)
        self.start("database", [os.path.join(bins[-1], "postgres"), "-D", data, "-p", str(postgres), "-c", "listen_addresses=127.0.0.1",
                                "-c", f"unix_socket_directories={run}"], signal.SIGINT, user)
        wait_until("etcd", lambda: answers(f"http://127.0.0.1:{etcd}/health"))
        wait_until("PostgreSQL", lambda: subprocess.run([os.path.join(bins[-1], "pg_isready"), "-h", "127.0.0.1", "-p", str(postgres)], check=False,
                                                        stdout=subprocess.DEVNULL).returncode == 0)
        self.cluster = f"127.0.0.1:{etcd}/trace"
        self.place = self.cluster_flags()
        self.run("cluster", "create", *self.place, "--copies", "2", "--acknowledged", "1", "--database", f"postgresql://kvlink@127.0.0.1:{postgres}/postgres")

    def ingest(self, documents):
        path = os.path.join(self.folder, "documents.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for one in documents:
                file.write(json.dumps({name: one[name] for name in ("id", "title", "text")}) + "\n")
        self.run("ingest", *self.place, "--model", self.model, path)

    def serve(self, *more):
        """Returns its URL and the name of its model."""
        self.server = self.start("serve", [self.kvlink, "serve", *self.place, "--model", self.model, "--listen", "127.0.0.1:0", "--memory", self.memory,
                                           "--threads", str(self.threads), *more])
        ready = self.server.ready()
        return ready["url"], ready["model"]

    def evict(self):
        """Has the nodes drop three quarters of what they hold. False: there are no nodes."""
        if not self.nodes:
            return False
        used = json.loads(self.run("namespace", "default", *self.place, "--json"))["bytes"]
        self.run("namespace", "default", *self.place, "--capacity", str(max(used // 4, 1 << 20)))
        time.sleep(1.5 if self.cluster else 0.3)  # a member looks once a second
        self.run("namespace", "default", *self.place, "--capacity", "0")
        return True

    def llama(self, program, model, context, slots):
        """llama.cpp's server, or, where `program` is empty, that of its Python binding. Returns its URL, or none if there is neither."""
        port = free_port()
        if program:
            command = [program, "-m", model, "--host", "127.0.0.1", "--port", str(port), "-c", str(context * slots), "-np", str(slots), "-t", str(self.threads)]
        elif subprocess.run([sys.executable, "-c", "import llama_cpp.server"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(context),
                       "--cache", "true", "--n_threads", str(self.threads), "--n_threads_batch", str(self.threads), "--flash_attn", "true"]
        else:
            return ""
        process = self.start("llama", command)
        wait_until("llama.cpp's server", lambda: answers(f"http://127.0.0.1:{port}/{'health' if program else 'v1/models'}"), process.alive)
        return f"http://127.0.0.1:{port}"
