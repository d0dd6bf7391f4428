#!/usr/bin/env python3
"""Real clients against kvlink serve: clients_test.py KVLINK_BINARY MODEL. Runs what of openai, anthropic, langchain-openai and llama-index-llms-openai-like
is installed; skips (77) without any. With docs/serving.md's own examples, so that they stay true."""
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PATIENCE = 120  # seconds
QUESTION = "What are the names of the two moons of Mars?"
MARS = "Mars has two moons, Phobos and Deimos. Asaph Hall discovered them in 1877."
MOON = "The Moon is the only natural satellite of the Earth."
EXTENSION = {"documents": [{"id": "moon"}, {"id": "mars"}]}


def raises(kinds, call):
    try:
        call()
    except kinds as error:
        return error
    raise AssertionError(f"no {kinds}")


def token_id(url, text):
    """The id of a text that is one token."""
    request = urllib.request.Request(url + "/tokenize", json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        tokens = json.load(answer)["tokens"]
    assert len(tokens) == 1, tokens
    return str(tokens[0])


def try_openai(url, model):
    import openai
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=PATIENCE)
    ask = dict(model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=32, extra_body=EXTENSION)
    answer = client.chat.completions.create(**ask)
    text = answer.choices[0].message.content
    assert "Phobos" in text, text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens_details.cached_tokens > 0, answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    with client.chat.completions.create(**{**ask, "max_tokens": 1000}, stream=True) as stream:  # left early
        next(iter(stream))

    inline = client.chat.completions.create(**{**ask, "extra_body": {"documents": [{"title": "Mars", "text": MARS}]}})
    assert "Phobos" in inline.choices[0].message.content
    text = {"documents": [{"title": "Mars", "text": MARS}], "kv": {"on_miss": "text"}, "cache_salt": "openai"}
    answer = client.chat.completions.create(**{**ask, "extra_body": text})
    assert "Phobos" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens_details.cached_tokens == 0, answer.usage
    assert client.completions.create(model=model, prompt="Once upon a time", max_tokens=4).usage.completion_tokens <= 4
    assert client.responses.create(model=model, input=QUESTION, max_output_tokens=16).output_text
    assert [one.id for one in client.models.list()][0] == model

    error = raises(openai.NotFoundError, lambda: client.chat.completions.create(**{**ask, "model": "another"}))
    assert "another" in str(error)
    raises(openai.NotFoundError, lambda: client.chat.completions.create(**{**ask, "extra_body": {"documents": [{"id": "none"}]}}))
    error = raises(openai.BadRequestError, lambda: client.chat.completions.create(**ask, n=9))
    assert error.param == "n", error.param

    several = client.chat.completions.create(**{**ask, "temperature": 1}, seed=1, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    second = client.chat.completions.create(**{**ask, "temperature": 1}, seed=2)
    assert several.choices[1].message.content == second.choices[0].message.content
    assert several.usage.prompt_tokens == second.usage.prompt_tokens
    pieces = ["", "", ""]
    for chunk in client.chat.completions.create(**{**ask, "temperature": 1}, seed=1, n=3, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == [choice.message.content for choice in several.choices], pieces

    logprobs = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in logprobs).decode() == text
    assert all(token.top_logprobs[0].token == token.token and token.logprob <= 0 for token in logprobs), logprobs
    first = client.chat.completions.create(**ask, logit_bias={token_id(url, logprobs[0].token): -100}, logprobs=True).choices[0]
    assert first.logprobs.content[0].token != logprobs[0].token
    repeated = client.chat.completions.create(**ask, frequency_penalty=2, presence_penalty=2).choices[0].message.content
    assert repeated != text, repeated
    older = client.completions.create(model=model, prompt="Once upon a time", max_tokens=4, temperature=0, logprobs=2).choices[0]
    assert "".join(older.logprobs.tokens) == older.text and len(older.logprobs.top_logprobs[0]) == 2, older.logprobs
    assert older.logprobs.text_offset[0] == 0


def try_anthropic(url, model):
    import anthropic
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)
    content = [{"type": "document", "title": "Mars", "source": {"type": "text", "media_type": "text/plain", "data": MARS},
                "cache_control": {"type": "ephemeral"}},
               {"type": "text", "text": QUESTION}]
    ask = dict(model=model, max_tokens=32, messages=[{"role": "user", "content": content}], extra_body={"temperature": 0})
    first, again = client.messages.create(**ask), client.messages.create(**ask)
    assert "Phobos" in again.content[0].text, again.content
    assert again.content == first.content
    assert first.usage.cache_creation_input_tokens + first.usage.cache_read_input_tokens > 0, first.usage
    assert again.usage.cache_read_input_tokens > 0, again.usage
    assert again.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**ask) as stream:
        assert "".join(stream.text_stream) == again.content[0].text
        assert stream.get_final_message().usage.output_tokens == again.usage.output_tokens
    error = raises(anthropic.NotFoundError, lambda: client.messages.create(**{**ask, "model": "another"}))
    assert error.body["error"]["type"] == "not_found_error", error.body
    raises(anthropic.BadRequestError, lambda: client.messages.create(**{**ask, "extra_body": {"top_p": 2}}))


