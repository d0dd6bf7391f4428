// The filter that keeps an answer to the form that the client asked for. Thread-safety: pure function.
#ifndef KVLINK_WORKER_SERVE_ANSWER_FILTER_H_
#define KVLINK_WORKER_SERVE_ANSWER_FILTER_H_

#include "absl/status/statusor.h"
#include "worker/files/config.h"
#include "worker/grammar/filters.h"
#include "worker/infer/token_filter.h"
#include "worker/serve/api/request.h"

namespace kvlink::serve {

// Empty for text. INVALID_ARGUMENT naming the member: a schema that is not understood, or that the model's tokenizer
// cannot write. RESOURCE_EXHAUSTED: as grammar::Filters. UNIMPLEMENTED: a model that cannot end an answer.
absl::StatusOr<infer::NewTokenFilter> FilterOf(const AnswerFormat& format, const model::ModelConfig& config,
                                               grammar::Filters& filters);

}  // namespace kvlink::serve

#endif  // KVLINK_WORKER_SERVE_ANSWER_FILTER_H_
