// Answers questions with several linkers and measures each answer beside full attention over the same prompt. Uses the
// real generator and store: each measured request reads its encodings from the store, none is left in memory by the
// one before.
//
// Thread-safety: one thread at a time. Lifetime: generators, tokenizer, template and results outlive the runner.
#ifndef KVLINK_WORKER_EVAL_RUNNER_H_
#define KVLINK_WORKER_EVAL_RUNNER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/eval/results.h"
#include "worker/eval/task.h"
#include "worker/infer/generator.h"
#include "worker/link/plan.h"
#include "worker/text/template/chat_template.h"
#include "worker/text/tokenizer.h"

namespace kvlink::eval {

// In which order a question's documents stand in the prompt. Several gold documents keep their order and stay together.
struct Order {
  enum Place : uint8_t {
    kGenerated,  // as generated or given
    kFirst,      // the gold documents before all others
    kMiddle,
    kLast,
    kShuffled,  // a permutation that is drawn for each question
  };
  Place place = kGenerated;
  int64_t number = 0;  // of the permutation, from 1; only with kShuffled

  Order() = default;
  Order(Place at) : place(at) {}  // NOLINT(google-explicit-constructor): a place alone is an order
  Order(Place at, int64_t permutation) : place(at), number(permutation) {}
  bool operator==(const Order&) const = default;
  bool needs_gold() const { return place == kFirst || place == kMiddle || place == kLast; }
};
std::string OrderName(Order order);  // generated, first, middle, last, shuffled-1
// INVALID_ARGUMENT: lists the orders.
absl::StatusOr<Order> ParseOrder(absl::string_view name);

struct RunnerOptions {
  std::vector<link::Linker> linkers;  // beside the control without documents
  std::vector<Order> orders = {Order::kGenerated};
  int64_t max_tokens = 32;  // of an answer
  std::string system;       // message of the chat; empty: none
  model::ChatOptions chat;
};

class Runner {
 public:
  // `generators`: one for each codec to compare, over the same model, profile and store. Full attention reads no
  // encodings: it is computed once for all of them, by the first. REQUIRES: at least one.
  Runner(std::vector<infer::Generator*> generators, const model::Tokenizer* tokenizer, const model::ChatTemplate* chat,
         RunnerOptions options, Results* results);

  // Computes what the results lack of a task, and appends each result as soon as it is known. INVALID_ARGUMENT: an
  // order needs gold documents and the task names none; errors of Generator and Results::Append. After an error, the
  // results computed before it are kept.
  absl::Status Run(const Task& task, const infer::Limits& limits);

 private:
  // Over a prompt: the greedy answer, and the distributions of its first tokens.
  struct Answered;
  struct Candidates {
    std::vector<int32_t> stem;
    std::vector<std::vector<int32_t>> texts;
  };

  static Result::Key KeyOf(const Task& task, absl::string_view linker, Order order, const infer::Generator& generator);
  absl::Status RunOrder(const Task& task, Order order, const infer::Limits& limits);
  // Makes sure that the store has the encodings, inside the profile's wrapper if `packet`.
  static absl::Status Store(infer::Generator& generator, const std::vector<infer::RequestDocument>& documents,
                            bool packet, const infer::Limits& limits);
  // `reference`: of full attention; nullptr: this is it.
  absl::StatusOr<Answered> Answer(infer::Generator& generator, const Task& task, link::Linker linker,
                                  const std::vector<infer::RequestDocument>& documents, const Answered* reference,
                                  const infer::Limits& limits);
  // Tokens of what may follow the prompt's last token.
  absl::StatusOr<Candidates> CandidatesOf(const Task& task, int32_t previous) const;
  absl::Status Decode(infer::Generator& generator, infer::Conversation& conversation, const infer::Limits& limits,
                      Answered* answered);
  // The distributions of the first tokens of an answer, one after another.
  static absl::StatusOr<std::vector<float>> Distributions(infer::Generator& generator,
                                                          infer::Conversation& conversation,
                                                          absl::Span<const float> first,
                                                          absl::Span<const int32_t> answer,
                                                          const infer::Limits& limits);
  // The first tokens of what is expected after the prompt; nothing of short answers.
  absl::StatusOr<std::vector<int32_t>> ExpectedOf(const Task& task, int32_t previous) const;
  // Of a text after all that the conversation holds, which it still does then. `first`: the distribution after it.
  // REQUIRES: the text is not empty.
  static absl::StatusOr<double> LogProbabilityOf(infer::Generator& generator, infer::Conversation& conversation,
                                                 absl::Span<const float> first, absl::Span<const int32_t> text,
                                                 const infer::Limits& limits);
  // Whether the right candidate is the likeliest one after the stem. `first`: the distribution after the prompt.
  static absl::StatusOr<double> Choice(infer::Generator& generator, infer::Conversation& conversation,
                                       std::vector<float> first, const Candidates& candidates,
                                       const infer::Limits& limits);
  absl::Status Append(const Task& task, Result::Key key, const Answered& answered);

  const std::vector<infer::Generator*> generators_;
  const model::Tokenizer* const tokenizer_;
  const model::ChatTemplate* const template_;
  const RunnerOptions options_;
  Results* const results_;
};

}  // namespace kvlink::eval

#endif  // KVLINK_WORKER_EVAL_RUNNER_H_
