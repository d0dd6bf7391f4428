// A page of some 150 lines, made from scratch at each scrape; a library would add a registry and nothing else.
#include "worker/serve/metrics.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace kvlink::serve {
namespace {

// Appends the head of a family of metrics, unless it has been appended before.
void AppendHead(absl::string_view name, absl::string_view help, absl::string_view type, std::string* page) {
  absl::StrAppend(page, "# HELP kvlink_serve_", name, " ", help, "\n# TYPE kvlink_serve_", name, " ", type, "\n");
}

void AppendValue(absl::string_view name, absl::string_view labels, double value, std::string* page) {
  absl::StrAppend(page, "kvlink_serve_", name);
  if (!labels.empty()) absl::StrAppend(page, "{", labels, "}");
  absl::StrAppendFormat(page, " %.17g\n", value);
}

double Number(int64_t value) { return static_cast<double>(value); }

}  // namespace

std::vector<Reading> ReadingsOf(const infer::Scheduler::Stats& scheduler, const infer::Generator::Stats& generator,
                                const HttpServer::Stats& http, const SpanExporter::Stats& spans) {
  const infer::ResidentPool::Stats& pool = generator.pool;
  const auto found = [](absl::string_view place, int64_t value) {
    return Reading{"encodings_found_total", "Encodings that requests needed, by where they were found", true,
                   Number(value), absl::StrCat("place=\"", place, "\"")};
  };
  const auto ended = [](absl::string_view how, int64_t value) {
    return Reading{"answers_total", "Answers that ended, by how", true, Number(value),
                   absl::StrCat("end=\"", how, "\"")};
  };
  const auto exported = [](absl::string_view how, int64_t value) {
    return Reading{"spans_total", "Spans of traces, by whether the collector took them", true, Number(value),
                   absl::StrCat("end=\"", how, "\"")};
  };
  return {
      {"requests_waiting", "Answers that wait for their documents or for memory", false, Number(scheduler.waiting)},
      {"requests_running", "Answers under way", false, Number(scheduler.running)},
      {"requests_refused_total", "Answers that could not begin: too many wait, or they do not fit", true,
       Number(scheduler.refused)},
      ended("done", scheduler.ended),
      ended("failed", scheduler.failed),
      ended("cancelled", scheduler.cancelled),
      {"preempted_total", "Times that an answer gave up its memory and was computed again", true,
       Number(scheduler.preempted)},
      {"passes_total", "Forward passes", true, Number(scheduler.passes)},
      {"prompt_rows_total", "Tokens of prompts computed", true, Number(scheduler.prompt_tokens)},
      {"answer_tokens_total", "Tokens given out", true, Number(scheduler.answer_tokens)},
      found("resident", pool.hits),
      found("host", pool.loads_host),
      found("dram", pool.loads_dram),
      found("disk", pool.loads_disk),
      found("none", pool.misses),
      {"encoded_total", "Documents encoded on the spot", true, Number(generator.encoded)},
      {"damaged_total", "Encodings that failed their checksum", true, Number(generator.damaged)},
      {"late_total", "Encodings that arrived late or could not be read", true, Number(generator.late)},
      {"lapsed_total", "Encodings that the store took back during a pass", true, Number(generator.lapsed)},
      {"store_errors_total", "Lookups and reads that failed other than by a miss", true, Number(pool.store_errors)},
      {"residents", "Encodings in memory", false, Number(pool.residents)},
      {"resident_bytes", "Bytes of these", false, Number(pool.bytes)},
      {"evictions_total", "Encodings evicted from memory", true, Number(pool.evictions)},
      {"written_back_total", "Encodings stored that requests had to compute", true,
       Number(generator.write_back.written)},
      {"write_back_failed_total", "Encodings that could not be stored", true,
       Number(generator.write_back.refused + generator.write_back.failed)},
      {"connections", "Open connections", false, Number(http.connections)},
      {"connections_total", "Connections accepted", true, Number(http.accepted)},
      {"connections_refused_total", "Connections beyond the limit", true, Number(http.refused)},
      {"malformed_total", "Requests that were no HTTP, or too large", true, Number(http.malformed)},
      {"timed_out_total", "Connections closed because the client was too slow", true, Number(http.timed_out)},
      {"gone_total", "Responses that the client did not wait for", true, Number(http.gone)},
      exported("sent", spans.sent),
      exported("dropped", spans.dropped),
      exported("failed", spans.failed),
  };
}

void Metrics::Histogram::Add(absl::Duration took) {
  const double seconds = absl::ToDoubleSeconds(took);
  ++counts[std::lower_bound(kSeconds.begin(), kSeconds.end(), seconds) - kSeconds.begin()];
  sum += seconds;
}

