// One prefill for each linker: the conversation is rewound to the end of the prompt between the greedy answer, the
// reference's answer and each candidate.
#include "worker/eval/runner.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/status.h"
#include "worker/data/random.h"
#include "worker/eval/metrics.h"

namespace kvlink::eval {
namespace {

constexpr absl::string_view kPlaceNames[] = {"generated", "first", "middle", "last"};  // by Order::Place
constexpr absl::string_view kShuffled = "shuffled-";
// Tokens of full attention's answer over which its distributions are compared.
constexpr size_t kComparedTokens = 8;
constexpr absl::Duration kWriteTimeout = absl::Seconds(60);

// The calls of one task share its time limit.
class Remaining {
 public:
  explicit Remaining(const infer::Limits& limits) : limits_(limits), deadline_(SteadyNow() + limits.timeout) {}
  infer::Limits operator()() const { return {deadline_ - SteadyNow(), limits_.cancelled}; }

 private:
  const infer::Limits& limits_;
  const absl::Time deadline_;
};

std::vector<infer::RequestDocument> Ordered(const Task& task, Order order) {
  if (order.place == Order::kGenerated) return task.documents;
  if (order.place == Order::kShuffled) {
    const std::string seed = absl::StrCat(task.id, "/", order.number);
    std::vector<infer::RequestDocument> documents = task.documents;
    data::Random(Xxh3(seed.data(), seed.size())).Shuffle(documents);
    return documents;
  }
  std::vector<infer::RequestDocument> gold, others;
  for (size_t i = 0; i < task.documents.size(); ++i) {
    const bool is_gold = std::binary_search(task.gold.begin(), task.gold.end(), static_cast<int64_t>(i));
    (is_gold ? gold : others).push_back(task.documents[i]);
  }
  const size_t before = order.place == Order::kFirst    ? 0
                        : order.place == Order::kMiddle ? others.size() / 2
                                                        : others.size();
  others.insert(others.begin() + static_cast<ptrdiff_t>(before), gold.begin(), gold.end());
  return others;
}

}  // namespace

std::string OrderName(Order order) {
  if (order.place == Order::kShuffled) return absl::StrCat(kShuffled, order.number);
  return std::string(kPlaceNames[order.place]);
}

absl::StatusOr<Order> ParseOrder(absl::string_view name) {
  const auto* const place = std::find(std::begin(kPlaceNames), std::end(kPlaceNames), name);
  if (place != std::end(kPlaceNames)) return Order(static_cast<Order::Place>(place - std::begin(kPlaceNames)));
  Order order = Order::kShuffled;
  absl::string_view number = name;
  if (absl::ConsumePrefix(&number, kShuffled) && absl::SimpleAtoi(number, &order.number) && order.number > 0 &&
      OrderName(order) == name) {
    return order;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown order '", name, "'; use ", absl::StrJoin(kPlaceNames, ", "),
                                                 " or ", kShuffled, "N, N from 1"));
}

struct Runner::Answered {
  std::vector<int32_t> tokens;  // with the end-of-sequence token, if the model ended the answer
  std::string text;
  std::vector<float> distributions;  // logits, one row for each compared token
  double divergence = 0;
  std::optional<double> choice, cross_entropy;
  int64_t expected_tokens = 0;
  absl::Duration time_to_first_token;
  int64_t document_tokens = 0;
  infer::RequestStats stats;
};

Runner::Runner(std::vector<infer::Generator*> generators, const model::Tokenizer* tokenizer,
               const model::ChatTemplate* chat, RunnerOptions options, Results* results)
    : generators_(std::move(generators)),
      tokenizer_(tokenizer),
      template_(chat),
      options_(std::move(options)),
      results_(results) {}

Result::Key Runner::KeyOf(const Task& task, absl::string_view linker, Order order, const infer::Generator& generator) {
  return {task.id, std::string(linker), OrderName(order), std::string(CodecName(generator.options().codec))};
}

absl::Status Runner::Run(const Task& task, const infer::Limits& limits) {
  for (const Order order : options_.orders) {
    if (order.needs_gold() && task.gold.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("question ", task.id, " does not say which of its documents hold ",
                                                     "the answer; use the order ", OrderName(Order::kGenerated), " or ",
                                                     kShuffled, "N"));
    }
    KVLINK_RETURN_IF_ERROR(Annotate(RunOrder(task, order, limits), absl::StrCat("question ", task.id)));
  }
  return absl::OkStatus();
}

