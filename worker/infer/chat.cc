#include "worker/infer/chat.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::infer {

double Answer::decode_rate() const {
  const double seconds = absl::ToDoubleSeconds(decode_time);
  return tokens > 1 && seconds > 0 ? static_cast<double>(tokens - 1) / seconds : 0;
}

Chat::Chat(Generator* generator, const model::Tokenizer* tokenizer, const model::ChatTemplate* chat,
           ChatSettings settings)
    : generator_(generator), tokenizer_(tokenizer), template_(chat), settings_(std::move(settings)) {}

Chat::~Chat() = default;

RequestStats Chat::TurnSince(const RequestStats& before, const Answer& answer, int64_t prompt_tokens) const {
  RequestStats turn = conversation_->stats();
  turn.time_to_first_token = answer.time_to_first_token;
  turn.prompt_tokens = prompt_tokens;
  turn.fresh_tokens = answer.fresh_tokens;
  turn.decode_time -= before.decode_time;
  turn.decoded_tokens -= before.decoded_tokens;
  turn.documents_resident -= before.documents_resident;
  turn.documents_host -= before.documents_host;
  turn.documents_dram -= before.documents_dram;
  turn.documents_disk -= before.documents_disk;
  turn.documents_direct -= before.documents_direct;
  turn.documents_encoded -= before.documents_encoded;
  turn.read_tokens -= before.read_tokens;
  turn.stored_tokens -= before.stored_tokens;
  turn.bytes_host -= before.bytes_host;
  turn.bytes_dram -= before.bytes_dram;
  turn.bytes_segments -= before.bytes_segments;
  // Documents that the conversation already held were not read again.
  const int64_t read = turn.documents_resident + turn.documents_host + turn.documents_dram + turn.documents_disk +
                       turn.documents_encoded;
  const bool reads = settings_.linker.base != link::Linker::kFull;
  if (reads) turn.documents_resident += std::max<int64_t>(0, static_cast<int64_t>(settings_.documents.size()) - read);
  return turn;
}

absl::StatusOr<Answer> Chat::Ask(absl::string_view question, const Limits& limits, const OnText& on_text) {
  const absl::Time began = SteadyNow();
  // The remaining time, for consecutive calls.
  const auto left = [&] { return Limits{limits.timeout - (SteadyNow() - began), limits.cancelled}; };
  const int64_t fed = conversation_ == nullptr ? 0 : conversation_->length();
  const RequestStats before = conversation_ == nullptr ? RequestStats() : conversation_->stats();
  KVLINK_RETURN_IF_ERROR(conversation_ == nullptr ? First(question, left()) : Next(question, left()));
  Answer answer;
  answer.time_to_first_token = SteadyNow() - began;
  answer.fresh_tokens = fed == 0 ? conversation_->stats().fresh_tokens : conversation_->length() - fed;
  questions_.emplace_back(question);
  const int64_t prompt_tokens = conversation_->length();
  turn_ = TurnSince(before, answer, prompt_tokens);
  const absl::Time first = SteadyNow();
  const absl::Status decoded = Decode(left(), on_text, &answer);
  turn_ = TurnSince(before, answer, prompt_tokens);
  KVLINK_RETURN_IF_ERROR(decoded);
  answer.decode_time = SteadyNow() - first;
  return answer;
}

absl::Status Chat::First(absl::string_view question, const Limits& limits) {
  Request request;
  request.linker = settings_.linker;
  request.documents = settings_.documents;
  request.answer_tokens = settings_.max_tokens;
  request.sampling = settings_.sampling;
  request.allow_untrained_links = settings_.allow_untrained_links;
  request.limits = limits;
  KVLINK_ASSIGN_OR_RETURN(request.prompt, link::MakePrompt(*tokenizer_, *template_, settings_.options,
                                                           generator_->options().profile, settings_.system, question));
  KVLINK_ASSIGN_OR_RETURN(conversation_, generator_->Start(request));
  return absl::OkStatus();
}

// Renders the conversation with a mark in place of each answer. The text after the last mark is new: the end of the
// answer's turn, the user's turn, and the head of the next answer.
absl::Status Chat::Next(absl::string_view question, const Limits& limits) {
  std::vector<model::ChatMessage> messages;
  if (!settings_.system.empty()) messages.push_back({"system", {{settings_.system}}});
  int mark = 0;
  for (const std::string& asked : questions_) {
    messages.push_back({"user", {{asked}}});
    messages.push_back({"assistant", {{"", mark++}}});
  }
  messages.push_back({"user", {{std::string(question)}}});
  KVLINK_ASSIGN_OR_RETURN(const std::vector<model::RenderedSpan> spans, template_->Render(messages, settings_.options));
  const auto last = std::find_if(spans.begin(), spans.end(), [&](const auto& span) { return span.mark == mark - 1; });
  if (last == spans.end()) {
    return absl::FailedPreconditionError(
        "the chat template drops earlier answers, so the conversation cannot continue");
  }
  std::vector<model::TextSpan> behind;
  for (auto it = std::next(last); it != spans.end(); ++it) behind.push_back({it->text, it->trusted});
  KVLINK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model::EncodeSpans(*tokenizer_, behind));
  if (unfed_) tokens.insert(tokens.begin(), conversation_->next());
  return generator_->Extend(*conversation_, tokens, limits);
}

absl::Status Chat::Decode(const Limits& limits, const OnText& on_text, Answer* answer) {
  const absl::Time deadline = SteadyNow() + limits.timeout;
  const auto give = [&](const std::string& text) {
    answer->text += text;
    if (on_text && !text.empty()) on_text(text);
  };
  model::StreamDecoder decoder(tokenizer_);
  absl::Status status;
  while (true) {
    unfed_ = !generator_->IsEnd(conversation_->next());
    if (!unfed_) {
      answer->stop = Stop::kEnd;
      break;
    }
    if (!tokenizer_->IsSpecial(conversation_->next())) give(decoder.Push(conversation_->next()));
    if (++answer->tokens >= settings_.max_tokens) {
      answer->stop = Stop::kMaxTokens;
      break;
    }
    if (conversation_->length() >= generator_->model().config().context) {
      answer->stop = Stop::kContext;
      break;
    }
    status = generator_->Step(*conversation_, {deadline - SteadyNow(), limits.cancelled});
    if (!status.ok()) break;
  }
  give(decoder.Finish());
  return status;
}

}  // namespace kvlink::infer
