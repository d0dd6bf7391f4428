#include "kernels/cuda/runtime.h"

#include <cuda_runtime.h>

#include <limits>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int64_t kAlignment = 4096;

absl::Status Check(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  static_cast<void>(cudaGetLastError());  // or the next launch would report it again
  const std::string text = absl::StrCat("CUDA: ", what, ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text) : absl::InternalError(text);
}

// Where cudaMalloc, which aligns to 256 bytes, put memory that begins elsewhere for our alignment.
class Begins {
 public:
  void Add(void* aligned, void* begin) {
    MutexLock lock(&mutex_);
    begins_[aligned] = begin;
  }
  void* Take(void* aligned) {
    MutexLock lock(&mutex_);
    const auto found = begins_.find(aligned);
    if (found == begins_.end()) return aligned;
    void* begin = found->second;
    begins_.erase(found);
    return begin;
  }

 private:
  Mutex mutex_;
  std::map<void*, void*> begins_ ABSL_GUARDED_BY(mutex_);
};
Begins& TheBegins() {
  static auto* begins = new Begins;
  return *begins;
}

}  // namespace

absl::Status OpenDevice(int index) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());
    return absl::UnavailableError(
        absl::StrCat("no CUDA device: ", error == cudaSuccess ? "the driver lists none" : cudaGetErrorString(error),
                     "; use --device cpu"));
  }
  if (index < 0 || index >= count) {
    return absl::UnavailableError(absl::StrCat("no CUDA device ", index, " of ", count, "; use --device cpu"));
  }
  int major = 0, minor = 0;
  KVLINK_RETURN_IF_ERROR(Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "device"));
  KVLINK_RETURN_IF_ERROR(Check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "device"));
  if (major < 8) {
    return absl::UnavailableError(absl::StrCat("CUDA device ", index, " has compute capability ", major, ".", minor,
                                               ", 8.0 is needed; use --device cpu"));
  }
  return absl::OkStatus();
}

absl::Status UseDevice(int index) { return Check(cudaSetDevice(index), absl::StrCat("device ", index)); }

absl::StatusOr<void*> CreateStream() {
  cudaStream_t stream = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "new stream"));
  return stream;
}
void DestroyStream(void* stream) { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }
absl::Status SynchronizeStream(void* stream) {
  return Check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "stream");
}

absl::StatusOr<void*> CreateEvent() {
  cudaEvent_t event = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "new event"));
  return event;
}
void DestroyEvent(void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
absl::Status RecordEvent(void* event, void* stream) {
  return Check(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)), "event");
}
absl::Status WaitEvent(void* stream, void* event) {
  return Check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0), "event");
}
absl::Status SynchronizeEvent(void* event) {
  return Check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "event");
}

absl::StatusOr<void*> AllocateDevice(int64_t bytes) {
  const std::string what = absl::StrCat("Allocate: no ", bytes, " bytes of device memory");
  if (bytes > std::numeric_limits<int64_t>::max() / 2) return absl::ResourceExhaustedError(what);
  void* begin = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cudaMalloc(&begin, static_cast<size_t>(bytes)), what));
  if (reinterpret_cast<uintptr_t>(begin) % kAlignment == 0) return begin;
  cudaFree(begin);
  KVLINK_RETURN_IF_ERROR(Check(cudaMalloc(&begin, static_cast<size_t>(bytes + kAlignment)), what));
  const uintptr_t at = reinterpret_cast<uintptr_t>(begin);
  void* aligned = reinterpret_cast<void*>((at + kAlignment - 1) / kAlignment * kAlignment);
  if (aligned != begin) TheBegins().Add(aligned, begin);
  return aligned;
}
void FreeDevice(void* memory) { cudaFree(TheBegins().Take(memory)); }

absl::StatusOr<int64_t> MemoryInUse() {
  size_t free = 0, total = 0;
  KVLINK_RETURN_IF_ERROR(Check(cudaMemGetInfo(&free, &total), "memory of the device"));
  return static_cast<int64_t>(total - free);
}

absl::StatusOr<void*> AllocatePinned(int64_t bytes) {
  void* memory = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cudaHostAlloc(&memory, static_cast<size_t>(bytes), cudaHostAllocPortable),
                               absl::StrCat("no ", bytes, " bytes of pinned memory")));
  return memory;
}
void FreePinned(void* memory) { cudaFreeHost(memory); }

absl::Status Copy(void* stream, void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return Check(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
      "copy");
}
absl::Status Fill(void* stream, void* to, int value, int64_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  return Check(cudaMemsetAsync(to, value, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)), "fill");
}

absl::Status LaunchStatus(absl::string_view operation, int error) {
  return Check(static_cast<cudaError_t>(error), operation);
}

}  // namespace kvlink::kernels::cuda
