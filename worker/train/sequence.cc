// Tokenises an example as a request lays it out, with the answer's tokens behind the prompt.
#include "worker/train/sequence.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "worker/link/plan.h"

namespace kvlink::train {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 40;

std::vector<model::TextSpan> TextsBetween(absl::Span<const model::RenderedSpan> spans, int from, int to) {
  std::vector<model::TextSpan> texts;
  bool inside = from < 0;
  for (const model::RenderedSpan& span : spans) {
    if (inside && to >= 0 && span.mark == to) break;
    if (inside && !span.text.empty()) texts.push_back({span.text, span.trusted});
    if (span.mark >= 0 && span.mark == from) inside = true;
  }
  return texts;
}

// The token with which an assistant's turn ends: what the template writes behind it, if the model knows it as an end.
absl::StatusOr<int32_t> EndOfAnswer(const model::Tokenizer& tokenizer, const model::ChatTemplate& chat,
                                    model::ChatOptions options, const model::ModelConfig& config) {
  options.add_generation_prompt = false;
  const auto spans = chat.Render({{"user", {{"?"}}}, {"assistant", {{"", 0}}}}, options);
  if (spans.ok()) {
    KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                            model::EncodeSpans(tokenizer, TextsBetween(*spans, 0, -1)));
    const std::vector<int32_t>& ends = config.end_of_sequence;
    for (const int32_t token : tokens) {
      if (std::find(ends.begin(), ends.end(), token) != ends.end()) return token;
    }
  }
  if (!config.end_of_sequence.empty()) return config.end_of_sequence.front();
  return absl::InvalidArgumentError(
      "the model names no token that ends an answer (eos_token_id), so none can be learned");
}

std::vector<int32_t> Ids(int64_t first, int64_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), static_cast<int32_t>(first));
  return ids;
}

void Append(std::vector<int32_t>* tokens, absl::Span<const int32_t> more) {
  tokens->insert(tokens->end(), more.begin(), more.end());
}

}  // namespace

absl::StatusOr<SequenceMaker> SequenceMaker::Create(const model::Tokenizer* tokenizer, const model::ChatTemplate* chat,
                                                    const model::ChatOptions& options, const link::LinkProfile* profile,
                                                    const model::ModelConfig& config, const Embeddings& embeddings) {
  SequenceMaker maker;
  maker.tokenizer_ = tokenizer;
  maker.chat_ = chat;
  maker.options_ = options;
  maker.profile_ = *profile;
  maker.profile_.trained = true;
  maker.profile_.links_per_document = embeddings.links;
  maker.profile_.slots = embeddings.slots;
  maker.profile_.first_link_id.reset();
  maker.profile_.wrapper.reset();
  maker.embeddings_ = embeddings;
  maker.vocab_ = config.vocab;
  maker.context_ = config.context;
  KVLINK_ASSIGN_OR_RETURN(maker.end_of_answer_, EndOfAnswer(*tokenizer, *chat, options, config));
  return maker;
}

absl::StatusOr<std::optional<Lesson>> SequenceMaker::Make(const data::Example& example, Reading reading,
                                                          int64_t document_tokens, int64_t max_tokens) const {
  const bool linked = reading == Reading::kLinked;
  max_tokens = std::min(max_tokens, context_);  // no request has more positions
  absl::StatusOr<Parts> parts;
  if (const auto* question = std::get_if<data::Question>(&example.task)) {
    parts = PartsOfDocuments(question->documents, document_tokens, question->question, question->answers.front());
    if (parts.ok() && !question->more.empty()) KVLINK_RETURN_IF_ERROR(AddMore(*question, &*parts));
  } else if (const auto* summary = std::get_if<data::Summary>(&example.task)) {
    parts = PartsOfDocuments(summary->documents, document_tokens, summary->instruction, summary->summary);
  } else if (const auto* chat = std::get_if<data::Chat>(&example.task)) {
    parts = PartsOfChat(*chat, linked);
  } else {
    parts = PartsOfText(std::get<data::Text>(example.task).text, max_tokens);
  }
  KVLINK_RETURN_IF_ERROR(Annotate(parts.status(), absl::StrCat(example.kind, " example ", example.id)));
  if (linked && embeddings_.links > 0 && static_cast<int64_t>(parts->documents.size()) > embeddings_.slots) {
    return std::nullopt;
  }
  if (std::all_of(parts->after.begin(), parts->after.end(), [](const Piece& piece) { return piece.tokens.empty(); })) {
    return std::nullopt;
  }
  Lesson lesson;
  KVLINK_ASSIGN_OR_RETURN(lesson.student, LayOut(*parts, linked));
  KVLINK_ASSIGN_OR_RETURN(lesson.teacher, LayOut(*parts, false));
  if (static_cast<int64_t>(lesson.student.tokens.size()) > max_tokens || lesson.student.learned.empty()) {
    return std::nullopt;
  }
  return lesson;
}

