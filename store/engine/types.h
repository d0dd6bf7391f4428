// Types shared by the engine's interface and its parts: DRAM tier memory, namespaces and their limits.
// Thread-safety: plain values.
#ifndef KVLINK_STORE_ENGINE_TYPES_H_
#define KVLINK_STORE_ENGINE_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace kvlink::engine {

// A piece of memory that holds encodings of the DRAM tier and pushes. It does not move while it exists; which parts of
// it are backed by memory changes.
struct TierMemory {
  uint32_t number = 0;  // 1, 2, ... in order of creation; never reused
  std::string ns;       // the namespace whose encodings lie in it
  int64_t bytes = 0;
  int descriptor = -1;  // for readers, which can map it read-only; -1: not shared
};

// A part of a TierMemory that is backed by memory.
struct TierChunk {
  int number = 0;       // below ArenaPool::chunks(); unique among present chunks
  uint32_t memory = 0;  // TierMemory::number
  int64_t offset = 0;   // of its first byte, in that memory
  std::byte* data = nullptr;
  int64_t bytes = 0;
};

// A position in the tier's memory.
struct Place {
  uint32_t memory = 0;  // TierMemory::number
  int64_t offset = 0;   // of its first byte
};

// What a put does if its key already exists.
enum class PutMode : uint8_t {
  kKeepExisting,        // the existing encoding stays
  kReplaceSmallerEtag,  // for repair: the encoding with the greater etag stays, in whichever order the two arrive
};

// 0 means the engine's own limit.
struct NamespaceSettings {
  // Maximum bytes of segments that its encodings may occupy, in whole 64 KiB blocks.
  int64_t capacity_bytes = 0;
  // Maximum of these that its pinned encodings may occupy. The engine's default is EngineOptions::pinned_bytes, but at
  // most half of the namespace's capacity.
  int64_t pinned_bytes = 0;
  uint64_t revision = 0;  // of these settings, below 2^63; 0: never set
  bool operator==(const NamespaceSettings&) const = default;
};

// Unset members stay unchanged.
struct NamespaceChange {
  std::optional<int64_t> capacity_bytes, pinned_bytes;
  std::optional<uint64_t> revision;  // unset: the current one + 1
};

struct NamespaceUse {
  std::string ns;
  int64_t encodings = 0;
  int64_t bytes = 0;
  int64_t pinned_bytes = 0;
  int64_t pinned = 0;  // encodings
};

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_TYPES_H_
