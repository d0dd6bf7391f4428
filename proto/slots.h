// Slots: the 65,536 partitions of all identities, the unit in which encodings are placed and compared between nodes
// (docs/formats.md "Placement", "Slot digest").
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

// Summarises the encodings a node holds in a slot. Two nodes with equal digests hold the same encodings of the slot,
// bit for bit. Says nothing about where they lie or in which order they came.
struct SlotDigest {
  uint64_t low = 0, high = 0;  // exclusive or of the EncodingHashes of all
  uint64_t bytes = 0;          // of all slabs
  uint32_t encodings = 0;
  bool operator==(const SlotDigest&) const = default;
};

// The two halves of the XXH3-128 of what is stored under a name.
struct EncodingHash {
  uint64_t low = 0, high = 0;
};
// XXH3-64, seed 0, of a namespace. Computed once; it seeds the hashes of the namespace's encodings.
uint64_t NamespaceSeed(absl::string_view ns);
EncodingHash HashEncoding(uint64_t namespace_seed, const Identity& identity, Codec codec, const Etag& etag);

// An encoding, as one node lists it to another.
struct SlotEntry {
  std::string ns;
  Identity identity;
  Codec codec = Codec::kRawBf16;
  Etag etag;
  int64_t bytes = 0;  // of all slabs
  // How valuable eviction considers the encoding on that node, 0 to 7: its recent uses (0 to 3), plus 4 if it was used
  // again after it was stored.
  int heat = 0;
};
inline constexpr int kMaxHeat = 7;

// How far a node has carried out its cluster's drops.
struct DropPosition {
  std::array<uint8_t, 16> log{};  // identifies the log; zeros: none
  // Everything at or before this position was carried out.
  uint64_t transaction = 0;
  int64_t sequence = 0;
  auto operator<=>(const DropPosition&) const = default;
};

// One page of the listing of a slot.
struct SlotListing {
  std::vector<SlotEntry> encodings;  // ordered by (namespace, identity, codec)
  bool more = false;                 // there are more after the last one
  DropPosition dropped;              // position when the listing began: all drops up to it are reflected
};

}  // namespace kvlink

#endif  // KVLINK_PROTO_SLOTS_H_