absl::StatusOr<SequenceMaker::Parts> SequenceMaker::PartsOfText(const std::string& text, int64_t max_tokens) const {
  Parts parts;
  KVLINK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, tokenizer_->Encode(text, /*parse_special=*/false));
  if (tokenizer_->bos()) tokens.insert(tokens.begin(), *tokenizer_->bos());
  if (static_cast<int64_t>(tokens.size()) > max_tokens) tokens.resize(static_cast<size_t>(max_tokens));
  parts.after.push_back({std::move(tokens), true});
  return parts;
}

absl::StatusOr<std::vector<int32_t>> SequenceMaker::AnswerTokens(int32_t previous, const std::string& answer) const {
  KVLINK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                          tokenizer_->EncodeAfter(previous, answer, /*parse_special=*/false));
  tokens.push_back(end_of_answer_);
  return tokens;
}

absl::StatusOr<SequenceMaker::Parts> SequenceMaker::PartsOfDocuments(absl::Span<const data::Document> documents,
                                                                     int64_t document_tokens,
                                                                     const std::string& question,
                                                                     const std::string& answer) const {
  Parts parts;
  for (const data::Document& document : documents) {
    KVLINK_ASSIGN_OR_RETURN(
        auto pieces, link::DocumentTokens(*tokenizer_, profile_, document.title, document.text, document_tokens));
    std::move(pieces.begin(), pieces.end(), std::back_inserter(parts.documents));
  }
  KVLINK_ASSIGN_OR_RETURN(link::PromptTokens prompt,
                          link::MakePrompt(*tokenizer_, *chat_, options_, profile_, /*system=*/"", question));
  if (prompt.after.empty()) return absl::InvalidArgumentError("the chat template writes nothing behind the question");
  KVLINK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, AnswerTokens(prompt.after.back(), answer));
  parts.before = std::move(prompt.before);
  parts.after.push_back({std::move(prompt.after), false});
  parts.after.push_back({std::move(tokens), true});
  return parts;
}

// The rounds of a chat in which everything is asked, but for the first, which stands behind the documents.
absl::Status SequenceMaker::AddMore(const data::Question& question, Parts* parts) const {
  using Role = data::Turn::Role;
  data::Chat chat;
  chat.turns = {{Role::kUser, question.question}, {Role::kAssistant, question.answers.front()}};
  for (const data::Question::More& more : question.more) {
    chat.turns.push_back({Role::kUser, more.question});
    chat.turns.push_back({Role::kAssistant, more.answer});
  }
  KVLINK_ASSIGN_OR_RETURN(Parts rounds, PartsOfChat(chat, /*linked=*/false));
  std::move(rounds.after.begin() + 2, rounds.after.end(), std::back_inserter(parts->after));
  return absl::OkStatus();
}

