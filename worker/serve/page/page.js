// The page at "/": chooses documents, asks, shows the answer as it comes, and what it cost. Needs no library, and no other server.
"use strict";

const $ = (id) => document.getElementById(id);
const chosen = [];  // ids, in the order in which they were ticked
let key = "";
let running = null;  // AbortController of the present question
let lastId = "";     // of the listed documents

function headers() {
  return key ? {"Content-Type": "application/json", "Authorization": `Bearer ${key}`} : {"Content-Type": "application/json"};
}

async function call(path, options = {}) {
  const response = await fetch(path, {...options, headers: headers()});
  if (response.status === 401) $("key-section").hidden = false;
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message ?? `the server answered ${response.status}`);
  }
  return response;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function listDocuments() {
  const found = await (await call(`/v1/documents?limit=100&after=${encodeURIComponent(lastId)}`)).json();
  for (const one of found.data) {
    const label = element("label");
    const box = element("input");
    box.type = "checkbox";
    box.addEventListener("change", () => {
      if (box.checked) chosen.push(one.id);
      else chosen.splice(chosen.indexOf(one.id), 1);
    });
    label.append(box, ` ${one.title || one.id} `, element("span", `${one.tokens} tokens`, "soft"));
    $("documents").append(label);
    lastId = one.id;
  }
  $("more").hidden = !found.has_more;
  if (!$("documents").children.length) $("documents-note").textContent = "The store has no documents; kvlink ingest adds some.";
}

// Calls `event` with each JSON object of a stream of server-sent events.
async function readEvents(response, event) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const parsed = JSON.parse(line.slice(6));
      if (parsed.error) throw new Error(parsed.error.message);
      event(parsed);
    }
  }
}

// Streams one answer into `place`; returns what it cost.
async function ask(question, linker, place) {
  const body = {
    model: $("model").dataset.id, messages: [{role: "user", content: question}], documents: chosen.map((id) => ({id})),
    temperature: 0, stream: true, stream_options: {include_usage: true}, kv: {report: true},
  };
  if (linker) body.kv.linker = linker;
  const began = performance.now();
  let first = null, usage = null, kv = null;
  const response = await call("/v1/chat/completions", {method: "POST", body: JSON.stringify(body), signal: running.signal});
  await readEvents(response, (chunk) => {
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) {
      first ??= performance.now() - began;
      place.append(piece);
    }
    usage = chunk.usage ?? usage;
    kv = chunk.kv ?? kv;
  });
  return {name: linker === "full" ? "full prefill" : "linked", first: kv?.first_token_ms ?? first ?? 0, usage, kv};
}

function showCost(costs) {
  const longest = Math.max(...costs.map((cost) => cost.first), 1);
  $("bars").replaceChildren();
  $("cost-rows").replaceChildren();
  for (const cost of costs) {
    const bar = element("div", undefined, cost.name === "linked" ? "bar" : "bar full");
    bar.style.width = `${100 * cost.first / longest}%`;
    bar.setAttribute("aria-hidden", "true");
    $("bars").append(element("div", `${cost.name}: first token after ${cost.first.toFixed(0)} ms`, "soft"), bar);
    const row = element("tr");
    const places = ["resident", "host", "dram", "disk", "encoded", "text"].filter((place) => cost.kv?.documents?.[place]);
    const where = places.map((place) => `${cost.kv.documents[place]} ${place}`).join(", ");
    row.append(element("th", cost.name), element("td", `${cost.first.toFixed(0)} ms`, "number"),
               element("td", `${cost.usage?.prompt_tokens ?? "?"} tokens`, "number"),
               element("td", `${cost.usage?.prompt_tokens_details?.cached_tokens ?? 0} tokens`, "number"),
               element("td", where || "none read"));
    $("cost-rows").append(row);
  }
  $("cost").hidden = false;
}

async function run(event) {
  event?.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  running = new AbortController();
  $("ask").disabled = true;
  $("stop").disabled = false;
  $("answer").setAttribute("aria-busy", "true");
  $("answer").replaceChildren();
  $("full-answer").replaceChildren();
  $("full-part").hidden = !$("compare").checked;
  $("error").textContent = "";
  try {
    const costs = [await ask(question, "", $("answer"))];
    showCost(costs);
    if ($("compare").checked) {
      costs.push(await ask(question, "full", $("full-answer")));
      showCost(costs);
    }
  } catch (error) {
    if (error.name !== "AbortError") $("error").textContent = error.message;
  }
  running = null;
  $("ask").disabled = false;
  $("stop").disabled = true;
  $("answer").setAttribute("aria-busy", "false");
}

// Rows of the table of the server, from its metrics.
const kShown = [
  ["kvlink_serve_requests_running", "answers under way"], ["kvlink_serve_requests_waiting", "waiting"],
  ["kvlink_serve_answer_tokens_total", "tokens given out"], ["kvlink_serve_residents", "encodings in memory"],
  ["kvlink_serve_resident_bytes", "bytes of these"],
];

async function refresh() {
  try {
    const metrics = new Map();
    for (const line of (await (await call("/metrics")).text()).split("\n")) {
      const at = line.lastIndexOf(" ");
      if (line && line[0] !== "#") metrics.set(line.slice(0, at), Number(line.slice(at + 1)));
    }
    $("server").replaceChildren(...kShown.filter(([name]) => metrics.has(name)).map(([name, label]) => {
      const row = element("tr");
      row.append(element("th", label), element("td", metrics.get(name).toLocaleString(), "number"));
      return row;
    }));
    $("state").textContent = "";
  } catch (error) {
    $("state").textContent = `not reachable: ${error.message}`;
  }
  setTimeout(refresh, 2000);
}

async function start() {
  try {
    const models = await (await call("/v1/models")).json();
    $("model").textContent = models.data[0].id;
    $("model").dataset.id = models.data[0].id;
    $("documents").replaceChildren();
    lastId = "";
    await listDocuments();
  } catch (error) {
    $("error").textContent = error.message;
  }
}

$("form").addEventListener("submit", run);
$("stop").addEventListener("click", () => running?.abort());
$("more").addEventListener("click", () => listDocuments().catch((error) => { $("error").textContent = error.message; }));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  start();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  if (event.key === "Escape") running?.abort();
});
start();
refresh();
