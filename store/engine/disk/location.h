// An encoding's key and its location record in the index (docs/formats.md "Location record"; at most 768 bytes,
// typically about 50). Thread-safety: plain values and pure functions.
#ifndef KVLINK_STORE_ENGINE_DISK_LOCATION_H_
#define KVLINK_STORE_ENGINE_DISK_LOCATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/slab.h"
#include "proto/digest.h"

namespace kvlink::engine {

inline constexpr int64_t kSegmentBlockBytes = 64 << 10;
inline constexpr int kMaxRuns = 64;

// Number of blocks needed for `bytes` bytes.
inline constexpr int64_t BlocksFor(int64_t bytes) { return (bytes + kSegmentBlockBytes - 1) / kSegmentBlockBytes; }
// Bytes that a manifest of `bytes` bytes occupies ahead of its encoding's slabs.
inline constexpr int64_t ManifestArea(int64_t bytes) {
  return (bytes + kSlabAlignment - 1) / kSlabAlignment * kSlabAlignment;
}

struct EncodingKey {
  std::string ns;
  Identity identity;
  Codec codec = Codec::kRawBf16;

  auto operator<=>(const EncodingKey&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const EncodingKey& key) {
    return H::combine(std::move(h), key.ns, key.identity, key.codec);
  }
};

// An EncodingKey whose namespace is a view into other memory.
struct KeyView {
  absl::string_view ns;
  Identity identity;
  Codec codec = Codec::kRawBf16;

  EncodingKey ToKey() const { return {std::string(ns), identity, codec}; }
};

// Format: namespace | 0 | identity | codec. Names have no zero byte (store.h), so keys sort by (namespace, identity,
// codec).
std::string EncodeKey(const EncodingKey& key);
// INVALID_ARGUMENT for anything EncodeKey does not produce.
absl::StatusOr<EncodingKey> DecodeKey(absl::string_view bytes);
// The result's `ns` points into `bytes`.
absl::StatusOr<KeyView> DecodeKeyView(absl::string_view bytes);

// Consecutive blocks, numbered across all segments: block b of segment s is s * blocks_per_segment + b.
struct Run {
  uint32_t first = 0;
  uint32_t count = 0;
  bool operator==(const Run&) const = default;
};
using Runs = absl::InlinedVector<Run, 2>;

struct Location {
  Etag etag;
  int32_t tokens = 0;
  int32_t manifest_bytes = 0;  // of the serialised manifest
  int64_t bytes = 0;           // of all slabs, a multiple of 4096
  uint64_t sequence = 0;       // of the put, ascending; the eviction order is rebuilt from it
  Runs runs;                   // where the bytes lie, in order: the manifest's, then the slabs'; 1..kMaxRuns

  int64_t manifest_area() const { return ManifestArea(manifest_bytes); }
  int64_t stored_bytes() const { return manifest_area() + bytes; }  // manifest and slabs
  int64_t blocks() const { return BlocksFor(stored_bytes()); }
};

// The blocks of a store that could not be written (docs/formats.md "Bad blocks record"): at most kMaxBadRuns runs.
inline constexpr size_t kMaxBadRuns = size_t{1} << 16;
std::string SerializeBadBlocks(const std::vector<Run>& runs);
// Errors as ParseLocation.
absl::StatusOr<std::vector<Run>> ParseBadBlocks(absl::string_view bytes);

std::string SerializeLocation(const Location& location);
// INVALID_ARGUMENT: damaged or inconsistent. UNIMPLEMENTED: another major version, or a run on a device other than 0.
absl::StatusOr<Location> ParseLocation(absl::string_view bytes);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_DISK_LOCATION_H_