def try_langchain(url, model):
    from langchain_openai import ChatOpenAI
    chat = ChatOpenAI(base_url=url + "/v1", api_key="none", model=model, temperature=0, max_tokens=32, extra_body=EXTENSION, max_retries=0, timeout=PATIENCE)
    answer = chat.invoke(QUESTION)
    assert "Phobos" in answer.content, answer.content
    assert answer.usage_metadata["input_token_details"]["cache_read"] > 0, answer.usage_metadata
    assert "".join(piece.content for piece in chat.stream(QUESTION)) == answer.content


def try_llama_index(url, model):
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike
    chat = OpenAILike(api_base=url + "/v1", api_key="none", model=model, temperature=0, max_tokens=32, is_chat_model=True, context_window=8192,
                      max_retries=0, timeout=PATIENCE, additional_kwargs={"extra_body": EXTENSION})
    message = [ChatMessage(role="user", content=QUESTION)]
    answer = chat.chat(message).message.content
    assert "Phobos" in answer, answer
    assert "".join(piece.delta for piece in chat.stream_chat(message)) == answer


def try_documentation(url, _):
    """Runs each Python example of docs/serving.md."""
    with open(os.path.join(ROOT, "docs", "serving.md"), encoding="utf-8") as file:
        examples = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    assert examples
    for example in examples:
        printed = subprocess.run([sys.executable, "-c", example.replace("http://127.0.0.1:8080", url)], check=True, capture_output=True, text=True,
                                 timeout=PATIENCE).stdout
        assert re.search(r"[1-9][0-9]*( 0)?$", printed.strip()), f"no tokens of encodings: {printed}"


CLIENTS = {"openai": try_openai, "anthropic": try_anthropic, "langchain_openai": try_langchain, "llama_index.llms.openai_like": try_llama_index}


def installed(module):
    return subprocess.run([sys.executable, "-c", f"import {module}"], stderr=subprocess.DEVNULL, check=False).returncode == 0


def main():
    kvlink, model = sys.argv[1:]
    there = {name: run for name, run in CLIENTS.items() if installed(name)}
    if not there:
        print(f"skipped: none of {', '.join(CLIENTS)} is installed")
        sys.exit(77)
    if len(there) == len(CLIENTS):
        there["docs/serving.md"] = try_documentation
    environment = {**os.environ, "KVLINK_MODEL": model}
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        with open(os.path.join(folder, "documents.jsonl"), "w", encoding="utf-8") as file:
            for document in ({"id": "moon", "title": "The Moon", "text": MOON}, {"id": "mars", "title": "Mars", "text": MARS}):
                file.write(json.dumps(document) + "\n")
        subprocess.run([kvlink, "ingest", "--store", store, file.name], env=environment, check=True, stderr=subprocess.DEVNULL)
        server = subprocess.Popen([kvlink, "serve", "--store", store, "--listen", "127.0.0.1:0", "--max-tokens", "64"], env=environment,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            ready = json.loads(server.stdout.readline())
            for name, run in there.items():
                run(ready["url"], ready["model"])
                print(f"{name}: ok", flush=True)
        finally:
            server.terminate()
            assert server.wait(PATIENCE) == 0


if __name__ == "__main__":
    main()
