#include "worker/cli/ask_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/args.h"
#include "nlohmann/json.hpp"

namespace kvlink::cli {
namespace {

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

absl::string_view StopName(infer::Stop stop) {
  switch (stop) {
    case infer::Stop::kEnd:
      return "end";
    case infer::Stop::kMaxTokens:
      return "max_tokens";
    case infer::Stop::kContext:
      return "context";
  }
  return "";
}

}  // namespace

void AskTotals::Add(const Question& question, const infer::Answer& answer, const infer::RequestStats& stats,
                    const infer::Answer* full_answer) {
  bytes += BytesRead(stats);
  linked.push_back(absl::ToDoubleSeconds(answer.time_to_first_token));
  if (full_answer != nullptr) full.push_back(absl::ToDoubleSeconds(full_answer->time_to_first_token));
  if (question.expected.empty()) return;
  ++expected;
  linked_right += Holds(answer.text, question.expected);
  full_right += full_answer != nullptr && Holds(full_answer->text, question.expected);
}

int64_t BytesRead(const infer::RequestStats& stats) {
  return stats.bytes_host + stats.bytes_dram + stats.bytes_segments;
}

std::string EncodingsInWords(const infer::RequestStats& stats) {
  std::vector<std::string> parts;
  const auto add = [&](int64_t documents, absl::string_view where, int64_t bytes) {
    if (documents == 0) return;
    const std::string read = bytes > 0 ? absl::StrCat(" (", FormatBytes(static_cast<double>(bytes)), ")") : "";
    parts.push_back(absl::StrCat(documents, " ", where, read));
  };
  add(stats.documents_resident, "already loaded", 0);
  add(stats.documents_host, "from host memory", stats.bytes_host);
  add(stats.documents_dram, "from memory", stats.bytes_dram);
  add(stats.documents_disk, "from disk", stats.bytes_segments);
  if (stats.documents_direct > 0)
    absl::StrAppend(&parts.back(), ", ", stats.documents_direct, " of these straight to the device");
  add(stats.documents_encoded, "encoded now", 0);
  return parts.empty() ? "no encodings" : absl::StrJoin(parts, ", ");
}

std::string AnswerInWords(const infer::Answer& answer, const infer::RequestStats& stats, int turn) {
  if (turn > 0) {
    return absl::StrFormat("%.3f s to first token, %d tokens at %.1f/s; %d tokens computed for this turn",
                           absl::ToDoubleSeconds(answer.time_to_first_token), answer.tokens, answer.decode_rate(),
                           answer.fresh_tokens);
  }
  return absl::StrFormat("%.3f s to first token, %d tokens at %.1f/s; %d of %d prompt tokens computed; encodings: %s",
                         absl::ToDoubleSeconds(answer.time_to_first_token), answer.tokens, answer.decode_rate(),
                         answer.fresh_tokens, stats.prompt_tokens, EncodingsInWords(stats));
}

std::string TimesInWords(double linked, double full) {
  const std::string times = absl::StrFormat("linked %.3f s, full prefill %.3f s: ", linked, full);
  if (linked <= full) {
    return absl::StrFormat("%s%.1fx faster (%.1f%% less)", times, full / linked, 100 * (1 - linked / full));
  }
  return absl::StrFormat("%s%.1fx slower; linking pays off for longer documents", times, linked / full);
}

std::string TotalsInWords(const AskTotals& totals, bool compared) {
  if (!compared) {
    if (totals.expected == 0) return "";
    return absl::StrFormat("\nAnswers that contain the expected text: %d of %d.\n", totals.linked_right,
                           totals.expected);
  }
  std::string text = absl::StrFormat("\n%d questions. Median time to first token: %s. %s read.\n", totals.linked.size(),
                                     TimesInWords(Median(totals.linked), Median(totals.full)),
                                     FormatBytes(static_cast<double>(totals.bytes)));
  if (totals.expected > 0) {
    absl::StrAppendFormat(&text, "Answers that contain the expected text: linked %d, full prefill %d, of %d.\n",
                          totals.linked_right, totals.full_right, totals.expected);
  }
  return text;
}

nlohmann::json AnswerAsJson(const infer::Answer& answer, const infer::RequestStats& stats) {
  return {{"answer", answer.text},
          {"stop", std::string(StopName(answer.stop))},
          {"tokens", answer.tokens},
          {"first_token_seconds", absl::ToDoubleSeconds(answer.time_to_first_token)},
          {"tokens_per_second", answer.decode_rate()},
          {"prompt_tokens", stats.prompt_tokens},
          {"computed_tokens", answer.fresh_tokens},
          {"bytes_read", BytesRead(stats)},
          {"encodings",
           {{"loaded", stats.documents_resident},
            {"host_memory", stats.documents_host},
            {"memory", stats.documents_dram},
            {"disk", stats.documents_disk},
            {"to_device", stats.documents_direct},
            {"computed", stats.documents_encoded}}}};
}

nlohmann::json TotalsAsJson(const AskTotals& totals) {
  nlohmann::json json = {{"answered", totals.linked.size()},
                         {"median_first_token_seconds", Median(totals.linked)},
                         {"bytes_read", totals.bytes},
                         {"expected", totals.expected},
                         {"right", totals.linked_right}};
  if (!totals.full.empty()) {
    json["full"] = {{"median_first_token_seconds", Median(totals.full)}, {"right", totals.full_right}};
  }
  return json;
}

}  // namespace kvlink::cli
