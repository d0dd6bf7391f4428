#include "proto/slots.h"

#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kvlink {

uint64_t NamespaceSeed(absl::string_view ns) { return XXH3_64bits(ns.data(), ns.size()); }

EncodingHash HashEncoding(uint64_t namespace_seed, const Identity& identity, Codec codec, const Etag& etag) {
  uint8_t record[sizeof(identity.bytes) + sizeof(etag.bytes) + 1];
  std::memcpy(record, identity.bytes.data(), sizeof(identity.bytes));
  std::memcpy(record + sizeof(identity.bytes), etag.bytes.data(), sizeof(etag.bytes));
  record[sizeof(record) - 1] = static_cast<uint8_t>(codec);
  const XXH128_hash_t hash = XXH3_128bits_withSeed(record, sizeof(record), namespace_seed);
  return {hash.low64, hash.high64};
}

}  // namespace kvlink
