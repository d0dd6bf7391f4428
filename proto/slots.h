// Slots: the 65,536 parts of all identities, in which encodings are placed, and compared between nodes (docs/formats.md
// "Placement", "Slot digest").
//
// Thread-safety: pure functions and plain values.
#ifndef KVLINK_PROTO_SLOTS_H_
#define KVLINK_PROTO_SLOTS_H_

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/slab.h"
#include "proto/digest.h"

namespace kvlink {

inline constexpr int kSlots = 65536;

// The slot of an identity.
inline int SlotOf(const Identity& identity) { return identity.bytes[0] << 8 | identity.bytes[1]; }

// What a node holds of a slot. Two nodes whose digests are equal hold the same encodings of it, to the bit; it says
// nothing about where or in which order they came.
struct SlotDigest {
  uint64_t low = 0, high = 0;  // exclusive or of EncodingHash of all
  uint64_t bytes = 0;          // of their slabs
  uint32_t encodings = 0;
  bool operator==(const SlotDigest&) const = default;
};

// XXH3-128, in halves, of what is stored under a name.
struct EncodingHash {
  uint64_t low = 0, high = 0;
};
// XXH3-64, seed 0, of a namespace: computed once, it seeds the hashes of what lies in it.
uint64_t NamespaceSeed(absl::string_view ns);
EncodingHash HashEncoding(uint64_t namespace_seed, const Identity& identity, Codec codec, const Etag& etag);

// An encoding as a node lists it to another.
struct SlotEntry {
  std::string ns;
  Identity identity;
  Codec codec = Codec::kRawBf16;
  Etag etag;
  int64_t bytes = 0;  // of its slabs
  // 0 to 7: how much the order of eviction thinks of it there. The uses lately (0 to 3), and 4 more for what was used
  // again after it came.
  int heat = 0;
};
inline constexpr int kMaxHeat = 7;

// How far a node has carried out the drops of its cluster.
struct DropPosition {
  std::array<uint8_t, 16> log{};  // which log; zeros: none
  // Everything at or before it was carried out.
  uint64_t transaction = 0;
  int64_t sequence = 0;
  auto operator<=>(const DropPosition&) const = default;
};

// A part of what a node has of a slot.
struct SlotListing {
  std::vector<SlotEntry> encodings;  // by (namespace, identity, codec)
  bool more = false;                 // there are others behind the last
  DropPosition dropped;              // as it was before the listing began, which has gone through all up to there
};

}  // namespace kvlink

#endif  // KVLINK_PROTO_SLOTS_H_
