// The Store interface over a store node in another process or on another host (docs/architecture.md "The store as a
// service"). Semantics and statuses are those of store.h, with these differences:
//   - A node that cannot be reached gives UNAVAILABLE, which a reader treats as a miss. Calls are retried within their
//     deadline (RemoteOptions::request_timeout if the interface has none) and a retry budget; repeating one is
//     harmless. UNAUTHENTICATED: the node does not know the key. PERMISSION_DENIED: the key does not allow the call.
//   - Read starts moving the bytes at once. A layer that arrives damaged, late or not at all makes its lease unusable:
//     WaitLayer returns DATA_LOSS, DEADLINE_EXCEEDED or UNAVAILABLE, and is counted. Wrong checksums are reported to
//     the node, which checks what it stores.
//   - On the node's own host, reads map the node's memory and copy nothing; such a lease may lapse (Lease::intact).
//   - ReadTo receives into a device region if UCX reaches its memory and reads do not map. After several consecutive
//     failures there, each a miss like any other, reads arrive on the host for a while (RemoteOptions::region_rest).
//   - Pins belong to the session: they end with the process, or with the node.
//   - A cluster's node answers for what it has, and for what it owns under the placement of the request's epoch
//     (RemoteOptions::placement) or its own. For anything else, and for a Put of what it does not own, it answers
//     "moved": FAILED_PRECONDITION, from which MovedEpoch (proto/data.h) extracts the node's epoch, and Found::moved.
//     If that epoch differs from the caller's, the caller checks its placement again.
//
// Thread-safety: all methods. Lifetime: leases and slab memory must be released before the store.
#ifndef KVLINK_STORE_CLIENT_REMOTE_H_
#define KVLINK_STORE_CLIENT_REMOTE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/node_id.h"
#include "proto/slots.h"
#include "store/client/pending.h"
#include "store/client/resources.h"
#include "store/store.h"
#include "transport/tls.h"
#include "transport/transport.h"

namespace kvlink::store::client {

// How the bytes of encodings travel. kAuto: the first of the others, in order, that works.
enum class Carrier : uint8_t { kAuto, kMapped, kUcx, kGrpc };

// "auto", "mapped", "ucx", "grpc". INVALID_ARGUMENT for any other name; the message lists the names.
absl::StatusOr<Carrier> ParseCarrier(absl::string_view name);
absl::string_view CarrierName(Carrier carrier);

struct RemoteOptions {
  std::string address;  // host:port of the node's gRPC service
  // The node expected at the address; none: any. While another node answers there, every call is UNAVAILABLE, and that
  // node is neither read from nor written to. Checked each time a session is opened.
  std::optional<NodeId> node_id;
  std::string key;  // from the node's access file; empty if the node has none
  transport::TlsOptions tls;
  // If mapping does not work, OpenRemote refuses kMapped. Writes never map: they use UCX, otherwise gRPC. With TLS,
  // kUcx, which encrypts nothing, is used only if named explicitly.
  Carrier carrier = Carrier::kAuto;
  bool map = true;   // kAuto may map
  std::string name;  // of this process, for the node's logs

  // Shared with other stores. Null: the store makes its own, sized by the next three members (as ResourceOptions);
  // otherwise those are ignored.
  std::shared_ptr<ClientResources> resources;
  int64_t receive_bytes = int64_t{256} << 20;
  int64_t sending_bytes = int64_t{64} << 20;
  absl::Duration idle_memory = absl::Seconds(10);

  absl::Duration connect_timeout = absl::Seconds(5);   // per attempt
  absl::Duration request_timeout = absl::Seconds(5);   // of lookups, pins, catalog and administration
  absl::Duration transfer_timeout = absl::Minutes(1);  // an encoding not complete by then is given up
  // A Put whose node shows no sign of life for this long (no answer, no bytes taken) ends with UNAVAILABLE, whatever
  // its deadline. While nothing listens at the node's address, Put waits for the node to be restarted.
  absl::Duration silence = absl::Seconds(10);
  absl::Duration region_rest = absl::Minutes(1);  // see above
  // How long lookups, reads and pins are retried while the node is unreachable: encoding a document is better than
  // waiting for a node to return. Puts and the catalog are retried until their deadlines.
  absl::Duration patience = absl::Seconds(1);

  // Connections unused for this long are closed, and redialled on demand. Without connections and pins, the session
  // ends too.
  absl::Duration idle_connection = absl::Minutes(1);
  // OpenRemote does not connect; the first request finds out whether the node is reachable.
  bool connect_later = false;

  // Returns the epoch of the placement by which this node was chosen. Called for each request, on any thread; empty:
  // the node is not part of a cluster.
  std::function<uint64_t()> placement;

