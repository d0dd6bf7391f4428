"""What serve_trace.py asks of servers, and how: documents, requests, clients of OpenAI's API."""
import dataclasses
import http.client
import json
import random
import threading
import time
import urllib.parse

PATIENCE = 300  # seconds without a byte
TOP_TWO = {"logprobs": True, "top_logprobs": 2}


@dataclasses.dataclass
class Answer:
    """Of one request. `failure` is empty, or the kind of its failure; times are those of time.monotonic()."""
    failure: str = ""
    text: str = ""
    tokens: list = dataclasses.field(default_factory=list)  # (text, distance of the top two), if the server says so
    count: int = 0  # of tokens
    began: float = 0
    first: float = 0
    last: float = 0

    @property
    def first_token_ms(self):
        return (self.first - self.began) * 1000

    @property
    def token_ms(self):
        return (self.last - self.first) * 1000 / (self.count - 1)


class Client:
    """A connection, opened again after failures. One thread at a time."""

    def __init__(self, url):
        self.address = urllib.parse.urlsplit(url).netloc
        self.connection = None

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def request(self, method, path, body=None):
        """A response, which is to be read to its end."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        self.connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        return self.connection.getresponse()

    def call(self, method, path, body=None):
        """The status and what was answered, or 0 and what failed."""
        try:
            response = self.request(method, path, body)
            return response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return 0, f"{type(error).__name__}: {error}"

    def ask(self, body):
        """Streams a chat completion."""
        answer = Answer(began=time.monotonic())
        try:
            self._stream({**body, "stream": True, "stream_options": {"include_usage": True}}, answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer.failure = type(error).__name__
        if answer.failure:
            self.close()
        return answer

    def _stream(self, body, answer):
        response = self.request("POST", "/v1/chat/completions", body)
        if response.status != 200:
            answer.failure, answer.text = f"status {response.status}", response.read().decode(errors="replace")
            return
        done, pieces = False, 0
        for line in response:
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                done = True
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                answer.failure, answer.text = "error in the stream", json.dumps(chunk["error"])
                return
            for choice in chunk.get("choices", []):
                pieces += self._add(choice, answer)
            if chunk.get("usage"):
                answer.count = chunk["usage"]["completion_tokens"]
        answer.count = answer.count or pieces
        if not done:
            answer.failure = "end of the stream missing"
        elif not answer.first:  # the model has said nothing
            answer.first = answer.last = time.monotonic()

    @staticmethod
    def _add(choice, answer):
        for token in (choice.get("logprobs") or {}).get("content") or []:
            top = [one["logprob"] for one in token["top_logprobs"]]
            answer.tokens.append((token["token"], top[0] - top[1] if len(top) > 1 else float("inf")))
        text = choice.get("delta", {}).get("content")
        if not text:
            return 0
        answer.last = time.monotonic()
        answer.first = answer.first or answer.last
        answer.text += text
        return 1


def first_difference(alone, answer):
    """None: the same. Else how far apart the top two are where the answers part; None there: the server does not say it."""
    if alone.tokens and answer.tokens:
        if [text for text, _ in alone.tokens] == [text for text, _ in answer.tokens]:
            return None
        at = 0
        while at < min(len(alone.tokens), len(answer.tokens)) and alone.tokens[at][0] == answer.tokens[at][0]:
            at += 1
        return (min(one.tokens[at][1] for one in (alone, answer) if at < len(one.tokens)),)
    return None if alone.text == answer.text else (None,)


class Texts:
    """Documents of natural sentences, as many and as long as wanted."""

    def __init__(self, documents, seed):
        self.random = random.Random(seed)
        self.sentences = [sentence + "." for one in documents for sentence in one["text"].replace("\n", " ").split(". ") if sentence]
        self.made = 0

    def make(self, words):
        """One that nobody has seen before."""
        self.made += 1
        chosen, count = [f"This is report {self.made} of {self.random.getrandbits(48)}."], 6
        while count < words:
            chosen.append(self.random.choice(self.sentences))
            count += chosen[-1].count(" ") + 1
        return {"id": f"report-{self.made}", "title": f"Report {self.made}", "text": " ".join(chosen)}


class Trace:
    """Requests that name some of the documents, the first ones most often (Zipf)."""

    def __init__(self, documents, questions, requests, most, seed):
        chance = random.Random(seed)
        self.documents = documents
        weights = [1 / (rank + 1) for rank in range(len(documents))]
        self.requests = []
        for _ in range(requests):
            named = []
            for one in chance.choices(range(len(documents)), weights, k=chance.randint(1, most)):
                if one not in named:
                    named.append(one)
            self.requests.append((named, chance.choice(questions)))

    def names(self, number):
        """The ids of the documents of a request."""
        return [self.documents[one]["id"] for one in self.requests[number][0]]


class Kvlink:
    """How kvlink serve is asked."""

    def __init__(self, name, url, model, **kv):
        self.name, self.url, self.model, self.kv = name, url, model, kv

    def body(self, documents, question, tokens, **more):
        """`documents`: {"id": ...} or texts."""
        return {"model": self.model, "messages": [{"role": "user", "content": question}], "documents": documents,
                "temperature": 0, "max_tokens": tokens, **({"kv": self.kv} if self.kv else {}), **more}

    def named(self, trace, number, tokens, **more):
        return self.body([{"id": one} for one in trace.names(number)], trace.requests[number][1], tokens, **more)


class Plain:
    """A server that knows no documents: their texts are in the message, before the question, as in KVLink's prompt."""

    def __init__(self, name, url, model):
        self.name, self.url, self.model = name, url, model

    def named(self, trace, number, tokens):
        documents, question = trace.requests[number]
        texts = [f"Title: {trace.documents[one]['title']}\n\n{trace.documents[one]['text']}\n\n" for one in documents]
        return {"model": self.model, "messages": [{"role": "user", "content": "".join(texts) + question}], "temperature": 0, "max_tokens": tokens}


def on_threads(count, run):
    """Calls run(0), run(1), ... at the same time; raises what one of them raised."""
    raised = []

    def guarded(number):
        try:
            run(number)
        except BaseException as error:  # pylint: disable=broad-except
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def play(url, bodies, clients):
    """Asks all at once, `clients` at a time. The answers, in order, and the seconds that they took together."""
    answers, left, lock = [None] * len(bodies), iter(range(len(bodies))), threading.Lock()

    def run(_):
        client = Client(url)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return client.close()
            answers[number] = client.ask(bodies[number])

    began = time.monotonic()
    on_threads(min(clients, len(bodies)), run)
    return answers, time.monotonic() - began
