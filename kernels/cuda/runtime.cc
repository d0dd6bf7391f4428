// The CUDA runtime behind the interface that tests emulate: memory pools, copies, streams, graphs, errors as Status.
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
  static_cast<void>(cudaGetLastError());  // otherwise the next launch would report it again
  const std::string text = absl::StrCat("CUDA: ", what, ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text) : absl::InternalError(text);
}

// Device memory from pools: freed memory is reused without the driver, and without waiting for the device. Each pool
// has a stream used only for allocating and freeing.
class Pools {
 public:
  // From the pool of the device in use.
  absl::StatusOr<void*> Allocate(int64_t bytes, absl::string_view what) {
    KVLINK_ASSIGN_OR_RETURN(const Pool pool, OfThisDevice());
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    KVLINK_ASSIGN_OR_RETURN(void* begin, Take(pool, bytes, what));
    if (reinterpret_cast<uintptr_t>(begin) % kAlignment != 0) {
      // CUDA promises 256 bytes; in practice, sizes that are multiples of ours keep pools aligned.
      cudaFreeAsync(begin, pool.stream);
      KVLINK_ASSIGN_OR_RETURN(begin, Take(pool, bytes + kAlignment, what));
    }
    const uintptr_t at = reinterpret_cast<uintptr_t>(begin);
    void* aligned = reinterpret_cast<void*>((at + kAlignment - 1) / kAlignment * kAlignment);
    MutexLock lock(&mutex_);
    given_[aligned] = {begin, pool.stream};
    return aligned;
  }
  void Free(void* memory) {
    Given given;
    {
      MutexLock lock(&mutex_);
      const auto found = given_.find(memory);
      if (found == given_.end()) return;
      given = found->second;
      given_.erase(found);
    }
    cudaFreeAsync(given.begin, given.stream);
  }
  absl::StatusOr<int64_t> InUse() {
    KVLINK_ASSIGN_OR_RETURN(const Pool pool, OfThisDevice());
    KVLINK_RETURN_IF_ERROR(Check(cudaStreamSynchronize(pool.stream), "memory in use"));  // let pending frees complete
    uint64_t bytes = 0;
    KVLINK_RETURN_IF_ERROR(
        Check(cudaMemPoolGetAttribute(pool.pool, cudaMemPoolAttrUsedMemCurrent, &bytes), "memory in use"));
    return static_cast<int64_t>(bytes);
  }

 private:
  struct Pool {
    cudaMemPool_t pool = nullptr;
    cudaStream_t stream = nullptr;
  };
  struct Given {
    void* begin = nullptr;
    cudaStream_t stream = nullptr;
  };

  // On return the memory is usable by every stream.
  static absl::StatusOr<void*> Take(const Pool& pool, int64_t bytes, absl::string_view what) {
    void* begin = nullptr;
    cudaError_t error = cudaMallocFromPoolAsync(&begin, static_cast<size_t>(bytes), pool.pool, pool.stream);
    if (error == cudaErrorMemoryAllocation) {
      // The pool may hold the missing memory in fragments.
      static_cast<void>(cudaGetLastError());
      KVLINK_RETURN_IF_ERROR(Check(cudaStreamSynchronize(pool.stream), what));
      KVLINK_RETURN_IF_ERROR(Check(cudaMemPoolTrimTo(pool.pool, 0), what));
      error = cudaMallocFromPoolAsync(&begin, static_cast<size_t>(bytes), pool.pool, pool.stream);
    }
    KVLINK_RETURN_IF_ERROR(Check(error, what));
    const absl::Status there = Check(cudaStreamSynchronize(pool.stream), what);
    if (there.ok()) return begin;
    cudaFreeAsync(begin, pool.stream);
    return there;
  }

  absl::StatusOr<Pool> OfThisDevice() {
    int device = 0;
    KVLINK_RETURN_IF_ERROR(Check(cudaGetDevice(&device), "device"));
    MutexLock lock(&mutex_);
    const auto found = pools_.find(device);
    if (found != pools_.end()) return found->second;
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    Pool pool;
    KVLINK_RETURN_IF_ERROR(Check(cudaMemPoolCreate(&pool.pool, &properties), "memory pool"));
    uint64_t keep = std::numeric_limits<uint64_t>::max();
    absl::Status made =
        Check(cudaMemPoolSetAttribute(pool.pool, cudaMemPoolAttrReleaseThreshold, &keep), "memory pool");
    if (made.ok()) made = Check(cudaStreamCreateWithFlags(&pool.stream, cudaStreamNonBlocking), "new stream");
    if (!made.ok()) {
      cudaMemPoolDestroy(pool.pool);
      return made;
    }
    return pools_[device] = pool;
  }

  Mutex mutex_;
  std::map<int, Pool> pools_ ABSL_GUARDED_BY(mutex_);  // by device; live as long as the process
  std::map<void*, Given> given_ ABSL_GUARDED_BY(mutex_);
};
Pools& ThePools() {
  static auto* pools = new Pools;
  return *pools;
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
  int pools = 0;
  KVLINK_RETURN_IF_ERROR(Check(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, index), "device"));
  if (pools == 0) {
    return absl::UnavailableError(
        absl::StrCat("CUDA device ", index, " has no memory pools (an old driver?); use --device cpu"));
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
  return ThePools().Allocate(bytes, what);
}
void FreeDevice(void* memory) { ThePools().Free(memory); }

absl::StatusOr<int64_t> MemoryInUse() { return ThePools().InUse(); }

absl::StatusOr<void*> AllocatePlain(int64_t bytes) {
  void* memory = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cudaMalloc(&memory, static_cast<size_t>(bytes)),
                               absl::StrCat("no ", bytes, " bytes of device memory for the network")));
  if (reinterpret_cast<uintptr_t>(memory) % kAlignment == 0) return memory;
  // CUDA promises 256 bytes; in practice, allocations of 1 MiB and more are whole device pages.
  FreePlain(memory);
  return absl::InternalError(absl::StrCat("CUDA: ", bytes, " bytes of device memory that begin within a page"));
}
void FreePlain(void* memory) { cudaFree(memory); }

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

absl::Status BeginCapture(void* stream) {
  // Other threads may continue to allocate and wait.
  return Check(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal), "capture");
}
absl::StatusOr<void*> EndCapture(void* stream) {
  cudaGraph_t graph = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph), "capture"));
  return graph;
}
void DestroyGraph(void* graph) { cudaGraphDestroy(static_cast<cudaGraph_t>(graph)); }
absl::StatusOr<void*> MakeExecutable(void* graph) {
  cudaGraphExec_t executable = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cudaGraphInstantiate(&executable, static_cast<cudaGraph_t>(graph), 0), "new graph"));
  return executable;
}
bool UpdateExecutable(void* executable, void* graph) {
  cudaGraphExecUpdateResultInfo info = {};
  const cudaError_t error =
      cudaGraphExecUpdate(static_cast<cudaGraphExec_t>(executable), static_cast<cudaGraph_t>(graph), &info);
  return Check(error, "update of a graph").ok();
}
void DestroyExecutable(void* executable) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable)); }
absl::Status LaunchExecutable(void* executable, void* stream) {
  return Check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable), static_cast<cudaStream_t>(stream)), "graph");
}

absl::Status LaunchStatus(absl::string_view operation, int error) {
  return Check(static_cast<cudaError_t>(error), operation);
}

}  // namespace kvlink::kernels::cuda
