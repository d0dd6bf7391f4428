// Encodings: the keys and values of documents, looked up by (namespace, identity), with one variant per codec.
//
// An encoding is immutable, and it is cache: it may be gone by the next call. A miss is never an error; the caller
// encodes the document again.
//
// Thread-safety: all methods may be called from many threads. Ownership: leases and device buffers must be released
// before the store. Errors common to all methods: INVALID_ARGUMENT (malformed names or shapes), DEADLINE_EXCEEDED,
// UNAVAILABLE (the store is closing or cannot be reached), DATA_LOSS (bytes failed their checksum; such bytes are never
// returned, and the variant is dropped and counted).
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

// The answer to a lookup. A miss has `present` false.
struct Found {
  bool present = false;
  Codec codec = Codec::kRawBf16;
  Etag etag;
  int64_t tokens = 0;
  int64_t bytes = 0;
  Tier tier = Tier::kNone;
  // Set if a cluster node was asked for an encoding that it neither has nor owns: that node's placement epoch.
  std::optional<uint64_t> moved = std::nullopt;
};

// Device memory lent to a store so that it can receive encodings from the network directly, bypassing the host. The
// memory stays valid for as long as `owner`, which the store keeps until nothing writes to the region any longer.
struct DeviceRegion {
  int device = 0;             // CUDA device number
  std::byte* data = nullptr;  // 4096-byte aligned
  int64_t bytes = 0;
  std::shared_ptr<void> owner;
  // Sets out[i] to the XXH3-64 (seed 0) of bytes [offsets[i], offsets[i] + lengths[i]) of the region, computed on the
  // device; returns when all are done. Called from many threads during the store's lifetime, so the device resources it
  // uses must outlive the store.
  std::function<absl::Status(absl::Span<const int64_t> offsets, absl::Span<const int64_t> lengths,
                             absl::Span<uint64_t> out)>
      checksums;
};

// A region opened in a store. Thread-safe. Must be released before the store.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  // Bytes now occupied by encodings or still in use by the network.
  virtual int64_t used() const = 0;
};

// A reader's hold on one encoding. Its bytes stay in place until the lease is destroyed, and do not change, except as
// described at intact(). Thread-safe.
class Lease {
 public:
  virtual ~Lease() = default;
  virtual const Manifest& manifest() const = 0;
  // The tier the bytes were in when the lease was taken.
  virtual Tier source() const = 0;
  // Waits until `layer` has arrived and its checksums are verified (once per residency in DRAM). Layers arrive in
  // order. DATA_LOSS: a checksum does not match. DEADLINE_EXCEEDED. After an error the lease is unusable and the
  // encoding counts as a miss.
  virtual absl::Status WaitLayer(int64_t layer, absl::Time deadline) = 0;
  // The slab of a layer: 4096-byte aligned, manifest().layers[layer].length bytes. REQUIRES: WaitLayer(layer) returned
  // OK.
  virtual absl::Span<const std::byte> layer(int64_t layer) const = 0;
  // Whether layer() points into the device region the encoding was read into. The host must not read such memory, and
  // the slab's padding is undefined. Constant over the lease's lifetime.
  virtual bool on_device() const { return false; }
  // Returns true if everything read from the slabs before this call was what WaitLayer verified. Once false, always
  // false: the store has reclaimed the memory, and the bytes may belong to another encoding. False is possible only if
  // the reader maps another process's memory. Such a reader calls this after each use of the bytes (a forward pass)
  // and, if it returns false, discards everything computed since it last returned true. Never blocks; cheap enough to
  // call for every token.
  virtual bool intact() const { return true; }
};

// The outcome of a put that was not refused. Callers that count replicas count the first two.
enum class PutOutcome : uint8_t {
  kWritten,
  kThere,       // already stored, with the same etag
  kOtherThere,  // already stored with another etag: the earlier commit of a variant wins; nothing was written
};

