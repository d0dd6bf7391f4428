// kernels/cuda/runtime.h and matmul.h over host memory. Device memory is of exactly the size that was asked for, so
// that AddressSanitizer sees what lies beyond, and holds 0xff at first. Copies are made as late as a device may make
// them: when their stream is waited for, or something behind them in it is carried out.
#include "kernels/cuda/runtime.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "kernels/bf16.h"
#include "kernels/cuda/matmul.h"
#include "tests/support/cuda_emulation/backend.h"

namespace kvlink::kernels::cuda {
namespace {

int token;  // every event

struct Pending {
  void* to;
  const void* from;
  size_t bytes;
};

class Streams {
 public:
  void* New() {
    MutexLock lock(&mutex_);
    void* stream = new char;
    pending_[stream];
    return stream;
  }
  void End(void* stream) {
    Finish(stream);
    MutexLock lock(&mutex_);
    pending_.erase(stream);
    delete static_cast<char*>(stream);
  }
  void Add(void* stream, const Pending& copy) {
    MutexLock lock(&mutex_);
    pending_[stream].push_back(copy);
  }
  void Finish(void* stream) {
    MutexLock lock(&mutex_);
    const auto found = pending_.find(stream);
    if (found != pending_.end()) Copy(found->second);
  }
  void FinishAll() {
    MutexLock lock(&mutex_);
    for (auto& [stream, copies] : pending_) Copy(copies);
  }
  // Whether a copy that is still to be made reads or writes any of these bytes.
  bool Use(const void* memory, int64_t bytes) {
    const auto* begin = static_cast<const std::byte*>(memory);
    const auto overlaps = [&](const void* data, size_t count) {
      const auto* at = static_cast<const std::byte*>(data);
      return at < begin + bytes && begin < at + count;
    };
    MutexLock lock(&mutex_);
    for (const auto& [stream, copies] : pending_) {
      for (const Pending& copy : copies) {
        if (overlaps(copy.to, copy.bytes) || overlaps(copy.from, copy.bytes)) return true;
      }
    }
    return false;
  }

 private:
  static void Copy(std::vector<Pending>& copies) {
    for (const Pending& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
    copies.clear();
  }

  Mutex mutex_;
  std::map<void*, std::vector<Pending>> pending_ ABSL_GUARDED_BY(mutex_);
};
Streams& TheStreams() {
  static Streams* streams = new Streams;
  return *streams;
}

// A plain loop that holds its caller to what matmul.h asks for.
class PlainMatmul : public Matmul {
 public:
  int64_t WorkspaceBytes() const override { return 1000; }
  absl::Status Run(void* stream, const MatmulArgs& args) override {
    TheStreams().Finish(stream);
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
    return absl::OkStatus();
  }
};

std::atomic<bool> exhausted{false};

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
  TheStreams().Finish(stream);
  return absl::OkStatus();
}
absl::StatusOr<void*> CreateEvent() { return &token; }
void DestroyEvent(void*) {}
// Done at once, so that nobody has to wait for it.
absl::Status RecordEvent(void*, void* stream) { return SynchronizeStream(stream); }
absl::Status WaitEvent(void*, void*) { return absl::OkStatus(); }
absl::Status SynchronizeEvent(void*) { return absl::OkStatus(); }

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
absl::StatusOr<void*> AllocatePinned(int64_t bytes) { return AllocateExactly(bytes); }
void FreePinned(void* memory) {
  TheStreams().FinishAll();  // as cudaFreeHost does
  std::free(memory);
}

absl::Status Copy(void* stream, void* to, const void* from, int64_t bytes) {
  if (bytes > 0) TheStreams().Add(stream, {to, from, static_cast<size_t>(bytes)});
  return absl::OkStatus();
}
absl::Status Fill(void* stream, void* to, int value, int64_t bytes) {
  TheStreams().Finish(stream);
  if (bytes > 0) std::memset(to, value, static_cast<size_t>(bytes));
  return absl::OkStatus();
}
absl::Status LaunchStatus(absl::string_view operation, int error) {
  return error == 0 ? absl::OkStatus() : absl::InternalError(absl::StrCat(operation, ": ", error));
}

}  // namespace kvlink::kernels::cuda

namespace kvlink::testing {

void SetEmulatedDeviceExhausted(bool exhausted) { kernels::cuda::exhausted = exhausted; }

int64_t EmulatedDeviceBytes() { return *kernels::cuda::MemoryInUse(); }

}  // namespace kvlink::testing
