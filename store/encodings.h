// Encodings: the keys and values of documents, found by (namespace, identity), in one variant for each codec.
//
// An encoding is immutable, and it is cache: it may be gone at the next call. A miss is never an error; the caller
// encodes again.
//
// Thread-safety: all methods may be called from many threads. Ownership: leases and receives are released before the
// store. Errors common to all: INVALID_ARGUMENT (malformed names or shapes), DEADLINE_EXCEEDED, UNAVAILABLE (the store
// is closing or cannot be reached), DATA_LOSS (bytes failed their checksum: they are never returned, the variant is
// dropped and counted).
#ifndef KVLINK_STORE_ENCODINGS_H_
#define KVLINK_STORE_ENCODINGS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/digest.h"
#include "proto/manifest.h"

namespace kvlink::store {

enum class Tier : uint8_t { kNone, kDram, kDisk };

// Answer to a lookup. `present` false: a miss.
struct Found {
  bool present = false;
  Codec codec = Codec::kRawBf16;
  Etag etag;
  int64_t tokens = 0;
  int64_t bytes = 0;
  Tier tier = Tier::kNone;
  // Where a node of a cluster was asked that does not have the encoding and does not own it: the node's placement
  // epoch.
  std::optional<uint64_t> moved = std::nullopt;
};

// Memory of a device, lent to a store so that encodings are received in it from the network and do not touch the host.
// It stays what it is for as long as `owner`, which the store keeps until nobody writes to it any more.
struct DeviceRegion {
  int device = 0;             // CUDA's number of it
  std::byte* data = nullptr;  // 4096-byte aligned
  int64_t bytes = 0;
  std::shared_ptr<void> owner;
  // out[i] becomes XXH3-64, seed 0, of bytes [offsets[i], offsets[i] + lengths[i]) of the region, computed on the
  // device; returns when all are there. Called from many threads, for as long as the store is there: what it uses of
  // the device outlives the store.
  std::function<absl::Status(absl::Span<const int64_t> offsets, absl::Span<const int64_t> lengths,
                             absl::Span<uint64_t> out)>
      checksums;
};

// A region as a store knows it. Thread-safe. Released before the store.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  // Bytes that encodings, and what the network has not let go of, take of it now.
  virtual int64_t used() const = 0;
};

// A reader's hold on one encoding. Its bytes stay in place until the lease is destroyed, and unchanged except for what
// intact() says. Thread-safe.
class Lease {
 public:
  virtual ~Lease() = default;
  virtual const Manifest& manifest() const = 0;
  // Where the bytes were found when the lease was taken.
  virtual Tier source() const = 0;
  // Waits until layer `layer` has arrived and its checksums have been verified (once per residency in DRAM). Layers
  // arrive in order. DATA_LOSS if they do not match, DEADLINE_EXCEEDED; the lease then is of no use and the encoding is
  // a miss.
  virtual absl::Status WaitLayer(int64_t layer, absl::Time deadline) = 0;
  // Slab of a layer, 4096-byte aligned, manifest().layers[layer].length bytes. REQUIRES: WaitLayer(layer) returned OK.
  virtual absl::Span<const std::byte> layer(int64_t layer) const = 0;
  // Whether layer() is memory of the region that the encoding was read into: not for the host to read, and with
  // anything in the slab's padding. The same for as long as the lease.
  virtual bool on_device() const { return false; }
  // True: all that was read of the slabs before this call was what WaitLayer verified. False, and then for ever: the
  // store has taken the memory back and the bytes may be another encoding's. Can happen only where a reader maps the
  // memory of another process; it asks after each use of the bytes (a forward pass), and where the answer is false it
  // throws away what it computed since the last true one. Never waits; cheap enough to be asked for every token.
  virtual bool intact() const { return true; }
};

// What became of a put that was not refused. Whoever counts replicas counts the first two.
enum class PutOutcome : uint8_t {
  kWritten,
  kThere,       // it was there already, with the same etag
  kOtherThere,  // another etag was there already: an earlier commit of the same variant wins, nothing was stored
};

