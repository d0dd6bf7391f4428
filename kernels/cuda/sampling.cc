// Host arrays go through the stream's ring, in as many launches as that takes: one, but for thousands of adjustments.
#include "kernels/cuda/sampling.h"

#include <vector>

#include "base/status.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/runtime.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr size_t kMaxStaged = CudaStream::kMaxStaged;

template <typename T>
absl::StatusOr<const T*> StageAll(CudaStream& stream, const std::vector<T>& values) {
  KVLINK_ASSIGN_OR_RETURN(const void* staged,
                          stream.Stage(values.data(), static_cast<int64_t>(values.size() * sizeof(T))));
  return static_cast<const T*>(staged);
}

// Fills `adjusted`, [adjusted rows][vocab].
class Adjuster {
 public:
  Adjuster(CudaStream& stream, const SampleArgs& args)
      : stream_(stream),
        args_(args),
        adjusted_(static_cast<float*>(args.workspace.data)),
        vocab_(args.logits.sizes[1]),
        words_((vocab_ + 31) / 32) {}

  absl::Status Run() {
    for (size_t row = 0; row < args_.adjustments.size(); ++row) {
      const RowAdjustments& adjustments = args_.adjustments[row];
      if (!adjustments.any()) continue;
      const float* from = args_.logits.as<const float>() + static_cast<int64_t>(row) * args_.logits.strides[0];
      KVLINK_RETURN_IF_ERROR(
          Copy(stream_.handle(), adjusted_ + rows_ * vocab_, from, vocab_ * static_cast<int64_t>(sizeof(float))));
      if (adjustments.allowed != nullptr) KVLINK_RETURN_IF_ERROR(AddMask(adjustments.allowed));
      for (const LogitAdjustment& adjustment : adjustments.tokens) {
        if (placed_.size() == kMaxStaged / sizeof(PlacedAdjustment)) KVLINK_RETURN_IF_ERROR(Adjust());
        placed_.push_back({rows_ * vocab_ + adjustment.token, adjustment});
      }
      ++rows_;
    }
    KVLINK_RETURN_IF_ERROR(Mask());
    return Adjust();
  }

 private:
  absl::Status AddMask(const uint32_t* allowed) {
    const auto added = static_cast<size_t>(1 + words_);
    if ((masks_.size() + added) * sizeof(uint32_t) > kMaxStaged) KVLINK_RETURN_IF_ERROR(Mask());
    masks_.push_back(static_cast<uint32_t>(rows_));
    masks_.insert(masks_.end(), allowed, allowed + words_);
    return absl::OkStatus();
  }

  // What is not allowed is -inf, which adjusting keeps, before or after.
  absl::Status Mask() {
    if (masks_.empty()) return absl::OkStatus();
    KVLINK_ASSIGN_OR_RETURN(const uint32_t* staged, StageAll(stream_, masks_));
    const int64_t rows = static_cast<int64_t>(masks_.size()) / (1 + words_);
    masks_.clear();
    return LaunchStatus("Sample", LaunchMask(stream_.handle(), {adjusted_, staged, rows, vocab_, words_}));
  }

  absl::Status Adjust() {
    if (placed_.empty()) return absl::OkStatus();
    KVLINK_ASSIGN_OR_RETURN(const PlacedAdjustment* staged, StageAll(stream_, placed_));
    const auto count = static_cast<int64_t>(placed_.size());
    placed_.clear();
    return LaunchStatus("Sample", LaunchAdjust(stream_.handle(), {adjusted_, staged, count}));
  }

  CudaStream& stream_;
  const SampleArgs& args_;
  float* const adjusted_;
  const int64_t vocab_, words_;
  int64_t rows_ = 0;  // adjusted rows so far
  std::vector<uint32_t> masks_;
  std::vector<PlacedAdjustment> placed_;
};

}  // namespace

absl::Status Sample(CudaStream& stream, const SampleArgs& args) {
  KVLINK_RETURN_IF_ERROR(stream.Use());
  if (!args.adjustments.empty()) KVLINK_RETURN_IF_ERROR(Adjuster(stream, args).Run());
  constexpr size_t kMost = kMaxStaged / sizeof(SampleRowParams);
  std::vector<SampleRowParams> params;
  int64_t adjusted = 0;
  for (size_t first = 0; first < args.params.size(); first += kMost) {
    const size_t count = std::min(kMost, args.params.size() - first);
    params.clear();
    for (size_t row = first; row < first + count; ++row) {
      const SampleParams& p = args.params[row];
      const bool own = !args.adjustments.empty() && args.adjustments[row].any();
      params.push_back({p.temperature, p.top_p, p.min_p, p.top_k, p.seed, p.position, own ? adjusted++ : -1});
    }
    SampleLaunch launch;
    KVLINK_ASSIGN_OR_RETURN(launch.params, StageAll(stream, params));
    launch.stride = args.logits.strides[0];
    launch.logits = args.logits.as<const float>() + static_cast<int64_t>(first) * launch.stride;
    launch.adjusted = static_cast<const float*>(args.workspace.data);
    launch.rows = static_cast<int64_t>(count), launch.vocab = args.logits.sizes[1];
    launch.out = args.out.as<int32_t>() + first;
    KVLINK_RETURN_IF_ERROR(LaunchStatus("Sample", LaunchSample(stream.handle(), launch)));
  }
  return absl::OkStatus();
}

absl::Status Logprobs(CudaStream& stream, const LogprobsArgs& args) {
  KVLINK_RETURN_IF_ERROR(stream.Use());
  constexpr size_t kMost = kMaxStaged / sizeof(int64_t);
  for (size_t first = 0; first < args.rows.size(); first += kMost) {
    const size_t count = std::min(kMost, args.rows.size() - first);
    LogprobsLaunch launch;
    KVLINK_ASSIGN_OR_RETURN(const void* staged,
                            stream.Stage(args.rows.data() + first, static_cast<int64_t>(count * sizeof(int64_t))));
    launch.rows = static_cast<const int64_t*>(staged);
    launch.logits = args.logits.as<const float>();
    launch.tokens = args.tokens.as<const int32_t>();
    launch.stride = args.logits.strides[0], launch.vocab = args.logits.sizes[1];
    launch.count = static_cast<int64_t>(count), launch.top = args.top;
    launch.out_stride = args.out.strides[0], launch.likeliest_stride = args.likeliest.strides[0];
    launch.out = args.out.as<float>() + static_cast<int64_t>(first) * launch.out_stride;
    launch.likeliest = args.likeliest.as<int32_t>() + static_cast<int64_t>(first) * launch.likeliest_stride;
    KVLINK_RETURN_IF_ERROR(LaunchStatus("Logprobs", LaunchLogprobs(stream.handle(), launch)));
  }
  return absl::OkStatus();
}

}  // namespace kvlink::kernels::cuda
