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
          .report = request.kv.report};
}

class OpenAiWriter : public AnswerWriter {
 public:
  OpenAiWriter(openai::Kind kind, Answer answer) : kind_(kind), answer_(std::move(answer)) {}
  std::string Whole(absl::string_view text, Finish finish, absl::string_view, const Usage& usage) override {
    return openai::Response(kind_, answer_, text, finish, usage);
  }
  std::string Begin(const Usage&) override { return openai::StreamBegin(kind_, answer_); }
  std::string Text(absl::string_view text) override { return openai::StreamText(kind_, answer_, text); }
  std::string End(Finish finish, absl::string_view, const Usage& usage) override {
    return openai::StreamEnd(kind_, answer_, finish, usage);
  }
  std::string Error(const absl::Status& status) override { return openai::StreamError(status); }

 private:
  const openai::Kind kind_;
  const Answer answer_;
};

class ResponsesWriter : public AnswerWriter {
 public:
  explicit ResponsesWriter(Answer answer) : answer_(answer), stream_(std::move(answer)) {}
  std::string Whole(absl::string_view text, Finish finish, absl::string_view, const Usage& usage) override {
    return responses::Response(answer_, text, finish, usage);
  }
  std::string Begin(const Usage&) override { return stream_.Begin(); }
  std::string Text(absl::string_view text) override { return stream_.Text(text); }
  std::string End(Finish finish, absl::string_view, const Usage& usage) override { return stream_.End(finish, usage); }
  std::string Error(const absl::Status& status) override { return stream_.Error(status); }

 private:
  const Answer answer_;
  responses::Stream stream_;
};

class AnthropicWriter : public AnswerWriter {
 public:
  explicit AnthropicWriter(Answer answer) : answer_(std::move(answer)) {}
  std::string Whole(absl::string_view text, Finish finish, absl::string_view stop, const Usage& usage) override {
    return anthropic::Response(answer_, text, finish, stop, usage);
  }
  std::string Begin(const Usage& known) override { return anthropic::StreamBegin(answer_, known); }
  std::string Text(absl::string_view text) override { return anthropic::StreamText(text); }
  std::string End(Finish finish, absl::string_view stop, const Usage& usage) override {
    return anthropic::StreamEnd(answer_, finish, stop, usage);
  }
  std::string Error(const absl::Status& status) override { return anthropic::StreamError(status); }

 private:
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
