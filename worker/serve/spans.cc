#include "worker/serve/spans.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace kvlink::serve {
namespace {

// From the first token of an answer to its end; empty if there is none.
infer::Phase DecodeOf(const Record& record) {
  infer::Phase phase;
  if (record.usage.first_token_ms <= 0) return phase;
  phase.Add(record.arrived + absl::Milliseconds(record.usage.first_token_ms), record.arrived + record.took);
  return phase;
}

infer::Phase WaitOf(const Record& record) {
  infer::Phase phase;
  if (record.submitted == absl::InfiniteFuture()) return phase;
  const infer::Phases& phases = record.stats.phases;
  phase.Add(record.submitted, std::min({phases.land.began, phases.link.began, record.arrived + record.took}));
  return phase;
}

RequestPhase LoadOf(absl::string_view place, const infer::Load& load, int64_t documents, int64_t bytes) {
  return {"load",
          place,
          true,
          load,
          {{"kvlink.place", std::string(place)},
           {"kvlink.documents", documents},
           {"kvlink.bytes", bytes},
           {"kvlink.waited_ms", absl::ToDoubleMilliseconds(load.waited)}},
          bytes,
          load.waited};
}

Span RootOf(const Record& record) {
  Span span;
  span.trace = record.trace.trace;
  span.id = record.trace.span;
  span.parent = record.trace.parent;
  span.state = record.trace.state;
  span.name = record.route;
  span.kind = Span::Kind::kServer;
  span.began = record.arrived;
  span.ended = record.arrived + record.took;
  span.failed = record.failed();
  span.attributes = {{"http.response.status_code", int64_t{record.status}}};
  if (!record.error.ok()) span.attributes.emplace_back("error.type", absl::StatusCodeToString(record.error.code()));
  const Usage& usage = record.usage;
  if (usage.prompt_tokens > 0) {
    span.attributes.insert(span.attributes.end(), {{"gen_ai.usage.input_tokens", usage.prompt_tokens},
                                                   {"gen_ai.usage.output_tokens", usage.completion_tokens},
                                                   {"kvlink.cached_tokens", usage.cached_tokens},
                                                   {"kvlink.stored_tokens", usage.stored_tokens},
                                                   {"kvlink.documents.resident", usage.resident},
                                                   {"kvlink.documents.host", usage.host},
                                                   {"kvlink.documents.dram", usage.dram},
                                                   {"kvlink.documents.disk", usage.disk},
                                                   {"kvlink.documents.encoded", usage.encoded}});
  }
  if (const infer::Phase decode = DecodeOf(record); !decode.empty()) {
    span.events.emplace_back("first_token", decode.began);
  }
  return span;
}

}  // namespace

std::vector<RequestPhase> PhasesOf(const Record& record) {
  const infer::RequestStats& stats = record.stats;
  const infer::Phases& phases = stats.phases;
  std::vector<RequestPhase> all = {
      {"catalog", "", false, record.catalog},
      {"wait", "", false, WaitOf(record)},
      {"land", "", false, phases.land},
      {"lookup", "", true, phases.lookup},
      LoadOf("host", phases.host, stats.documents_host, stats.bytes_host),
      LoadOf("dram", phases.dram, stats.documents_dram, stats.bytes_dram),
      LoadOf("disk", phases.disk, stats.documents_disk, stats.bytes_segments),
      {"encode", "", true, phases.encode, {{"kvlink.documents", stats.documents_encoded}}},
      {"link",
       "",
       false,
       phases.link,
       {{"kvlink.fresh_tokens", stats.fresh_tokens}, {"kvlink.recomputed_tokens", stats.recomputed_tokens}}},
      {"decode", "", false, DecodeOf(record), {{"gen_ai.usage.output_tokens", record.usage.completion_tokens}}},
  };
  for (RequestPhase& phase : all) {
    if (phase.place.empty()) phase.took = phase.time.took();
  }
  return all;
}

std::vector<Span> SpansOf(const Record& record) {
  std::vector<Span> spans = {RootOf(record)};
  size_t land = 0;  // the root, if there is none
  for (RequestPhase& phase : PhasesOf(record)) {
    if (phase.time.empty()) continue;
    const Span& within = spans[phase.lands ? land : 0];
    Span span;
    span.trace = within.trace;
    span.id = NewSpanId();
    span.parent = within.id;
    span.state = within.state;
    span.name = phase.name;
    span.began = std::clamp(phase.time.began, within.began, within.ended);
    span.ended = std::clamp(phase.time.ended, within.began, within.ended);
    span.attributes = std::move(phase.attributes);
    if (phase.name == "land") land = spans.size();
    spans.push_back(std::move(span));
  }
  return spans;
}

}  // namespace kvlink::serve