absl::Status Runner::RunOrder(const Task& task, Order order, const infer::Limits& limits) {
  const link::Linker full = link::Linker::kFull;
  // What is missing: of the linkers that read encodings, by generator; and keys of full attention, with documents and
  // without.
  std::vector<std::vector<link::Linker>> linkers(generators_.size());
  std::vector<Result::Key> of_full, of_closed_book;
  const auto add = [&](Result::Key key, std::vector<Result::Key>* keys) {
    if (!results_->Has(key)) keys->push_back(std::move(key));
  };
  bool any = false;
  for (size_t i = 0; i < generators_.size(); ++i) {
    for (const link::Linker& linker : options_.linkers) {
      Result::Key key = KeyOf(task, link::LinkerName(linker), order, *generators_[i]);
      if (linker == full) {
        add(std::move(key), &of_full);
      } else if (!results_->Has(key)) {
        linkers[i].push_back(linker);
        any = true;
      }
    }
    add(KeyOf(task, kClosedBook, order, *generators_[i]), &of_closed_book);
  }
  if (!any && of_full.empty() && of_closed_book.empty()) return absl::OkStatus();

  const Remaining remaining(limits);
  const std::vector<infer::RequestDocument> documents = Ordered(task, order);
  for (size_t i = 0; i < generators_.size(); ++i) {
    for (const bool packet : {false, true}) {
      const auto reads = [packet](const link::Linker& linker) { return linker.packet == packet; };
      if (std::none_of(linkers[i].begin(), linkers[i].end(), reads)) continue;
      KVLINK_RETURN_IF_ERROR(Store(*generators_[i], documents, packet, remaining()));
    }
  }
  infer::Generator& first = *generators_[0];
  KVLINK_ASSIGN_OR_RETURN(const Answered reference, Answer(first, task, full, documents, nullptr, remaining()));
  for (Result::Key& key : of_full) KVLINK_RETURN_IF_ERROR(Append(task, std::move(key), reference));
  if (!of_closed_book.empty()) {
    KVLINK_ASSIGN_OR_RETURN(const Answered answered, Answer(first, task, full, {}, &reference, remaining()));
    for (Result::Key& key : of_closed_book) KVLINK_RETURN_IF_ERROR(Append(task, std::move(key), answered));
  }
  for (size_t i = 0; i < generators_.size(); ++i) {
    for (const link::Linker& linker : linkers[i]) {
      KVLINK_ASSIGN_OR_RETURN(const Answered answered,
                              Answer(*generators_[i], task, linker, documents, &reference, remaining()));
      KVLINK_RETURN_IF_ERROR(Append(task, KeyOf(task, link::LinkerName(linker), order, *generators_[i]), answered));
    }
  }
  return absl::OkStatus();
}

absl::Status Runner::Store(infer::Generator& generator, const std::vector<infer::RequestDocument>& documents,
                           bool packet, const infer::Limits& limits) {
  const Remaining remaining(limits);
  // One at a time, because what is written back waits in a bounded queue. What the store does not take, the requests
  // encode themselves, which their results say.
  for (const infer::RequestDocument& document : documents) {
    infer::Request request;
    request.linker.packet = packet;
    request.prompt.after = {0};
    request.documents = {document};
    request.limits = remaining();
    KVLINK_RETURN_IF_ERROR(generator.Start(request).status());
    generator.DrainWriteBack(SteadyNow() + std::min(remaining().timeout, kWriteTimeout));
  }
  return absl::OkStatus();
}

