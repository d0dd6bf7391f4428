// What kvlink ask tells of its answers, in words and as JSON (docs/commands.md).
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_CLI_ASK_REPORT_H_
#define KVLINK_WORKER_CLI_ASK_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json_fwd.hpp"
#include "worker/cli/questions.h"
#include "worker/infer/chat.h"
#include "worker/infer/generator.h"

namespace kvlink::cli {

// Of the answers to several questions.
struct AskTotals {
  std::vector<double> linked, full;  // seconds to the first token
  int64_t bytes = 0;                 // read
  int expected = 0;                  // questions of which it is known what is expected
  int linked_right = 0, full_right = 0;

  // `full`: the answer of a full prefill to the same question, or nullptr.
  void Add(const Question& question, const infer::Answer& answer, const infer::RequestStats& stats,
           const infer::Answer* full_answer);
};

int64_t BytesRead(const infer::RequestStats& stats);

// Where the encodings came from: "4 from disk (41.2 MiB)".
std::string EncodingsInWords(const infer::RequestStats& stats);
// "0.041 s to first token, 21 tokens at 35.1/s; 64 of 1937 prompt tokens computed; encodings: 4 from disk (41.2 MiB)".
// `turn`: the number of earlier answers in the chat.
std::string AnswerInWords(const infer::Answer& answer, const infer::RequestStats& stats, int turn);
// "linked 0.047 s, full prefill 0.981 s: 20.7x faster (95.2% less)".
std::string TimesInWords(double linked, double full);
// Lines; empty if there is nothing to tell. `compared`: with full prefill.
std::string TotalsInWords(const AskTotals& totals, bool compared);

nlohmann::json AnswerAsJson(const infer::Answer& answer, const infer::RequestStats& stats);
nlohmann::json TotalsAsJson(const AskTotals& totals);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_ASK_REPORT_H_