struct PutResult {
  PutOutcome outcome = PutOutcome::kWritten;
  Etag etag;  // of what is stored now
  bool written() const { return outcome == PutOutcome::kWritten; }
};
// Of a put of `put`, where `stored` is stored now.
inline PutResult PutResultOf(bool written, const Etag& stored, const Etag& put) {
  const PutOutcome there = stored == put ? PutOutcome::kThere : PutOutcome::kOtherThere;
  return {written ? PutOutcome::kWritten : there, stored};
}

// One encoding of ReadMany: exactly the bytes that `etag` names.
struct ReadRequest {
  Identity identity;
  Etag etag;
};

class EncodingStore {
 public:
  virtual ~EncodingStore() = default;

  // One answer per identity, in order. Never touches the disk.
  virtual absl::StatusOr<std::vector<Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                    Codec codec) = 0;
  // A lease on exactly the bytes `etag` names; loading begins at once, in layer order. NOT_FOUND: a miss (absent,
  // evicted, or another etag). RESOURCE_EXHAUSTED: the DRAM tier is full of leased encodings. DATA_LOSS: its manifest
  // is damaged, and so is the encoding; a miss from now on. UNAVAILABLE: it cannot be read now.
  virtual absl::StatusOr<std::unique_ptr<Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                                      const Etag& etag, absl::Time deadline) = 0;
  // Makes a region known, for ReadTo. UNIMPLEMENTED, saying why: what this store reads by does not reach such memory.
  // INVALID_ARGUMENT: a region that is empty, not aligned or without checksums. RESOURCE_EXHAUSTED: the network cannot
  // take it. UNAVAILABLE.
  virtual absl::StatusOr<std::shared_ptr<DeviceBuffer>> OpenDeviceBuffer(const DeviceRegion& region) {
    return absl::UnimplementedError("this store reads into host memory");
  }
  // As Read, into a region of OpenDeviceBuffer. An encoding that finds no room there arrives as by Read; the lease says
  // where.
  virtual absl::StatusOr<std::unique_ptr<Lease>> ReadTo(DeviceBuffer* buffer, absl::string_view ns,
                                                        const Identity& identity, Codec codec, const Etag& etag,
                                                        absl::Time deadline) {
    return Read(ns, identity, codec, etag, deadline);
  }
  // As ReadTo for many encodings, whose reads all begin before the first is waited for: over a node, the round trips
  // overlap. One answer per request, in order, each with the statuses of Read; `buffer` may be nullptr.
  virtual std::vector<absl::StatusOr<std::unique_ptr<Lease>>> ReadMany(DeviceBuffer* buffer, absl::string_view ns,
                                                                       Codec codec,
                                                                       absl::Span<const ReadRequest> requests,
                                                                       absl::Time deadline);
  // Stores an encoding; returns when it is durable. slabs[l] has manifest.layers[l].length bytes, padding zero; slabs
  // on 4096-byte boundaries are written without a copy, fastest from huge pages. The manifest must be sealed; the store
  // verifies the checksums against the slabs before it acknowledges (INVALID_ARGUMENT if they differ). Concurrent puts
  // are grouped into one flush. RESOURCE_EXHAUSTED: no room and nothing to evict; nothing was stored.
  virtual absl::StatusOr<PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                        absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) = 0;
  // A pinned encoding is not evicted. Counted: one Unpin for each Pin. Not kept over a restart. NOT_FOUND: a miss.
  // RESOURCE_EXHAUSTED, changing nothing: the namespace would pin more bytes than the store allows one.
  virtual absl::Status Pin(absl::string_view ns, const Identity& identity, Codec codec) = 0;
  virtual absl::Status Unpin(absl::string_view ns, const Identity& identity, Codec codec) = 0;
  // Removes all codecs of an identity. OK if there was none. Bytes in use by leases stay until those end.
  virtual absl::Status Remove(absl::string_view ns, const Identity& identity) = 0;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_ENCODINGS_H_