absl::StatusOr<Runner::Answered> Runner::Answer(infer::Generator& generator, const Task& task, link::Linker linker,
                                                const std::vector<infer::RequestDocument>& documents,
                                                const Answered* reference, const infer::Limits& limits) {
  const Remaining remaining(limits);
  for (infer::Generator* const one : generators_) one->pool().Clear();
  const absl::Time began = SteadyNow();
  infer::Request request;
  request.linker = linker;
  request.documents = documents;
  request.keep_logits = true;
  request.limits = limits;
  KVLINK_ASSIGN_OR_RETURN(request.prompt,
                          link::MakePrompt(*tokenizer_, *template_, options_.chat, generator.options().profile,
                                           options_.system, task.question));
  KVLINK_ASSIGN_OR_RETURN(const Candidates candidates, CandidatesOf(task, request.prompt.after.back()));
  KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> expected, ExpectedOf(task, request.prompt.after.back()));
  size_t room = static_cast<size_t>(options_.max_tokens);
  for (const std::vector<int32_t>& text : candidates.texts) room = std::max(room, candidates.stem.size() + text.size());
  request.answer_tokens = static_cast<int64_t>(room);
  KVLINK_ASSIGN_OR_RETURN(const auto conversation, generator.Start(request));
  Answered answered;
  answered.time_to_first_token = SteadyNow() - began;
  answered.stats = conversation->stats();
  for (const infer::RequestDocument& document : documents) {
    answered.document_tokens += static_cast<int64_t>(document.tokens.size());
  }
  const std::vector<float> first(conversation->logits().begin(), conversation->logits().end());

  KVLINK_RETURN_IF_ERROR(Decode(generator, *conversation, remaining(), &answered));
  const std::vector<int32_t>& compared = reference != nullptr ? reference->tokens : answered.tokens;
  KVLINK_ASSIGN_OR_RETURN(answered.distributions,
                          Distributions(generator, *conversation, first, compared, remaining()));
  if (reference != nullptr) {
    const size_t vocab = first.size(), rows = answered.distributions.size() / vocab;
    for (size_t row = 0; row < rows; ++row) {
      answered.divergence += Divergence(absl::MakeConstSpan(reference->distributions).subspan(row * vocab, vocab),
                                        absl::MakeConstSpan(answered.distributions).subspan(row * vocab, vocab)) /
                             static_cast<double>(rows);
    }
  }
  if (!expected.empty()) {
    KVLINK_ASSIGN_OR_RETURN(const double sum, LogProbabilityOf(generator, *conversation, first, expected, remaining()));
    answered.cross_entropy = -sum / static_cast<double>(expected.size());
    answered.expected_tokens = static_cast<int64_t>(expected.size());
  }
  if (!candidates.texts.empty()) {
    KVLINK_ASSIGN_OR_RETURN(answered.choice, Choice(generator, *conversation, first, candidates, remaining()));
  }
  return answered;
}

absl::StatusOr<Runner::Candidates> Runner::CandidatesOf(const Task& task, int32_t previous) const {
  Candidates candidates;
  if (!task.stem.empty()) {
    KVLINK_ASSIGN_OR_RETURN(candidates.stem, tokenizer_->EncodeAfter(previous, task.stem, /*parse_special=*/false));
    previous = candidates.stem.back();
  }
  for (const std::string& candidate : task.candidates) {
    const std::string text = absl::StrCat(task.stem.empty() ? "" : " ", candidate);
    KVLINK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                            tokenizer_->EncodeAfter(previous, text, /*parse_special=*/false));
    if (tokens.empty()) return absl::InvalidArgumentError("a candidate has no tokens");
    candidates.texts.push_back(std::move(tokens));
  }
  return candidates;
}

absl::StatusOr<std::vector<int32_t>> Runner::ExpectedOf(const Task& task, int32_t previous) const {
  std::vector<int32_t> expected = task.continuation;
  if (expected.empty() && task.long_answer && !task.answers.empty()) {
    KVLINK_ASSIGN_OR_RETURN(expected, tokenizer_->EncodeAfter(previous, task.answers.front(), /*parse_special=*/false));
  }
  expected.resize(std::min(expected.size(), static_cast<size_t>(options_.max_tokens)));
  return expected;
}

absl::Status Runner::Decode(infer::Generator& generator, infer::Conversation& conversation, const infer::Limits& limits,
                            Answered* answered) {
  const Remaining remaining(limits);
  const int64_t prompt = conversation.length();
  std::vector<int32_t> text;
  while (true) {
    const int32_t token = conversation.next();
    answered->tokens.push_back(token);
    if (generator.IsEnd(token)) break;
    if (!tokenizer_->IsSpecial(token)) text.push_back(token);
    if (static_cast<int64_t>(answered->tokens.size()) >= options_.max_tokens) break;
    KVLINK_RETURN_IF_ERROR(generator.Step(conversation, remaining()));
  }
  answered->text = tokenizer_->Decode(text, /*skip_special=*/true);
  return generator.Rewind(conversation, prompt);
}

