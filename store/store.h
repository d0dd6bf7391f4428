// Where encodings live. One interface for the embedded store (in process) and the networked client; nothing above it
// knows which.
//
// An encoding is found by (namespace, identity) and exists in one variant per codec. It is immutable, and it is cache:
// it may be gone at the next call (a miss is never an error; the caller encodes again). Catalog entries are data: they
// stay until deleted.
//
// Thread-safety: all methods of Store may be called from many threads. Ownership: what a Store returns must be released
// before the Store is destroyed. Errors common to all: INVALID_ARGUMENT (malformed names or shapes), DEADLINE_EXCEEDED,
// UNAVAILABLE (the store is closing or not reachable), DATA_LOSS (bytes failed their checksum: never returned to the
// caller, the variant is dropped and counted).
#ifndef KVLINK_STORE_STORE_H_
#define KVLINK_STORE_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/catalog.h"
#include "proto/digest.h"
#include "proto/manifest.h"

namespace kvlink::store {

enum class Tier : uint8_t { kNone, kDram, kSegments };

// Answer to a lookup. `present` false: a miss.
struct Found {
  bool present = false;
  Codec codec = Codec::kRawBf16;
  Etag etag;
  int64_t tokens = 0;
  int64_t bytes = 0;
  Tier tier = Tier::kNone;
};

// Memory of a device, lent to a store so that encodings land in it from the network and do not touch the host. It stays
// what it is for as long as `owner`, which the store keeps until nobody writes to it any more.
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
class DeviceLanding {
 public:
  virtual ~DeviceLanding() = default;
  // Bytes that encodings, and what the network has not let go of, take of it now.
  virtual int64_t used() const = 0;
};

// A reader's hold on one encoding. Its bytes stay in place until the lease is destroyed, and unchanged but for what
// intact() says. Thread-safe.
class Lease {
 public:
  virtual ~Lease() = default;
  virtual const Manifest& manifest() const = 0;
  // Where the bytes were found when the lease was taken.
  virtual Tier source() const = 0;
  // Waits until layer `layer` has landed and its checksums have been verified (once per residency in DRAM). Layers land
  // in order. DATA_LOSS if they do not match, DEADLINE_EXCEEDED; the lease then is of no use and the encoding is a
  // miss.
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

struct PutResult {
  Etag etag;             // of what is stored now: an earlier commit of the same variant wins
  bool written = false;  // false: it was there already
};

struct DocumentInfo {
  std::string id;
  uint64_t generation = 0;
  std::string title;
  int64_t tokens = 0;
};

struct NamespaceStats {
  std::string name;
  int64_t encodings = 0;
  int64_t bytes = 0;         // in segments
  int64_t pinned_bytes = 0;  // of segments, occupied by pinned encodings
  int64_t documents = 0;
};

struct StoreStats {
  std::vector<NamespaceStats> namespaces;
  int64_t segment_bytes = 0;       // allocated from the file system
  int64_t segment_bytes_used = 0;  // by encodings
  int64_t pinned_bytes = 0;        // of all namespaces
  int64_t dram_bytes = 0;          // DRAM tier capacity
  int64_t dram_bytes_used = 0;
  int64_t hits_dram = 0;
  int64_t hits_segments = 0;
  int64_t misses = 0;
  int64_t bytes_read = 0;              // from segments
  int64_t bytes_written = 0;           // to segments
  int64_t bytes_written_in_place = 0;  // of these, from the caller's memory and not from a copy
  int64_t evictions = 0;
  int64_t integrity_failures = 0;
  int64_t double_claims = 0;  // encodings dropped at open because two claimed one block
  int64_t leases = 0;
  std::string io;  // "io_uring, O_DIRECT" or what serves instead and why
};

struct VerifyReport {
  int64_t encodings = 0;
  int64_t bytes = 0;
  struct Damage {
    std::string ns;
    Identity identity;
    Codec codec;
    std::string what;
  };
  std::vector<Damage> damaged;  // encodings; the store stops serving them
  std::vector<std::string> index_problems;
};

class Store {
 public:
  virtual ~Store() = default;

  // Encodings.

  // One answer per identity, in order. Never touches the disk.
  virtual absl::StatusOr<std::vector<Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                    Codec codec) = 0;
  // A lease on exactly the bytes `etag` names; loading begins at once, in layer order. NOT_FOUND: a miss (absent,
  // evicted, or another etag). RESOURCE_EXHAUSTED: the DRAM tier is full of leased encodings.
  virtual absl::StatusOr<std::unique_ptr<Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                                      const Etag& etag, absl::Time deadline) = 0;
  // Makes a region known, for ReadTo. UNIMPLEMENTED, saying why: what this store reads by does not reach such memory.
  // INVALID_ARGUMENT: a region that is empty, not aligned or without checksums. RESOURCE_EXHAUSTED: the network cannot
  // take it. UNAVAILABLE.
  virtual absl::StatusOr<std::shared_ptr<DeviceLanding>> OpenLanding(const DeviceRegion& region) {
    return absl::UnimplementedError("this store reads into host memory");
  }
  // As Read, into a region of OpenLanding. An encoding that finds no room there lands as by Read; the lease says where.
  virtual absl::StatusOr<std::unique_ptr<Lease>> ReadTo(DeviceLanding* landing, absl::string_view ns,
                                                        const Identity& identity, Codec codec, const Etag& etag,
                                                        absl::Time deadline) {
    return Read(ns, identity, codec, etag, deadline);
  }
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

  // The catalog.

  // Durable on return. FAILED_PRECONDITION, changing nothing, if a higher generation is there (equal generations: the
  // greater serialised entry stays, so that replicas agree).
  virtual absl::Status PutDocument(absl::string_view ns, absl::string_view id, const CatalogEntry& entry) = 0;
  // NOT_FOUND if there is none or it is a tombstone.
  virtual absl::StatusOr<CatalogEntry> GetDocument(absl::string_view ns, absl::string_view id) = 0;
  // Writes a tombstone. Encodings that no entry of the namespace refers to any more are removed.
  virtual absl::Status DeleteDocument(absl::string_view ns, absl::string_view id, uint64_t generation) = 0;
  // Documents with id > after, in order of id, at most `limit`.
  virtual absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                                  int64_t limit) = 0;

  // Administration.

  virtual absl::StatusOr<StoreStats> Stats() = 0;
  // Encodings with their manifests, ordered by (namespace, identity, codec), after the given name; for inspect and
  // verify.
  struct Listed {
    std::string ns;
    Manifest manifest;
  };
  virtual absl::StatusOr<std::vector<Listed>> ListEncodings(absl::string_view ns, const Identity& after,
                                                            int64_t limit) = 0;
  // Reads everything back from the segments and checks it. `progress` (may be empty) gets bytes done and in all;
  // returning false stops early.
  virtual absl::StatusOr<VerifyReport> Verify(std::function<bool(int64_t, int64_t)> progress) = 0;
  // Empties the DRAM tier of everything not leased; for measurements.
  virtual void DropDramTier() = 0;
};

// Namespace and document names: 1..255 bytes of valid UTF-8 without control characters.
absl::Status ValidateName(absl::string_view what, absl::string_view name);

}  // namespace kvlink::store

#endif  // KVLINK_STORE_STORE_H_
