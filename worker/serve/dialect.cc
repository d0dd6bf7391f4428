// Forwards to worker/serve/api, whose functions are pure.
#include "worker/serve/dialect.h"

#include <cstdint>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "worker/serve/api/answer.h"
#include "worker/serve/api/anthropic.h"
#include "worker/serve/api/openai.h"
#include "worker/serve/api/responses.h"

namespace kvlink::serve {
namespace {

Answer NewAnswer(absl::string_view prefix, const CompletionRequest& request) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  const std::string number = absl::StrCat(absl::Hex(random(), absl::kZeroPad16), absl::Hex(random(), absl::kZeroPad16));
  return {.id = absl::StrCat(prefix, number),
          .created = absl::ToUnixSeconds(absl::Now()),
          .model = request.model,
          .stream_usage = request.stream_usage,
          .report = request.kv.report,
          .choices = request.choices,
          .logprobs = request.top_logprobs.has_value()};
}

class OpenAiWriter : public AnswerWriter {
 public:
  OpenAiWriter(openai::Kind kind, Answer answer) : kind_(kind), answer_(std::move(answer)) {}
  std::string Whole(absl::Span<const Choice> choices, const Usage& usage) override {
    return openai::Response(kind_, answer_, choices, usage);
  }
  std::string Begin(const Usage&) override { return openai::StreamBegin(kind_, answer_); }
  std::string Piece(int64_t index, const AnswerPiece& piece) override {
    return openai::StreamPiece(kind_, answer_, index, piece);
  }
  std::string EndOne(int64_t index, const Choice& choice) override {
    return openai::StreamFinish(kind_, answer_, index, choice.finish);
  }
  std::string End(int64_t index, const Choice& choice, const Usage& usage) override {
    return openai::StreamEnd(kind_, answer_, index, choice.finish, usage);
  }
  std::string Error(const absl::Status& status) override { return openai::StreamError(status); }

 private:
  const openai::Kind kind_;
  const Answer answer_;
};

// Of an API with one answer to a request.
class OneAnswerWriter : public AnswerWriter {
 public:
  std::string Whole(absl::Span<const Choice> choices, const Usage& usage) final { return Response(choices[0], usage); }
  std::string Piece(int64_t, const AnswerPiece& piece) final { return Text(piece.text); }
  std::string EndOne(int64_t, const Choice&) final { return ""; }
  std::string End(int64_t, const Choice& choice, const Usage& usage) final { return Last(choice, usage); }

 private:
  virtual std::string Response(const Choice& choice, const Usage& usage) = 0;
  virtual std::string Text(absl::string_view text) = 0;
  virtual std::string Last(const Choice& choice, const Usage& usage) = 0;
};

class ResponsesWriter : public OneAnswerWriter {
 public:
  explicit ResponsesWriter(Answer answer) : answer_(answer), stream_(std::move(answer)) {}
  std::string Begin(const Usage&) override { return stream_.Begin(); }
  std::string Error(const absl::Status& status) override { return stream_.Error(status); }

 private:
  std::string Response(const Choice& choice, const Usage& usage) override {
    return responses::Response(answer_, choice.answer.text, choice.finish, usage);
  }
  std::string Text(absl::string_view text) override { return stream_.Text(text); }
  std::string Last(const Choice& choice, const Usage& usage) override { return stream_.End(choice.finish, usage); }

  const Answer answer_;
  responses::Stream stream_;
};

class AnthropicWriter : public OneAnswerWriter {
 public:
  explicit AnthropicWriter(Answer answer) : answer_(std::move(answer)) {}
  std::string Begin(const Usage& known) override { return anthropic::StreamBegin(answer_, known); }
  std::string Error(const absl::Status& status) override { return anthropic::StreamError(status); }

 private:
  std::string Response(const Choice& choice, const Usage& usage) override {
    return anthropic::Response(answer_, choice.answer.text, choice.finish, choice.stop, usage);
  }
  std::string Text(absl::string_view text) override { return anthropic::StreamText(text); }
  std::string Last(const Choice& choice, const Usage& usage) override {
    return anthropic::StreamEnd(answer_, choice.finish, choice.stop, usage);
  }

  const Answer answer_;
};

class OpenAi : public Dialect {
 public:
  int HttpStatus(const absl::Status& status) const override { return openai::HttpStatus(status); }
  std::string ErrorBody(const absl::Status& status) const override { return openai::ErrorBody(status); }
};

class OpenAiChat : public OpenAi {
  absl::StatusOr<CompletionRequest> Parse(absl::string_view body) const override { return openai::ParseChat(body); }
  std::unique_ptr<AnswerWriter> NewAnswer(const CompletionRequest& request) const override {
    return std::make_unique<OpenAiWriter>(openai::Kind::kChat, serve::NewAnswer("chatcmpl-", request));
  }
};

class OpenAiCompletion : public OpenAi {
  absl::StatusOr<CompletionRequest> Parse(absl::string_view body) const override {
    return openai::ParseCompletion(body);
  }
  std::unique_ptr<AnswerWriter> NewAnswer(const CompletionRequest& request) const override {
    return std::make_unique<OpenAiWriter>(openai::Kind::kCompletion, serve::NewAnswer("cmpl-", request));
  }
};

class OpenAiResponses : public OpenAi {
  absl::StatusOr<CompletionRequest> Parse(absl::string_view body) const override { return responses::Parse(body); }
  std::unique_ptr<AnswerWriter> NewAnswer(const CompletionRequest& request) const override {
    return std::make_unique<ResponsesWriter>(serve::NewAnswer("resp_", request));
  }
};

class Anthropic : public Dialect {
  absl::StatusOr<CompletionRequest> Parse(absl::string_view body) const override {
    return anthropic::ParseMessages(body);
  }
  std::unique_ptr<AnswerWriter> NewAnswer(const CompletionRequest& request) const override {
    return std::make_unique<AnthropicWriter>(serve::NewAnswer("msg_", request));
  }
  int HttpStatus(const absl::Status& status) const override { return anthropic::HttpStatus(status); }
  std::string ErrorBody(const absl::Status& status) const override { return anthropic::ErrorBody(status); }
};

}  // namespace

const Dialect& ChatDialect() {
  static const OpenAiChat dialect;
  return dialect;
}
const Dialect& CompletionDialect() {
  static const OpenAiCompletion dialect;
  return dialect;
}
const Dialect& ResponsesDialect() {
  static const OpenAiResponses dialect;
  return dialect;
}
const Dialect& MessagesDialect() {
  static const Anthropic dialect;
  return dialect;
}

}  // namespace kvlink::serve