Metrics::Metrics(absl::string_view ns) : ns_(absl::StrReplaceAll(ns, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}})) {
  // Counters are there before there is anything to count, so that rates see the first.
  for (const RequestPhase& phase : PhasesOf({})) {
    phases_[LabelsOf(phase.name, phase.place)];
    if (!phase.place.empty()) loaded_bytes_[LabelsOf("", phase.place)];
  }
}

std::string Metrics::LabelsOf(absl::string_view phase, absl::string_view place) const {
  std::string labels = absl::StrCat("namespace=\"", ns_, "\"");
  if (!phase.empty()) absl::StrAppend(&labels, ",phase=\"", phase, "\"");
  if (!place.empty()) absl::StrAppend(&labels, ",place=\"", place, "\"");
  return labels;
}

void Metrics::Took(const std::vector<RequestPhase>& phases) {
  MutexLock lock(&mutex_);
  for (const RequestPhase& phase : phases) {
    if (phase.time.empty()) continue;
    phases_[LabelsOf(phase.name, phase.place)].Add(phase.took);
    if (!phase.place.empty()) loaded_bytes_[LabelsOf("", phase.place)] += phase.bytes;
  }
}

void Metrics::Ended(absl::string_view route, int status, absl::Duration took) {
  MutexLock lock(&mutex_);
  ++requests_[{std::string(route), status}];
  took_[absl::StrCat("route=\"", route, "\"")].Add(took);
}

void Metrics::FirstToken(absl::Duration took) {
  MutexLock lock(&mutex_);
  first_.Add(took);
}

void Metrics::NextToken(absl::Duration took) {
  MutexLock lock(&mutex_);
  next_.Add(took);
}

void Metrics::Answered(int64_t prompt, int64_t cached) {
  MutexLock lock(&mutex_);
  prompt_ += prompt;
  cached_ += cached;
}

void Metrics::Append(absl::string_view name, absl::string_view help, const std::map<std::string, Histogram>& histograms,
                     std::string* page) {
  AppendHead(name, help, "histogram", page);
  for (const auto& [labels, histogram] : histograms) {
    const std::string more = labels.empty() ? "" : absl::StrCat(labels, ",");
    int64_t total = 0;
    for (size_t i = 0; i < histogram.counts.size(); ++i) {
      total += histogram.counts[i];
      const std::string bound = i < kSeconds.size() ? absl::StrCat(kSeconds[i]) : "+Inf";
      AppendValue(absl::StrCat(name, "_bucket"), absl::StrCat(more, "le=\"", bound, "\""), Number(total), page);
    }
    AppendValue(absl::StrCat(name, "_sum"), labels, histogram.sum, page);
    AppendValue(absl::StrCat(name, "_count"), labels, Number(total), page);
  }
}

std::string Metrics::Page(const std::vector<Reading>& readings) const {
  std::string page;
  absl::string_view family;
  for (const Reading& reading : readings) {
    if (reading.name != family) AppendHead(reading.name, reading.help, reading.counts ? "counter" : "gauge", &page);
    family = reading.name;
    AppendValue(reading.name, reading.labels, reading.value, &page);
  }
  MutexLock lock(&mutex_);
  AppendHead("requests_total", "Requests, by route and status", "counter", &page);
  for (const auto& [name, count] : requests_) {
    AppendValue("requests_total", absl::StrCat("route=\"", name.first, "\",status=\"", name.second, "\""),
                Number(count), &page);
  }
  AppendHead("prompt_tokens_total", "Tokens of the prompts of answers", "counter", &page);
  AppendValue("prompt_tokens_total", "", Number(prompt_), &page);
  AppendHead("cached_tokens_total", "Of these, tokens that were read from encodings", "counter", &page);
  AppendValue("cached_tokens_total", "", Number(cached_), &page);
  AppendHead("loaded_bytes_total", "Bytes of encodings that were read, by where they were found", "counter", &page);
  for (const auto& [labels, bytes] : loaded_bytes_) AppendValue("loaded_bytes_total", labels, Number(bytes), &page);
  Append("phase_seconds", "Seconds of requests, by what they were taken for", phases_, &page);
  Append("request_seconds", "Seconds from the arrival of a request to the end of its response", took_, &page);
  Append("first_token_seconds", "Seconds from the arrival of a request to its first token", {{"", first_}}, &page);
  Append("token_seconds", "Seconds from one token of an answer to the next", {{"", next_}}, &page);
  return page;
}

}  // namespace kvlink::serve
