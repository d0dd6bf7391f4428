// kernels/cuda/runtime.h and matmul.h over host memory. Device memory has exactly the requested size, so that
// AddressSanitizer detects accesses beyond it, and initially holds 0xff. Copies and whole graphs run as late as on a
// device: when their stream is waited for, or when later work in it runs.
#include "kernels/cuda/runtime.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status.h"
#include "kernels/bf16.h"
#include "kernels/cuda/matmul.h"
#include "tests/support/cuda_emulation/backend.h"
#include "tests/support/cuda_emulation/device.h"

namespace kvlink::kernels::cuda {
namespace {

int token;  // stands for every event

// One piece of a stream's work.
struct Work {
  enum Kind { kCopy, kFill, kKernel, kMatmul } kind;
  std::function<void()> run;
  const void* to = nullptr;  // copies only
  const void* from = nullptr;
  size_t bytes = 0;
};
using Works = std::vector<Work>;

// The stream whose work this thread records.
thread_local void* recording = nullptr;

class Streams {
 public:
  void* New() {
    MutexLock lock(&mutex_);
    void* stream = new char;
    streams_[stream];
    return stream;
  }
  void End(void* stream) {
    Finish(stream);
    MutexLock lock(&mutex_);
    streams_.erase(stream);
    delete static_cast<char*>(stream);
  }
  // Queues work to run later.
  void Add(void* stream, Work work) {
    MutexLock lock(&mutex_);
    State& state = streams_[stream];
    (state.recording ? state.recorded : state.pending).push_back(std::move(work));
  }
  void Add(void* stream, const Works& works) {
    for (const Work& work : works) Add(stream, work);
  }
  // Runs work now, after what is pending.
  void Do(void* stream, Work work) {
    {
      MutexLock lock(&mutex_);
      State& state = streams_[stream];
      if (state.recording) {
        state.recorded.push_back(std::move(work));
        return;
      }
      Run(state.pending);
    }
    work.run();
  }
  void Finish(void* stream) {
    MutexLock lock(&mutex_);
    const auto found = streams_.find(stream);
    if (found != streams_.end()) Run(found->second.pending);
  }
  void FinishAll() {
    MutexLock lock(&mutex_);
    for (auto& [stream, state] : streams_) Run(state.pending);
  }
  void Begin(void* stream) {
    MutexLock lock(&mutex_);
    streams_[stream] = {std::move(streams_[stream].pending), {}, /*recording=*/true, /*voided=*/false};
  }
  // Makes the recording void.
  void Void(void* stream) {
    MutexLock lock(&mutex_);
    streams_[stream].voided = true;
  }
  // False if it was voided.
  bool Take(void* stream, Works* recorded) {
    MutexLock lock(&mutex_);
    State& state = streams_[stream];
    state.recording = false;
    *recorded = std::move(state.recorded);
    return !state.voided;
  }
  // Whether a pending copy reads or writes any of these bytes.
  bool Use(const void* memory, int64_t bytes) {
    const auto* begin = static_cast<const std::byte*>(memory);
    const auto overlaps = [&](const void* data, size_t count) {
      const auto* at = static_cast<const std::byte*>(data);
      return count > 0 && at < begin + bytes && begin < at + count;
    };
    MutexLock lock(&mutex_);
    for (const auto& [stream, state] : streams_) {
      for (const Work& work : state.pending) {
        if (overlaps(work.to, work.bytes) || overlaps(work.from, work.bytes)) return true;
      }
    }
    return false;
  }

 private:
  struct State {
    Works pending, recorded;
    bool recording = false, voided = false;
  };
  static void Run(Works& works) {
    for (const Work& work : works) work.run();
    works.clear();
  }

