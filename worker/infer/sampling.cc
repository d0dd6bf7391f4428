// The end of a pass: the next token of each conversation, all in one launch, and the log-probabilities that some of
// them ask for.
#include <algorithm>

#include "base/status.h"
#include "worker/infer/engine_internal.h"

namespace kvlink::infer {
namespace {

// Appends dense rows of logits, which are valid once the stream has been waited for.
absl::Status AppendLogits(kernels::Backend& backend, kernels::Stream& stream, const kernels::Tensor& logits,
                          std::vector<float>* out) {
  const size_t begin = out->size();
  out->resize(begin + static_cast<size_t>(logits.elements()));
  return backend.CopyOut(stream, logits.data, out->data() + begin,
                         logits.elements() * static_cast<int64_t>(sizeof(float)));
}

void FillAllowed(TokenFilter& filter, absl::Span<const int32_t> ends, absl::Span<uint32_t> bits) {
  filter.Allowed(bits);
  const bool may_end = filter.MayEnd();
  for (const int32_t end : ends) {
    const auto word = static_cast<size_t>(end) / 32;
    if (end < 0 || word >= bits.size()) continue;
    const uint32_t bit = uint32_t{1} << (end % 32);
    bits[word] = may_end ? bits[word] | bit : bits[word] & ~bit;
  }
}

}  // namespace

// Of the rows that are sampled. The launch reads and writes these arrays until it has completed.
struct Generator::Sampling {
  std::vector<Rows*> rows;  // in the order of their logits
  std::vector<kernels::SampleParams> params;
  std::vector<kernels::RowAdjustments> adjustments;  // empty: of no row
  int64_t adjusted = 0;                              // rows with adjustments
  std::vector<uint32_t> allowed;                     // of those with a filter, one after another
  std::vector<int64_t> asked;                        // which rows' log-probabilities are
  int64_t top = 0;                                   // the most that one of them asks for
  std::vector<int32_t> ids;                          // [rows]
  std::vector<float> logprobs;                       // [asked, 1 + top]
  std::vector<int32_t> likeliest;                    // [asked, top]

  int64_t count() const { return static_cast<int64_t>(rows.size()); }

