#include "transport/host_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/populate.h"
#include "base/status.h"

namespace kvlink::transport {
namespace {

constexpr int64_t kPageBytes = 4096, kHugePageBytes = int64_t{2} << 20, kMaxBytes = int64_t{1} << 44;

}  // namespace

absl::StatusOr<std::unique_ptr<HostMemory>> HostMemory::Map(int64_t bytes) {
  if (bytes < 1 || bytes > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("transport: ", bytes, " bytes is not a valid size of a buffer"));
  }
  const int64_t page = bytes >= kHugePageBytes ? kHugePageBytes : kPageBytes;
  bytes = (bytes + page - 1) / page * page;
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("transport: cannot map a buffer of ", bytes, " bytes: ", std::strerror(errno)));
  }
  madvise(data, bytes, MADV_HUGEPAGE);
  madvise(data, bytes, MADV_DONTFORK);
  std::unique_ptr<HostMemory> memory(new HostMemory(static_cast<std::byte*>(data), bytes));
  if (!PopulateMemory(memory->data(), bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("transport: no memory for a buffer of ", bytes, " bytes"));
  }
  return memory;
}

HostMemory::~HostMemory() { munmap(data_, bytes_); }

absl::StatusOr<std::shared_ptr<RegisteredBuffer>> HostBuffer::Allocate(int64_t bytes,
                                                                       std::shared_ptr<Counters> counters) {
  KVLINK_ASSIGN_OR_RETURN(std::shared_ptr<HostMemory> memory, HostMemory::Map(bytes));
  std::byte* const data = memory->data();
  return Register(data, bytes, {}, std::move(memory), std::move(counters));
}

absl::StatusOr<std::shared_ptr<RegisteredBuffer>> HostBuffer::Register(std::byte* data, int64_t bytes,
                                                                       const MemoryPlace& place,
                                                                       std::shared_ptr<void> owner,
                                                                       std::shared_ptr<Counters> counters) {
  if (place.kind != MemoryKind::kHost) return absl::UnimplementedError("this transport reaches host memory only");
  return std::shared_ptr<RegisteredBuffer>(new HostBuffer(data, bytes, std::move(owner), std::move(counters)));
}

}  // namespace kvlink::transport
