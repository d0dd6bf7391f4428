// Memory whose pages come and go: anonymous, or in a memfd that other processes may map for reading.
//
// Thread-safety: Populate and Remove from many threads, for ranges that do not overlap; the rest is constant. Address
// and descriptor are valid until destruction; mappings in other processes live on.
#ifndef KVLINK_STORE_ENGINE_MEMORY_MAPPING_H_
#define KVLINK_STORE_ENGINE_MEMORY_MAPPING_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvlink::engine {

struct MappingOptions {
  int64_t bytes = 0;         // a multiple of 4096
  int64_t alignment = 4096;  // of the address; a power of two, at least 4096
  bool shared = false;       // a memfd
  // For a memfd: nothing will be removed, so it can also be sealed against writing (the kernel removes no pages from a
  // memfd with that seal).
  bool permanent = false;
};

class Mapping {
 public:
  // Nothing is resident initially. RESOURCE_EXHAUSTED: out of address space or descriptors. UNAVAILABLE: the kernel
  // does not permit memfds, or /proc is not mounted.
  static absl::StatusOr<std::unique_ptr<Mapping>> Create(const MappingOptions& options);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Makes a range (multiples of 4096) resident, in huge pages if the kernel has some; pages that were not resident are
  // zero. RESOURCE_EXHAUSTED: part of the range may be resident.
  absl::Status Populate(int64_t offset, int64_t bytes);
  // Returns the range's pages to the system, for all processes that map them; it then reads as zeros. INTERNAL: the
  // system refuses, for example because the process locks its memory; the pages remain.
  absl::Status Remove(int64_t offset, int64_t bytes);
  // Bytes of memory the memfd occupies, including pages that a reader brought in by touching them. 0 for anonymous
  // memory.
  int64_t resident() const;

  std::byte* base() const { return base_; }
  int64_t bytes() const { return bytes_; }
  // For readers: can only be mapped read-only, and not be grown or shrunk. -1 for anonymous memory.
  int descriptor() const { return descriptor_; }

 private:
  explicit Mapping(const MappingOptions& options) : bytes_(options.bytes) {}
  const int64_t bytes_;
  std::byte* base_ = nullptr;  // null: not mapped (only within Create)
  int descriptor_ = -1;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_MAPPING_H_