// Marks stand around each answer. A round is everything up to an answer's end; what the template writes behind the end
// begins the next round.
absl::StatusOr<SequenceMaker::Parts> SequenceMaker::PartsOfChat(const data::Chat& chat, bool linked) const {
  std::vector<model::ChatMessage> messages;
  std::vector<const std::string*> answers;
  for (const data::Turn& turn : chat.turns) {
    if (turn.role == data::Turn::Role::kAssistant) {
      const int mark = 2 * static_cast<int>(answers.size());
      messages.push_back({"assistant", {{"", mark}, {turn.text}, {"", mark + 1}}});
      answers.push_back(&turn.text);
    } else {
      messages.push_back({turn.role == data::Turn::Role::kSystem ? "system" : "user", {{turn.text}}});
    }
  }
  model::ChatOptions options = options_;
  options.add_generation_prompt = false;
  KVLINK_ASSIGN_OR_RETURN(const std::vector<model::RenderedSpan> spans, chat_->Render(messages, options));
  const std::string end = tokenizer_->TokenBytes(end_of_answer_);
  Parts parts;
  const int count = static_cast<int>(answers.size());
  for (int i = 0; i < count; ++i) {
    std::vector<model::TextSpan> opening = TextsBetween(spans, 2 * i - 1, 2 * i);
    if (i > 0 && !opening.empty()) {
      absl::string_view rest = opening.front().text;
      if (absl::ConsumePrefix(&rest, end)) opening.front().text = std::string(rest);
    }
    KVLINK_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model::EncodeSpans(*tokenizer_, opening));
    if (tokens.empty()) return absl::InvalidArgumentError("the chat template writes nothing before an answer");
    KVLINK_ASSIGN_OR_RETURN(std::vector<int32_t> answer, AnswerTokens(tokens.back(), *answers[i]));
    if (linked && i + 1 < count) {
      Append(&tokens, answer);
      parts.documents.push_back(std::move(tokens));
    } else {
      parts.after.push_back({std::move(tokens), false});
      parts.after.push_back({std::move(answer), true});
    }
  }
  return parts;
}

Sequence SequenceMaker::WithoutEmbeddings(const Sequence& sequence) const {
  std::vector<int64_t> kept_before;  // of each token, and of the end
  Sequence kept;
  for (const int32_t id : sequence.tokens) {
    kept_before.push_back(static_cast<int64_t>(kept.tokens.size()));
    if (id < vocab_) kept.tokens.push_back(id);
  }
  kept_before.push_back(static_cast<int64_t>(kept.tokens.size()));
  const auto place = [&](int64_t at) { return kept_before[static_cast<size_t>(at)]; };
  for (const auto& [begin, end] : sequence.documents) kept.documents.emplace_back(place(begin), place(end));
  for (const int64_t at : sequence.learned) kept.learned.push_back(place(at));
  return kept;
}

absl::StatusOr<Sequence> SequenceMaker::LayOut(const Parts& parts, bool linked) const {
  link::PlanInput input;
  input.linker = !linked ? link::Linker::kFull : embeddings_.links > 0 ? link::Linker::kLinks : link::Linker::kConcat;
  input.profile = &profile_;
  input.vocab = vocab_;
  input.context = kNoLimit;
  input.prompt.before = parts.before;
  for (const Piece& piece : parts.after) Append(&input.prompt.after, piece.tokens);
  std::vector<std::vector<int32_t>> documents = parts.documents;
  if (linked) {
    const int64_t header = vocab_ + embeddings_.link_rows();
    for (std::vector<int32_t>& document : documents) {
      std::vector<int32_t> wrapped = Ids(header, embeddings_.header);
      Append(&wrapped, document);
      Append(&wrapped, Ids(header + embeddings_.header, embeddings_.trailer));
      document = std::move(wrapped);
    }
  }
  input.documents.assign(documents.begin(), documents.end());
  KVLINK_ASSIGN_OR_RETURN(link::Stages stages, link::Stages::Create(input));
  const link::LinkPlan plan = stages.Next({});

  Sequence sequence;
  sequence.tokens.resize(static_cast<size_t>(plan.length));
  for (size_t i = 0; i < plan.fresh_tokens.size(); ++i) {
    sequence.tokens[static_cast<size_t>(plan.fresh_positions[i])] = plan.fresh_tokens[i];
  }
  for (const link::PlacedDocument& placed : plan.documents) {
    const std::vector<int32_t>& tokens = documents[static_cast<size_t>(placed.document)];
    std::copy(tokens.begin(), tokens.end(), sequence.tokens.begin() + static_cast<ptrdiff_t>(placed.offset));
    sequence.documents.emplace_back(placed.offset, placed.offset + static_cast<int64_t>(tokens.size()));
  }
  int64_t at = plan.length - static_cast<int64_t>(input.prompt.after.size());
  for (const Piece& piece : parts.after) {
    for (size_t i = 0; i < piece.tokens.size(); ++i, ++at) {
      if (piece.learned && at > 0) sequence.learned.push_back(at);
    }
  }
  return sequence;
}

}  // namespace kvlink::train