  Mutex mutex_;
  std::map<void*, State> streams_ ABSL_GUARDED_BY(mutex_);
};
Streams& TheStreams() {
  static Streams* streams = new Streams;
  return *streams;
}

// For calls that a recording thread must not make.
absl::Status CheckNotRecording(absl::string_view what) {
  if (recording == nullptr) return absl::OkStatus();
  TheStreams().Void(recording);
  return absl::InternalError(absl::StrCat(what, " while operations are recorded"));
}

// A plain loop that checks the requirements of matmul.h.
class PlainMatmul : public Matmul {
 public:
  int64_t WorkspaceBytes() const override { return 1000; }
  absl::Status Run(void* stream, const MatmulArgs& args) override {
    const auto aligned = [](const void* data, uintptr_t bytes) {
      return reinterpret_cast<uintptr_t>(data) % bytes == 0;
    };
    const int64_t out_bytes = args.out.strides[0] * (args.out.bf16 ? 2 : 4);
    if (!aligned(args.x, 16) || args.x_stride % 8 != 0 || !aligned(args.weight, 16) || args.k % 8 != 0 ||
        !aligned(args.out.data, 16) || out_bytes % 16 != 0 || !aligned(args.workspace.data, 256) ||
        args.workspace.bytes < WorkspaceBytes()) {
      return absl::InternalError("matmul: not aligned as promised");
    }
    if (args.bias != nullptr && (args.out.bf16 || !aligned(args.bias, 16) || args.n % 8 != 0)) {
      return absl::InternalError("matmul: a bias that the library does not take");
    }
    TheStreams().Do(stream, {Work::kMatmul, [this, args] { Multiply(args); }});
    return absl::OkStatus();
  }

