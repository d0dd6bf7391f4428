// The memfd is open only while the mapping is created: the mapping writes, and readers get a read-only descriptor.
#include "store/engine/memory/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/descriptor.h"
#include "base/populate.h"
#include "base/status.h"

// Missing from older glibc headers.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace kvlink::engine {
namespace {

constexpr int64_t kPageBytes = 4096;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;

absl::Status Failed(absl::string_view what, int64_t bytes) {
  const std::string message = absl::StrCat(what, " for ", bytes, " bytes of memory: ", std::strerror(errno));
  return errno == ENOMEM || errno == EMFILE || errno == ENFILE ? absl::ResourceExhaustedError(message)
                                                               : absl::UnavailableError(message);
}

// Reserves aligned address space without memory.
absl::StatusOr<std::byte*> Reserve(int64_t bytes, int64_t alignment) {
  const int64_t slack = alignment - kPageBytes;
  void* const got = mmap(nullptr, bytes + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) return Failed("cannot reserve address space", bytes);
  std::byte* const start = static_cast<std::byte*>(got);
  const int64_t before = (alignment - reinterpret_cast<uintptr_t>(start) % alignment) % alignment;
  if (before > 0) munmap(start, before);
  if (slack > before) munmap(start + before + bytes, slack - before);
  return start + before;
}

// Returns a memfd of `bytes` bytes, open for writing.
absl::StatusOr<Descriptor> NewMemfd(int64_t bytes) {
  int fd = memfd_create("kvlink", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("kvlink", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return Failed("cannot create a memfd", bytes);
  Descriptor memfd(fd);
  if (ftruncate(fd, bytes) != 0) return Failed("cannot create a memfd", bytes);
  return memfd;
}

// Maps the whole memfd or (-1) anonymous memory over address space that was reserved and aligned first, so that a
// failed mapping leaves nothing behind.
absl::StatusOr<std::byte*> Map(int memfd, const MappingOptions& options) {
  KVLINK_ASSIGN_OR_RETURN(std::byte* const data, Reserve(options.bytes, options.alignment));
  const int kind = memfd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  if (mmap(data, options.bytes, PROT_READ | PROT_WRITE, kind | MAP_FIXED | MAP_NORESERVE, memfd, 0) == MAP_FAILED) {
    const absl::Status status = Failed("cannot map a memfd", options.bytes);
    munmap(data, options.bytes);
    return status;
  }
  madvise(data, options.bytes, MADV_HUGEPAGE);
  madvise(data, options.bytes, MADV_DONTFORK);
  return data;
}

// Seals the memfd and returns a read-only descriptor of it. Only its owner could reopen it for writing, and the owner
// could as well attach to the process.
absl::StatusOr<int> SealForReaders(int fd, const MappingOptions& options) {
  const int descriptor = open(absl::StrCat("/proc/self/fd/", fd).c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return Failed("cannot duplicate a memfd", options.bytes);
  const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (options.permanent ? F_SEAL_FUTURE_WRITE : 0);
  if (fchmod(fd, 0) == 0 && fcntl(fd, F_ADD_SEALS, seals) == 0) return descriptor;
  const absl::Status status = Failed("cannot seal a memfd", options.bytes);
  close(descriptor);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mapping>> Mapping::Create(const MappingOptions& options) {
  std::unique_ptr<Mapping> mapping(new Mapping(options));
  Descriptor memfd;
  if (options.shared) {
    KVLINK_ASSIGN_OR_RETURN(memfd, NewMemfd(options.bytes));
  }
  KVLINK_ASSIGN_OR_RETURN(mapping->base_, Map(memfd.get(), options));
  if (options.shared) {  // the seal against writing does not affect the existing mapping
    KVLINK_ASSIGN_OR_RETURN(mapping->descriptor_, SealForReaders(memfd.get(), options));
  }
  return mapping;
}

Mapping::~Mapping() {
  if (base_ != nullptr) munmap(base_, bytes_);
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status Mapping::Populate(int64_t offset, int64_t bytes) {
  std::byte* const data = base_ + offset;
  if (descriptor_ >= 0 && bytes % kHugePageBytes == 0 && reinterpret_cast<uintptr_t>(data) % kHugePageBytes == 0) {
    // Gives file memory huge pages even if the system gives none by default: it fills up from one small page each. If
    // it fails, small pages remain.
    TouchEach(data, bytes, kHugePageBytes);
    madvise(data, bytes, MADV_COLLAPSE);
  }
  if (!PopulateMemory(data, bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status Mapping::Remove(int64_t offset, int64_t bytes) {
  if (madvise(base_ + offset, bytes, descriptor_ >= 0 ? MADV_REMOVE : MADV_DONTNEED) == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(bytes, " bytes of memory cannot be given back to the system: ", std::strerror(errno)));
}

int64_t Mapping::resident() const {
  struct stat status;
  return descriptor_ >= 0 && fstat(descriptor_, &status) == 0 ? int64_t{status.st_blocks} * 512 : 0;
}

}  // namespace kvlink::engine
