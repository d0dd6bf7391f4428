// Memory whose pages come and go: anonymous, or of a memfd that other processes may map for reading. Here it is mapped
// in pieces, each when it is first needed, so that what is never used takes no address space.
//
// Thread-safety: Populate and Remove from many threads for ranges that do not overlap; MapPiece one at a time, beside
// everything else. The addresses, and the descriptor, are good until destruction; what other processes mapped lives on
// with them.
#ifndef KVLINK_STORE_ENGINE_MEMORY_MAPPING_H_
#define KVLINK_STORE_ENGINE_MEMORY_MAPPING_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvlink::engine {

struct MappingOptions {
  int64_t bytes = 0;         // a multiple of 4096
  int64_t piece_bytes = 0;   // a multiple of 4096 and of the alignment; 0: all is one piece, mapped at once
  int64_t alignment = 4096;  // of the pieces' addresses: a power of two, at least 4096
  bool shared = false;       // a memfd
  // Of a memfd: nothing will be removed, so that it can be sealed against writing as well (the kernel takes no page out
  // of a memfd with that seal).
  bool permanent = false;
};

class Mapping {
 public:
  // Nothing of it is resident yet, and of several pieces none is mapped. RESOURCE_EXHAUSTED: no address space, no
  // descriptor; UNAVAILABLE: the kernel permits no memfd, or /proc is not mounted.
  static absl::StatusOr<std::unique_ptr<Mapping>> Create(const MappingOptions& options);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Maps the piece that holds this offset, unless it is mapped. RESOURCE_EXHAUSTED, UNAVAILABLE as Create.
  absl::Status MapPiece(int64_t offset);

  // Makes the range, which lies in one mapped piece, resident, in huge pages where the kernel has some; what was
  // not resident is zero. Multiples of 4096. RESOURCE_EXHAUSTED: part of it may be resident.
  absl::Status Populate(int64_t offset, int64_t bytes);
  // Gives the range's pages back to the system, whoever maps them, also where the memfd's are not mapped here; it reads
  // as zeros from then on. INTERNAL: the system refuses, for example because the process locks its memory; the pages
  // are still there.
  absl::Status Remove(int64_t offset, int64_t bytes);
  // Bytes of memory that the memfd occupies, whoever brought them: also a reader that touches what is not resident.
  // 0 of anonymous memory.
  int64_t resident() const;

  // Of the first piece. REQUIRES: it is mapped.
  std::byte* base() const { return At(0); }
  // REQUIRES: its piece is mapped. Good to the end of the piece.
  std::byte* At(int64_t offset) const { return pieces_[offset / piece_bytes_].load() + offset % piece_bytes_; }
  // REQUIRES: `data` lies in a mapped piece.
  int64_t OffsetOf(const std::byte* data) const;
  int64_t bytes() const { return bytes_; }
  int64_t piece_bytes() const { return piece_bytes_; }
  // For readers: it can be mapped for reading only, neither written, nor grown, nor shrunk. -1 of anonymous memory.
  int descriptor() const { return descriptor_; }

 private:
  explicit Mapping(const MappingOptions& options);
  int64_t LengthOf(size_t piece) const;
  const int64_t bytes_, piece_bytes_, alignment_;
  int writable_ = -1;                            // the memfd, for pieces to come
  int descriptor_ = -1;                          // the memfd, for readers
  std::vector<std::atomic<std::byte*>> pieces_;  // null: not mapped
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_MEMORY_MAPPING_H_
