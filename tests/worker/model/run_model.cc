#include "tests/worker/model/run_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/status.h"
#include "worker/files/safetensors.h"

namespace kvlink::model {

absl::StatusOr<Golden> Golden::Open(const std::string& path) {
  Golden golden;
  KVLINK_ASSIGN_OR_RETURN(golden.file_, MappedFile::Open(path));
  KVLINK_ASSIGN_OR_RETURN(const std::vector<SourceTensor> tensors, ParseSafetensors(golden.file_->bytes()));
  for (const SourceTensor& tensor : tensors) golden.tensors_[tensor.name] = tensor;
  return golden;
}

template <typename T>
std::vector<T> Copy(const std::map<std::string, SourceTensor>& tensors, const std::string& name, const char* type) {
  const auto it = tensors.find(name);
  if (it == tensors.end() || it->second.type != type) return {};
  std::vector<T> values(it->second.bytes.size() / sizeof(T));
  std::memcpy(values.data(), it->second.bytes.data(), it->second.bytes.size());
  return values;
}

std::vector<int32_t> Golden::Ints(const std::string& name) const { return Copy<int32_t>(tensors_, name, "I32"); }
std::vector<float> Golden::Floats(const std::string& name) const { return Copy<float>(tensors_, name, "F32"); }

absl::StatusOr<std::unique_ptr<Runner>> Runner::Open(kernels::Backend* backend, const std::string& path,
                                                     int64_t tokens) {
  std::unique_ptr<Runner> runner(new Runner());
  KVLINK_ASSIGN_OR_RETURN(const std::unique_ptr<Weights> weights, OpenWeights(path));
  KVLINK_ASSIGN_OR_RETURN(runner->model_, Model::Load(backend, *weights, {}));
  KVLINK_ASSIGN_OR_RETURN(runner->pages_, KvPages::Create(backend, runner->model_->config(), backend->compute_dtype(),
                                                          (tokens + kBlockTokens - 1) / kBlockTokens));
  runner->context_ = runner->model_->NewContext();
  return runner;
}

absl::StatusOr<kernels::Tensor> Runner::Run(KvSequence& sequence, absl::Span<const int32_t> tokens, bool all_logits) {
  const auto rows = static_cast<int64_t>(tokens.size());
  std::vector<int64_t> positions(rows), wanted(all_logits ? rows : 1, rows - 1);
  std::iota(positions.begin(), positions.end(), sequence.tokens());
  if (all_logits) std::iota(wanted.begin(), wanted.end(), 0);
  KVLINK_ASSIGN_OR_RETURN(const std::vector<int64_t> slots, sequence.Append(positions));
  const kernels::KvSegment segment = sequence.segment();
  const kernels::KvRead read{0, 0, rows, 0, nullptr};
  ForwardBatch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slots = slots;
  batch.pages = pages_.get();
  batch.segments = {&segment, 1};
  batch.reads = {&read, 1};
  batch.logits_rows = wanted;
  return Forward(batch);
}

absl::StatusOr<kernels::Tensor> Runner::Step(absl::Span<const std::unique_ptr<KvSequence>> sequences,
                                             absl::Span<const int32_t> tokens) {
  std::vector<int64_t> positions, slots, wanted;
  std::vector<kernels::KvSegment> segments;
  std::vector<kernels::KvRead> reads;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int64_t position = sequences[i]->tokens();
    KVLINK_ASSIGN_OR_RETURN(const std::vector<int64_t> slot, sequences[i]->Append({position}));
    positions.push_back(position);
    slots.push_back(slot[0]);
    wanted.push_back(static_cast<int64_t>(i));
    segments.push_back(sequences[i]->segment());
    reads.push_back({static_cast<int32_t>(i), static_cast<int64_t>(i), 1, 0, nullptr});
  }
  ForwardBatch batch;
  batch.tokens = tokens;
  batch.positions = positions;
  batch.slots = slots;
  batch.pages = pages_.get();
  batch.segments = segments;
  batch.reads = reads;
  batch.logits_rows = wanted;
  return Forward(batch);
}

absl::StatusOr<kernels::Tensor> Runner::Forward(const ForwardBatch& batch) {
  KVLINK_ASSIGN_OR_RETURN(const kernels::Tensor logits, model_->Forward(*context_, batch));
  logits_.resize(logits.elements());
  kernels::Backend& backend = *model_->backend();
  const auto stream = backend.NewStream();
  KVLINK_RETURN_IF_ERROR(backend.CopyOut(*stream, logits.data, logits_.data(), logits.bytes));
  KVLINK_RETURN_IF_ERROR(stream->Synchronize());
  return kernels::Tensor::Dense(logits_.data(), kernels::Dtype::kF32, {}, {logits.sizes[0], logits.sizes[1]});
}

absl::Span<const float> Row(const kernels::Tensor& logits, int64_t row) {
  return {logits.as<float>() + row * logits.strides[0], static_cast<size_t>(logits.sizes[1])};
}

int32_t ArgMax(absl::Span<const float> values) {
  return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

static double LogSumExp(absl::Span<const float> values) {
  const double largest = *std::max_element(values.begin(), values.end());
  double sum = 0;
  for (const float value : values) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

std::vector<double> Stats(absl::Span<const float> values) {
  double sum = 0, squares = 0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const auto count = static_cast<double>(values.size());
  return {*std::max_element(values.begin(), values.end()), sum / count, LogSumExp(values), std::sqrt(squares / count)};
}

double KlDivergence(absl::Span<const float> p, absl::Span<const float> q) {
  const double p_norm = LogSumExp(p), q_norm = LogSumExp(q);
  double divergence = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_norm;
    divergence += std::exp(log_p) * (log_p - (q[i] - q_norm));
  }
  return divergence;
}

}  // namespace kvlink::model
