// What was measured, one record for each (item, linker, order, codec), kept in a file to which each is appended as soon
// as it is known, so that an interrupted run continues where it stopped (docs/formats.md "Results of eval").
//
// Thread-safety: one thread at a time; a file is locked against other processes while it is open.
#ifndef KVLINK_WORKER_EVAL_RESULTS_H_
#define KVLINK_WORKER_EVAL_RESULTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/descriptor.h"

namespace kvlink::eval {

struct Result {
  std::string item;
  std::string kind;
  std::string linker;  // link::LinkerName, or kClosedBook
  std::string order;   // OrderName
  std::string codec;
  std::string answer;  // greedy
  // Absent without expected answers; exact and f1 also where the expected answer is long: a summary, a chat's turn.
  std::optional<double> exact;  // ContainsAnswer, 0 or 1
  std::optional<double> f1;
  std::optional<double> rouge_l;
  // Whether the right candidate has the highest log-probability per token, 0 or 1; absent without candidates.
  std::optional<double> choice;
  double divergence = 0;  // from full attention, mean over the first tokens of its answer, nats
  // Of the first tokens of a long answer or a text's continuation, nats a token, and how many these are; absent for
  // others and in results of older builds.
  std::optional<double> cross_entropy;
  std::optional<int64_t> expected_tokens;
  double first_token_seconds = 0;  // including rendering, loading and verification
  int64_t bytes_read = 0;          // of encodings
  int64_t prompt_tokens = 0;
  int64_t fresh_tokens = 0;  // computed by the request (infer::RequestStats)
  // Tokens of the documents, and how many of them are among the fresh ones; absent in results of older builds.
  std::optional<int64_t> document_tokens, recomputed_tokens;
  int64_t documents_encoded = 0;  // during the request, because the store could not provide them

  using Key = std::tuple<std::string, std::string, std::string, std::string>;
  Key key() const { return {item, linker, order, codec}; }
};

// In place of a linker's name: the question without documents, as an ordinary prefill.
inline constexpr absl::string_view kClosedBook = "closed-book";

// What results depend on besides their key, by name. Results of different settings are never mixed.
using Settings = std::map<std::string, std::string>;

class Results {
 public:
  // Kept in memory only.
  Results() = default;
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  // Reads a file, or creates it. A last line that was not written to its end is dropped from the file.
  // FAILED_PRECONDITION: results of other settings, saying what differs; INVALID_ARGUMENT naming the line: not such a
  // file, or another version of the format; UNAVAILABLE: another process has it open; NOT_FOUND, PERMISSION_DENIED: it
  // cannot be opened. Only a dropped line changes an existing file.
  static absl::StatusOr<std::unique_ptr<Results>> Open(const std::string& path, const Settings& settings);

  bool Has(const Result::Key& key) const { return keys_.contains(key); }
  // In the order in which they were computed.
  const std::vector<Result>& all() const { return results_; }
  // RESOURCE_EXHAUSTED: the disk is full; what could not be written whole is dropped when the file is opened again.
  absl::Status Append(Result result);

 private:
  absl::Status Read(const Settings& settings);
  absl::Status Write(const std::string& line);
  void Add(Result result);

  std::string path_;
  Descriptor file_;  // none: in memory only
  std::vector<Result> results_;
  std::set<Result::Key> keys_;
};

}  // namespace kvlink::eval

#endif  // KVLINK_WORKER_EVAL_RESULTS_H_
