// An answer that is kept to JSON ends when the JSON does, so the model must have a token that says so.
#include "worker/serve/answer_filter.h"

#include "absl/strings/str_cat.h"
#include "worker/serve/api/errors.h"

namespace kvlink::serve {

absl::StatusOr<infer::NewTokenFilter> FilterOf(const AnswerFormat& format, const model::ModelConfig& config,
                                               grammar::Filters& filters) {
  if (format.kind == AnswerFormat::Kind::kText) return infer::NewTokenFilter();
  if (config.end_of_sequence.empty()) {
    return absl::UnimplementedError(
        absl::StrCat(format.field, ": the model has no token that ends an answer, and cannot be kept to JSON"));
  }
  auto filter =
      format.kind == AnswerFormat::Kind::kJsonObject ? filters.JsonObject() : filters.JsonSchema(format.schema);
  if (absl::IsInvalidArgument(filter.status())) return ParameterError(format.field, filter.status().message());
  return filter;
}

}  // namespace kvlink::serve