  // For tests and benches: data travels over `transport`, which must outlive the store, to `data_address` (empty: the
  // first address the node names), whatever `carrier` is.
  std::shared_ptr<transport::Transport> transport;
  std::string data_address;
};

// Counters of a store since it was opened.
struct RemoteCounters {
  int64_t answered_reads = 0;    // answers to requests for encodings, misses and errors included
  int64_t pulls = 0;             // reads begun over a transport
  int64_t failed_pulls = 0;      // of these, those that did not arrive completely, for any reason except release
  int64_t corrupt_slabs = 0;     // wrong checksums, including mapped reads
  int64_t device_pulls = 0;      // of the pulls, those into a device region
  int64_t device_fallbacks = 0;  // intended for a region, but received on the host: it was full, or resting
  int64_t late_layers = 0;       // WaitLayer returned DEADLINE_EXCEEDED
  int64_t mapped_leases = 0;
  int64_t lapsed_leases = 0;  // mapped leases whose memory the node reclaimed while they were held
  int64_t verified_bytes = 0;
  int64_t known_bytes = 0;  // of layers already verified in the same residency
  int64_t pushes = 0;
  int64_t failed_pushes = 0;
  int64_t pushed_bytes = 0;  // of slabs that the node has taken, also by pushes that have not ended or failed
  int64_t retries = 0;       // of calls
  int64_t reconnects = 0;    // data connections after the first
  int64_t sessions = 0;      // opened
  // Of the resources, shared by all their stores on the same transport:
  int64_t receive_bytes_used = 0;  // now, by encodings
  int64_t receive_bytes = 0;       // now, registered
  int64_t sending_bytes = 0;
};

// Some layers, heads and tokens of an encoding; zeros mean everything.
struct EncodingPart {
  int64_t first_layer = 0, layers = 0;
  int64_t first_head = 0, heads = 0;
  int64_t tokens = 0;  // a prefix: a multiple of 512, or all
};

// A hold on a part, as Lease is on a whole encoding.
class PartLease {
 public:
  virtual ~PartLease() = default;
  // The manifest of the whole encoding.
  virtual const Manifest& manifest() const = 0;
  virtual Tier source() const = 0;
  virtual absl::Status WaitLayer(int64_t layer, absl::Time deadline) = 0;
  // The blocks of the part's tokens of one head. REQUIRES: WaitLayer(layer) returned OK, and the part contains that
  // head.
  virtual absl::Span<const std::byte> head(int64_t layer, int64_t head) const = 0;
};

class RemoteStore : public Store {
 public:
  // Like Read, but always over a transport. INVALID_ARGUMENT: the encoding has no such part.
  virtual absl::StatusOr<std::unique_ptr<PartLease>> ReadPart(absl::string_view ns, const Identity& identity,
                                                              Codec codec, const Etag& etag, const EncodingPart& part,
                                                              absl::Time deadline) = 0;
  // Allocates page-aligned memory from which Put sends without a copy. Slabs of a Put in it must not change until Put
  // returns; then it may be reused. Usable by all stores with the same resources and transport. RESOURCE_EXHAUSTED,
  // UNAVAILABLE.
  virtual absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> AllocateSlabs(int64_t bytes) = 0;

  // Lookup, ReadMany and Put in two steps. Asking does not wait for the network, not even for a connection: if there is
  // none, threads of the resources dial, and the request follows. INVALID_ARGUMENT. DEADLINE_EXCEEDED: it has already
  // passed. RESOURCE_EXHAUSTED: too many requests wait for threads. Wait returns all later errors.
  virtual absl::StatusOr<std::unique_ptr<PendingLookup>> AskLookup(absl::string_view ns,
                                                                   absl::Span<const Identity> identities, Codec codec,
                                                                   absl::Time deadline, const Notify& notify = {}) = 0;
  // `buffer` may be nullptr, or opened by another store: bytes that arrive over the transport it was opened with go
  // there, all others to the host.
  virtual absl::StatusOr<std::unique_ptr<PendingReads>> AskReads(DeviceBuffer* buffer, absl::string_view ns,
                                                                 Codec codec, absl::Span<const ReadRequest> requests,
                                                                 absl::Time deadline, const Notify& notify = {}) = 0;
  // The manifest and the memory behind `slabs` must not change until Wait has returned the final result or the pending
  // put is destroyed.
  virtual absl::StatusOr<std::unique_ptr<PendingPut>> AskPut(absl::string_view ns, const Manifest& manifest,
                                                             absl::Span<const absl::Span<const std::byte>> slabs,
                                                             absl::Time deadline, const Notify& notify = {}) = 0;

  // For nodes that compare themselves with this one; the key needs the `repair` right. Returns the digests of `slots`,
  // in order. UNIMPLEMENTED: the node runs an older build.
  virtual absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) = 0;
  // Encodings of a slot after `after` (nullopt: from the first), ordered by (namespace, identity, codec), as many as
  // fit into a message.
  virtual absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) = 0;
  virtual RemoteCounters Counters() const = 0;
  // How reads travel now: "mapped", "ucx", "grpc", or "transport" if one was given.
  virtual std::string ReadCarrier() const = 0;
};

// Opens a session and connects. INVALID_ARGUMENT: the options, also if TLS files cannot be used when this process first
// names them; another call reads them again. FAILED_PRECONDITION: the key would travel in plain text to another host.
// UNAUTHENTICATED: the key. UNAVAILABLE: nothing answers at the address, or no carrier works; the message says what was
// tried. Stats().io names the carrier in use, and why no better one is.
absl::StatusOr<std::unique_ptr<RemoteStore>> OpenRemote(const RemoteOptions& options);

// Checks the TLS options of stores that are opened later. Called when a process starts, it makes a mistake an error
// there, and no request has to read files: they are read here, and from then on followed. INVALID_ARGUMENT: the files
// cannot be used; names the file.
absl::Status CheckTls(const transport::TlsOptions& tls);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_REMOTE_H_