 private:
  void Multiply(const MatmulArgs& args) const {
    std::memset(args.workspace.data, 0xff, static_cast<size_t>(args.workspace.bytes));
    for (int64_t row = 0; row < args.rows; ++row) {
      for (int64_t column = 0; column < args.n; ++column) {
        float sum = 0;
        for (int64_t i = 0; i < args.k; ++i) {
          sum += Bf16ToFloat(args.x[row * args.x_stride + i]) * Bf16ToFloat(args.weight[column * args.k + i]);
        }
        if (args.bias != nullptr) sum += args.bias[column];
        const int64_t at = row * args.out.strides[0] + column;
        if (args.out.bf16) {
          static_cast<uint16_t*>(args.out.data)[at] = FloatToBf16(sum);
        } else {
          static_cast<float*>(args.out.data)[at] = sum;
        }
      }
    }
  }
};

std::atomic<bool> exhausted{false};
std::atomic<bool> unrecordable{false};

// Sizes of device memory in use.
struct InUse {
  Mutex mutex;
  std::map<void*, int64_t> sizes ABSL_GUARDED_BY(mutex);
};
InUse& DeviceMemory() {
  static InUse* in_use = new InUse;
  return *in_use;
}

absl::StatusOr<void*> AllocateExactly(int64_t bytes) {
  KVLINK_RETURN_IF_ERROR(CheckNotRecording("allocating"));
  constexpr size_t kAlignment = 4096;
  void* memory = nullptr;
  if (exhausted || bytes > static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) ||
      posix_memalign(&memory, kAlignment, static_cast<size_t>(bytes)) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("Allocate: no ", bytes, " bytes"));
  }
  std::memset(memory, 0xff, static_cast<size_t>(bytes));
  return memory;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Matmul>> MakeMatmul() { return std::make_unique<PlainMatmul>(); }

absl::Status OpenDevice(int) { return absl::OkStatus(); }
absl::Status UseDevice(int) { return absl::OkStatus(); }
absl::StatusOr<void*> CreateStream() { return TheStreams().New(); }
void DestroyStream(void* stream) { TheStreams().End(stream); }
absl::Status SynchronizeStream(void* stream) {
  KVLINK_RETURN_IF_ERROR(CheckNotRecording("waiting for a stream"));
  TheStreams().Finish(stream);
  return absl::OkStatus();
}
absl::StatusOr<void*> CreateEvent() { return &token; }
void DestroyEvent(void*) {}
// Complete at once, so that there is nothing to wait for.
absl::Status RecordEvent(void*, void* stream) { return SynchronizeStream(stream); }
absl::Status WaitEvent(void* stream, void*) {
  return stream == recording ? CheckNotRecording("waiting for an event of another stream") : absl::OkStatus();
}
absl::Status SynchronizeEvent(void*) { return CheckNotRecording("waiting for an event"); }

absl::Status BeginCapture(void* stream) {
  KVLINK_RETURN_IF_ERROR(CheckNotRecording("recording"));
  recording = stream;
  TheStreams().Begin(stream);
  return absl::OkStatus();
}
absl::StatusOr<void*> EndCapture(void* stream) {
  recording = nullptr;
  auto works = std::make_unique<Works>();
  if (!TheStreams().Take(stream, works.get()) || unrecordable) return absl::InternalError("capture: it is void");
  return works.release();
}
void DestroyGraph(void* graph) { delete static_cast<Works*>(graph); }
absl::StatusOr<void*> MakeExecutable(void* graph) { return new Works(*static_cast<Works*>(graph)); }
bool UpdateExecutable(void* executable, void* graph) {
  Works& to = *static_cast<Works*>(executable);
  const Works& from = *static_cast<Works*>(graph);
  const auto alike = [](const Work& a, const Work& b) { return a.kind == b.kind; };
  if (!std::equal(to.begin(), to.end(), from.begin(), from.end(), alike)) return false;
  to = from;
  return true;
}
void DestroyExecutable(void* executable) { DestroyGraph(executable); }
// Runs as late as a device may run it.
absl::Status LaunchExecutable(void* executable, void* stream) {
  TheStreams().Add(stream, *static_cast<Works*>(executable));
  return absl::OkStatus();
}
void RunOrRecord(void* stream, std::function<void()> kernel) {
  TheStreams().Do(stream, {Work::kKernel, std::move(kernel)});
}

absl::StatusOr<void*> AllocateDevice(int64_t bytes) {
  auto memory = AllocateExactly(bytes);
  if (!memory.ok()) return memory;
  InUse& in_use = DeviceMemory();
  MutexLock lock(&in_use.mutex);
  in_use.sizes[*memory] = bytes;
  return memory;
}
void FreeDevice(void* memory) {
  int64_t bytes = 0;
  {
    InUse& in_use = DeviceMemory();
    MutexLock lock(&in_use.mutex);
    const auto found = in_use.sizes.find(memory);
    bytes = found->second;
    in_use.sizes.erase(found);
  }
  if (TheStreams().Use(memory, bytes)) {
    std::fprintf(stderr, "emulated device: memory was freed before the copies that use it were waited for\n");
    std::abort();
  }
  std::free(memory);
}
absl::StatusOr<int64_t> MemoryInUse() {
  InUse& in_use = DeviceMemory();
  MutexLock lock(&in_use.mutex);
  int64_t bytes = 0;
  for (const auto& [memory, size] : in_use.sizes) bytes += size;
  return bytes;
}
absl::StatusOr<void*> AllocatePlain(int64_t bytes) { return AllocateDevice(bytes); }
void FreePlain(void* memory) { FreeDevice(memory); }
absl::StatusOr<void*> AllocatePinned(int64_t bytes) { return AllocateExactly(bytes); }
void FreePinned(void* memory) {
  TheStreams().FinishAll();  // like cudaFreeHost
  std::free(memory);
}

absl::Status Copy(void* stream, void* to, const void* from, int64_t bytes) {
  const auto count = static_cast<size_t>(bytes);
  const auto copy = [=] { std::memcpy(to, from, count); };
  if (bytes > 0) TheStreams().Add(stream, {Work::kCopy, copy, to, from, count});
  return absl::OkStatus();
}
absl::Status Fill(void* stream, void* to, int value, int64_t bytes) {
  const auto fill = [=] { std::memset(to, value, static_cast<size_t>(bytes)); };
  if (bytes > 0) TheStreams().Do(stream, {Work::kFill, fill});
  return absl::OkStatus();
}
absl::Status LaunchStatus(absl::string_view operation, int error) {
  return error == 0 ? absl::OkStatus() : absl::InternalError(absl::StrCat(operation, ": ", error));
}

}  // namespace kvlink::kernels::cuda

namespace kvlink::testing {

void SetEmulatedDeviceExhausted(bool exhausted) { kernels::cuda::exhausted = exhausted; }

void SetEmulatedDeviceUnrecordable(bool unrecordable) { kernels::cuda::unrecordable = unrecordable; }

int64_t EmulatedDeviceBytes() { return *kernels::cuda::MemoryInUse(); }

}  // namespace kvlink::testing
