// Memory whose pages come and go: anonymous, or of a memfd that other processes may map for reading.
//
// Thread-safety: Populate and Remove from many threads for ranges that do not overlap; the rest is constant. The
// address, and the descriptor, are good until destruction; what other processes mapped lives on with them.
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
  int64_t alignment = 4096;  // of the address: a power of two, at least 4096
  bool shared = false;       // a memfd
  // Of a memfd: nothing will be removed, so that it can be sealed against writing as well (the kernel takes no page out
  // of a memfd with that seal).
  bool permanent = false;
};

class Mapping {
 public:
  // Nothing of it is resident yet. RESOURCE_EXHAUSTED: no address space, no descriptor; UNAVAILABLE: the kernel permits
  // no memfd, or /proc is not mounted.
  static absl::StatusOr<std::unique_ptr<Mapping>> Create(const MappingOptions& options);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Makes the range resident, in huge pages where the kernel has some; what was not resident is zero. Multiples of
  // 4096. RESOURCE_EXHAUSTED: part of it may be resident.
  absl::Status Populate(int64_t offset, int64_t bytes);
  // Gives the range's pages back to the system, whoever maps them; it reads as zeros from then on. INTERNAL: the system
  // refuses, for example because the process locks its memory; the pages are still there.
  absl::Status Remove(int64_t offset, int64_t bytes);
  // Bytes of memory that the memfd occupies, whoever brought them: also a reader that touches what is not resident.
  // 0 of anonymous memory.
  int64_t resident() const;

  std::byte* base() const { return base_; }
  int64_t bytes() const { return bytes_; }
  // For readers: it can be mapped for reading only, neither written, nor grown, nor shrunk. -1 of anonymous memory.
  int descriptor() const { return descriptor_; }

 private:
  explicit Mapping(const MappingOptions& options) : bytes_(options.bytes) {}
  const int64_t bytes_;
  std::byte* base_ = nullptr;  // null: not mapped, within Create
  int descriptor_ = -1;
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_MAPPING_H_