  // The results in device memory, one after another.
  struct Results {
    kernels::Tensor ids, logprobs, likeliest;
  };
  int64_t result_bytes() const {
    return static_cast<int64_t>((ids.size() + likeliest.size()) * sizeof(int32_t) + logprobs.size() * sizeof(float));
  }
  Results ResultsAt(void* memory, kernels::Device device) const {
    const auto n = static_cast<int64_t>(asked.size());
    auto* at = static_cast<std::byte*>(memory);
    Results results;
    results.ids = kernels::Tensor::Dense(at, kernels::Dtype::kI32, device, {count()});
    at += results.ids.bytes;
    results.logprobs = kernels::Tensor::Dense(at, kernels::Dtype::kF32, device, {n, 1 + top});
    at += results.logprobs.bytes;
    results.likeliest = kernels::Tensor::Dense(at, kernels::Dtype::kI32, device, {n, top});
    return results;
  }
};

void Generator::FillSampling(absl::Span<Rows* const> rows, int64_t vocab, Sampling* sampling) const {
  size_t filters = 0;
  for (Rows* one : rows) {
    if (!one->sample) continue;
    const Conversation& conversation = *one->conversation;
    sampling->rows.push_back(one);
    sampling->params.push_back(conversation.sampling_);
    sampling->params.back().position = one->positions.back() + 1;
    if (conversation.state_ != nullptr) {
      ++sampling->adjusted;
      filters += conversation.state_->filter() == nullptr ? 0 : 1;
    }
    if (!conversation.top_logprobs_.has_value()) continue;
    sampling->asked.push_back(sampling->count() - 1);
    sampling->top = std::max(sampling->top, *conversation.top_logprobs_);
  }
  sampling->ids.resize(sampling->rows.size());
  sampling->logprobs.resize(sampling->asked.size() * static_cast<size_t>(1 + sampling->top));
  sampling->likeliest.resize(sampling->asked.size() * static_cast<size_t>(sampling->top));
  if (sampling->adjusted == 0) return;
  sampling->adjustments.resize(sampling->rows.size());
  const auto words = static_cast<size_t>((vocab + 31) / 32);
  sampling->allowed.resize(filters * words);
  absl::Span<uint32_t> left = absl::MakeSpan(sampling->allowed);
  for (size_t i = 0; i < sampling->rows.size(); ++i) {
    const AnswerState* const state = sampling->rows[i]->conversation->state_.get();
    if (state == nullptr) continue;
    sampling->adjustments[i].tokens = state->adjustments();
    if (state->filter() == nullptr) continue;
    FillAllowed(*state->filter(), model_->config().end_of_sequence, left.first(words));
    sampling->adjustments[i].allowed = left.data();
    left.remove_prefix(words);
  }
}

absl::Status Generator::Sample(Context& context, absl::Span<Rows* const> rows, const kernels::Tensor& logits) {
  if (logits.sizes[0] == 0) return absl::OkStatus();
  kernels::Backend& backend = *model_->backend();
  const int64_t vocab = logits.sizes[1];
  Sampling sampling;
  FillSampling(rows, vocab, &sampling);
  const int64_t workspace = backend.SampleWorkspaceBytes(sampling.count(), vocab, sampling.adjusted);
  KVLINK_RETURN_IF_ERROR(Grow(backend, workspace, &context.sampling));
  KVLINK_RETURN_IF_ERROR(Grow(backend, sampling.result_bytes(), &context.sampled));
  const absl::Status launched = LaunchSampling(context, rows, logits, &sampling);
  // Wait even after an error: launched work uses the arrays.
  const absl::Status finished = context.stream->Synchronize();
  KVLINK_RETURN_IF_ERROR(launched);
  KVLINK_RETURN_IF_ERROR(finished);
  for (size_t i = 0; i < sampling.rows.size(); ++i) {
    sampling.rows[i]->sampled.token = sampling.ids[i];
    if (sampling.ids[i] != kernels::kNoToken) continue;
    sampling.rows[i]->status =
        absl::InternalError("the answer cannot go on: no token that may come next has a logit above -inf");
  }
  const auto top = static_cast<size_t>(sampling.top);
  for (size_t i = 0; i < sampling.asked.size(); ++i) {
    Rows& one = *sampling.rows[static_cast<size_t>(sampling.asked[i])];
    const float* const logprobs = sampling.logprobs.data() + i * (1 + top);
    one.sampled.logprob = logprobs[0];
    const auto wanted = static_cast<size_t>(*one.conversation->top_logprobs_);
    for (size_t rank = 0; rank < wanted; ++rank) {
      const int32_t token = sampling.likeliest[i * top + rank];
      if (token != kernels::kNoToken) one.sampled.likeliest.push_back({token, logprobs[1 + rank]});
    }
  }
  return absl::OkStatus();
}

// Every row of logits is sampled from, except in a pass that is scored, of one conversation: there only the last one
// is.
absl::Status Generator::LaunchSampling(Context& context, absl::Span<Rows* const> rows, const kernels::Tensor& logits,
                                       Sampling* sampling) {
  kernels::Backend& backend = *model_->backend();
  kernels::Stream& stream = *context.stream;
  if (rows[0]->scores != nullptr) KVLINK_RETURN_IF_ERROR(AppendLogits(backend, stream, logits, rows[0]->scores));
  const int64_t count = sampling->count();
  if (count == 0) return absl::OkStatus();
  const kernels::Tensor sampled = logits.Slice(logits.sizes[0] - count, count);
  const Sampling::Results results = sampling->ResultsAt(context.sampled.data(), backend.device());
  kernels::SampleArgs args;
  args.logits = sampled;
  args.params = sampling->params;
  args.out = results.ids;
  args.workspace = {context.sampling.data(), context.sampling.bytes()};
  args.adjustments = sampling->adjustments;
  KVLINK_RETURN_IF_ERROR(backend.Sample(stream, args));
  KVLINK_RETURN_IF_ERROR(backend.CopyOut(stream, results.ids.data, sampling->ids.data(), results.ids.bytes));
  if (!sampling->asked.empty()) {
    kernels::LogprobsArgs logprobs;
    logprobs.logits = sampled;
    logprobs.rows = sampling->asked;
    logprobs.tokens = results.ids;
    logprobs.top = sampling->top;
    logprobs.out = results.logprobs;
    logprobs.likeliest = results.likeliest;
    KVLINK_RETURN_IF_ERROR(backend.Logprobs(stream, logprobs));
    KVLINK_RETURN_IF_ERROR(
        backend.CopyOut(stream, results.logprobs.data, sampling->logprobs.data(), results.logprobs.bytes));
    KVLINK_RETURN_IF_ERROR(
        backend.CopyOut(stream, results.likeliest.data, sampling->likeliest.data(), results.likeliest.bytes));
  }
  for (int64_t row = 0; row < count; ++row) {
    Conversation& conversation = *sampling->rows[static_cast<size_t>(row)]->conversation;
    if (!conversation.keep_logits_) continue;
    conversation.logits_.clear();
    KVLINK_RETURN_IF_ERROR(AppendLogits(backend, stream, sampled.Slice(row, 1), &conversation.logits_));
  }
  return absl::OkStatus();
}

}  // namespace kvlink::infer
