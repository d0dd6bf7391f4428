// One stream and one upload at a time, under a lock: checksums are cheap compared with the pulls they verify.
#include "kernels/device/device_checksums.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::kernels {

absl::Status DeviceChecksums::Compute(const std::byte* memory, int64_t bytes, absl::Span<const int64_t> offsets,
                                      absl::Span<const int64_t> lengths, absl::Span<uint64_t> out) {
  if (offsets.size() != out.size() || lengths.size() != out.size()) {
    return absl::InvalidArgumentError(absl::StrCat("checksums: ", offsets.size(), " offsets, ", lengths.size(),
                                                   " lengths and ", out.size(), " results"));
  }
  if (out.empty()) return absl::OkStatus();
  const Tensor all = Tensor::Dense(const_cast<std::byte*>(memory), Dtype::kU8, backend_->device(), {bytes});
  MutexLock lock(&mutex_);
  const absl::Status status = Launch(all, offsets, lengths, out);
  if (!status.ok()) stream_ = nullptr;  // it may keep failing
  return status;
}

absl::Status DeviceChecksums::Launch(const Tensor& memory, absl::Span<const int64_t> offsets,
                                     absl::Span<const int64_t> lengths, absl::Span<uint64_t> out) {
  const auto count = static_cast<int64_t>(out.size());
  const int64_t bytes = count * DtypeBytes(Dtype::kU64);
  if (results_.bytes() < bytes) {
    results_.reset();
    KVLINK_ASSIGN_OR_RETURN(results_, backend_->Allocate(bytes));
  }
  if (stream_ == nullptr) stream_ = backend_->NewStream();
  const Tensor results = Tensor::Dense(results_.data(), Dtype::kU64, backend_->device(), {count});
  absl::Status status = backend_->Checksum(*stream_, {memory, offsets, lengths, results});
  if (status.ok()) status = backend_->CopyOut(*stream_, results_.data(), out.data(), bytes);
  // Wait even after an error: launched work writes to the caller's memory.
  const absl::Status finished = stream_->Synchronize();
  KVLINK_RETURN_IF_ERROR(status);
  return finished;
}

}  // namespace kvlink::kernels