struct PutResult {
  PutOutcome outcome = PutOutcome::kWritten;
  Etag etag;  // of what is now stored
  bool written() const { return outcome == PutOutcome::kWritten; }
};
// The result of putting `put` when `stored` is now what the store holds.
inline PutResult PutResultOf(bool written, const Etag& stored, const Etag& put) {
  const PutOutcome there = stored == put ? PutOutcome::kThere : PutOutcome::kOtherThere;
  return {written ? PutOutcome::kWritten : there, stored};
}

// One encoding to read with ReadMany: exactly the bytes that `etag` names.
struct ReadRequest {
  Identity identity;
  Etag etag;
};

class EncodingStore {
 public:
  virtual ~EncodingStore() = default;

  // Returns one answer per identity, in order. Never touches the disk.
  virtual absl::StatusOr<std::vector<Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                    Codec codec) = 0;
  // Returns a lease on exactly the bytes that `etag` names; loading begins at once, in layer order. NOT_FOUND: a miss
  // (absent, evicted, or stored with another etag). RESOURCE_EXHAUSTED: the DRAM tier is full of leased encodings.
  // DATA_LOSS: the manifest is damaged, and the encoding is a miss from now on. UNAVAILABLE: it cannot be read now.
  virtual absl::StatusOr<std::unique_ptr<Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                                      const Etag& etag, absl::Time deadline) = 0;
  // Registers a region for ReadTo. UNIMPLEMENTED, with the reason: this store's carrier cannot reach such memory.
  // INVALID_ARGUMENT: the region is empty, misaligned or has no `checksums`. RESOURCE_EXHAUSTED: the network cannot
  // register it. UNAVAILABLE.
  virtual absl::StatusOr<std::shared_ptr<DeviceBuffer>> OpenDeviceBuffer(const DeviceRegion& region) {
    return absl::UnimplementedError("this store reads into host memory");
  }
  // Like Read, but receives into a region opened by OpenDeviceBuffer. If the region has no room, the encoding is read
  // as by Read; Lease::on_device() tells which.
  virtual absl::StatusOr<std::unique_ptr<Lease>> ReadTo(DeviceBuffer* buffer, absl::string_view ns,
                                                        const Identity& identity, Codec codec, const Etag& etag,
                                                        absl::Time deadline) {
    return Read(ns, identity, codec, etag, deadline);
  }
  // Like ReadTo for many encodings. All reads begin before the first is waited for, so that over a node the round trips
  // overlap. Returns one answer per request, in order, with the statuses of Read. `buffer` may be nullptr.
  virtual std::vector<absl::StatusOr<std::unique_ptr<Lease>>> ReadMany(DeviceBuffer* buffer, absl::string_view ns,
                                                                       Codec codec,
                                                                       absl::Span<const ReadRequest> requests,
                                                                       absl::Time deadline);
  // Stores an encoding; returns when it is durable. slabs[l] has manifest.layers[l].length bytes with zero padding;
  // slabs on 4096-byte boundaries are written without a copy, fastest from huge pages. The manifest must be sealed; the
  // store verifies its checksums against the slabs before it acknowledges (INVALID_ARGUMENT if they differ). Concurrent
  // puts share one flush. RESOURCE_EXHAUSTED: no room and nothing to evict; nothing was stored.
  virtual absl::StatusOr<PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                        absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) = 0;
  // A pinned encoding is not evicted. Pins are counted: one Unpin for each Pin. They do not survive a restart.
  // NOT_FOUND: a miss. RESOURCE_EXHAUSTED, with nothing changed: the namespace would exceed the bytes it may pin.
  virtual absl::Status Pin(absl::string_view ns, const Identity& identity, Codec codec) = 0;
  virtual absl::Status Unpin(absl::string_view ns, const Identity& identity, Codec codec) = 0;
  // Removes all codecs of an identity. OK if there was none. Leased bytes stay until the leases end.
  virtual absl::Status Remove(absl::string_view ns, const Identity& identity) = 0;
};

}  // namespace kvlink::store

#endif  // KVLINK_STORE_ENCODINGS_H_