absl::StatusOr<std::vector<float>> Runner::Distributions(infer::Generator& generator, infer::Conversation& conversation,
                                                         absl::Span<const float> first,
                                                         absl::Span<const int32_t> answer,
                                                         const infer::Limits& limits) {
  std::vector<float> distributions(first.begin(), first.end());
  // The distribution of a token follows from those before it, so the last one compared is not fed.
  const absl::Span<const int32_t> fed = answer.first(std::min(answer.size(), kComparedTokens) - 1);
  if (fed.empty()) return distributions;
  const int64_t prompt = conversation.length();
  KVLINK_ASSIGN_OR_RETURN(const std::vector<float> scores, generator.Score(conversation, fed, limits));
  KVLINK_RETURN_IF_ERROR(generator.Rewind(conversation, prompt));
  distributions.insert(distributions.end(), scores.begin(), scores.end());
  return distributions;
}

absl::StatusOr<double> Runner::LogProbabilityOf(infer::Generator& generator, infer::Conversation& conversation,
                                                absl::Span<const float> first, absl::Span<const int32_t> text,
                                                const infer::Limits& limits) {
  double sum = LogProbability(first, text[0]);
  if (text.size() == 1) return sum;
  const int64_t begin = conversation.length();
  KVLINK_ASSIGN_OR_RETURN(const std::vector<float> scores,
                          generator.Score(conversation, text.first(text.size() - 1), limits));
  KVLINK_RETURN_IF_ERROR(generator.Rewind(conversation, begin));
  for (size_t i = 1; i < text.size(); ++i) {
    sum += LogProbability(absl::MakeConstSpan(scores).subspan((i - 1) * first.size(), first.size()), text[i]);
  }
  return sum;
}

absl::StatusOr<double> Runner::Choice(infer::Generator& generator, infer::Conversation& conversation,
                                      std::vector<float> first, const Candidates& candidates,
                                      const infer::Limits& limits) {
  const Remaining remaining(limits);
  const size_t vocab = first.size();
  const int64_t prompt = conversation.length();
  if (!candidates.stem.empty()) {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<float> scores,
                            generator.Score(conversation, candidates.stem, remaining()));
    first.assign(scores.end() - static_cast<ptrdiff_t>(vocab), scores.end());
  }
  std::vector<double> means;
  for (const std::vector<int32_t>& text : candidates.texts) {
    KVLINK_ASSIGN_OR_RETURN(const double sum, LogProbabilityOf(generator, conversation, first, text, remaining()));
    means.push_back(sum / static_cast<double>(text.size()));
  }
  KVLINK_RETURN_IF_ERROR(generator.Rewind(conversation, prompt));
  // A draw is not a choice.
  return std::all_of(means.begin() + 1, means.end(), [&](double wrong) { return means[0] > wrong; }) ? 1.0 : 0.0;
}

absl::Status Runner::Append(const Task& task, Result::Key key, const Answered& answered) {
  Result result;
  std::tie(result.item, result.linker, result.order, result.codec) = std::move(key);
  result.kind = task.kind;
  result.answer = answered.text;
  if (!task.answers.empty() && !task.long_answer) {
    result.exact = ContainsAnswer(answered.text, task.answers) ? 1.0 : 0.0;
    result.f1 = TokenF1(answered.text, task.answers);
  }
  if (!task.answers.empty()) result.rouge_l = RougeL(answered.text, task.answers);
  result.choice = answered.choice;
  result.divergence = answered.divergence;
  result.cross_entropy = answered.cross_entropy;
  if (answered.cross_entropy) result.expected_tokens = answered.expected_tokens;
  result.first_token_seconds = absl::ToDoubleSeconds(answered.time_to_first_token);
  const infer::RequestStats& stats = answered.stats;
  result.bytes_read = stats.bytes_host + stats.bytes_dram + stats.bytes_segments;
  result.prompt_tokens = stats.prompt_tokens;
  result.fresh_tokens = stats.fresh_tokens;
  result.documents_encoded = stats.documents_encoded;
  result.document_tokens = answered.document_tokens;
  result.recomputed_tokens = stats.recomputed_tokens;
  return results_->Append(std::move(result));
}

}  // namespace kvlink::eval
