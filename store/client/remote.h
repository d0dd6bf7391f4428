// The Store interface over a store node in another process or on another host (docs/architecture.md "The store as a
// service"). Semantics and statuses are those of store.h; what differs:
//   - A node that cannot be reached gives UNAVAILABLE, which for a reader is a miss. Calls are tried again within their
//     deadline (RemoteOptions::request_timeout where the interface has none) and a budget of retries; repeating one is
//     harmless. UNAUTHENTICATED: the node does not know the key. PERMISSION_DENIED: the key does not allow it.
//   - Read begins to move the bytes at once. A layer that comes damaged, late or not at all makes its lease useless:
//     WaitLayer then gives DATA_LOSS, DEADLINE_EXCEEDED or UNAVAILABLE, and a counter moves. A wrong checksum is told
//     to the node, which looks at what it stores.
//   - On the node's own host, reads map the node's memory and copy nothing; such a lease may lapse (Lease::intact).
//   - ReadTo receives into a device's region where UCX reaches its memory and reads do not map. After several failures
//   there
//     in a row, each a miss as any other, reads arrive on the host for a while (RemoteOptions::region_rest).
//   - Pins belong to the session: they end with the process, or with the node.
//   - A node of a cluster answers for what it has, and for what it owns by the placement at the request's epoch
//     (RemoteOptions::placement) or its own. Of anything else, and of every Put, it says that it has moved:
//     FAILED_PRECONDITION of which MovedEpoch (proto/data.h) gives the node's epoch, and Found::moved. Whoever chose
//     the node looks at its placement again where that epoch is another.
//
// Thread-safety: all methods. Lifetime: leases and slab memory are released before the store.
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
#include "proto/slots.h"
#include "store/client/pending.h"
#include "store/client/resources.h"
#include "store/store.h"
#include "transport/tls.h"
#include "transport/transport.h"

namespace kvlink::store::client {

// How the bytes of encodings come. kAuto: the first of the others, in their order, that works.
enum class Carrier : uint8_t { kAuto, kMapped, kUcx, kGrpc };

// "auto", "mapped", "ucx", "grpc". INVALID_ARGUMENT for any other name; the message lists the names.
absl::StatusOr<Carrier> ParseCarrier(absl::string_view name);
absl::string_view CarrierName(Carrier carrier);

struct RemoteOptions {
  std::string address;  // host:port of the node's gRPC service
  std::string key;      // of the node's access file; empty where the node has none
  transport::TlsOptions tls;
  // Where mapping does not work, kMapped is refused by OpenRemote. Writes never map: they take ucx, then grpc. With TLS
  // kUcx, which encrypts nothing, is taken only where it is named.
  Carrier carrier = Carrier::kAuto;
  bool map = true;   // kAuto may map
  std::string name;  // of this process, for the node's logs

  // Shared with other stores. Null: the store has its own, of which the next three say how large (as ResourceOptions);
  // they mean nothing otherwise.
  std::shared_ptr<ClientResources> resources;
  int64_t receive_bytes = int64_t{256} << 20;
  int64_t sending_bytes = int64_t{64} << 20;
  absl::Duration idle_memory = absl::Seconds(10);

  absl::Duration connect_timeout = absl::Seconds(5);   // of one attempt to connect
  absl::Duration request_timeout = absl::Seconds(5);   // of lookups, pins, catalog and administration
  absl::Duration transfer_timeout = absl::Minutes(1);  // an encoding that has not arrived by then never will
  // A Put whose node gives no sign of itself for so long (no answer, no bytes taken) ends with UNAVAILABLE, whatever
  // its deadline. While nobody listens at the node's address, Put waits for it to be started again.
  absl::Duration silence = absl::Seconds(10);
  absl::Duration region_rest = absl::Minutes(1);  // see above
  // How long lookups, reads and pins are tried again while the node cannot be reached: encoding a document is better
  // than waiting for a node to come back. Puts and the catalog are tried again until their deadlines.
  absl::Duration patience = absl::Seconds(1);

  // Connections that nobody used for so long are closed, and dialled again when they are needed; without any, and
  // without pins, the session ends, too.
  absl::Duration idle_connection = absl::Minutes(1);
  // OpenRemote then reaches for nobody: whether the node is there, the first request finds out.
  bool connect_later = false;

  // The epoch of the placement by which this node was chosen, asked for each request, on any thread; empty: the node
  // stands alone.
  std::function<uint64_t()> placement;

  // For tests and benches: data travels over `transport`, which lives as long as the store, to `data_address` (empty:
  // the first address that the node names), whatever `carrier` says.
  std::shared_ptr<transport::Transport> transport;
  std::string data_address;
};

// Of a store since it was opened.
struct RemoteCounters {
  int64_t answered_reads = 0;    // of the node, to requests of encodings, whatever it said
  int64_t pulls = 0;             // reads over a transport that began
  int64_t failed_pulls = 0;      // of these, those that did not arrive whole, for whatever reason but release
  int64_t corrupt_slabs = 0;     // wrong checksums, mapped ones included
  int64_t device_pulls = 0;      // of the pulls, those into a device's region
  int64_t device_fallbacks = 0;  // that were meant for one and arrived on the host: it was full, or left alone
  int64_t late_layers = 0;       // WaitLayer gave DEADLINE_EXCEEDED
  int64_t mapped_leases = 0;
  int64_t lapsed_leases = 0;  // mapped ones whose memory the node took back while they were held
  int64_t verified_bytes = 0;
  int64_t known_bytes = 0;  // of layers that were verified before in the same residency
  int64_t pushes = 0;
  int64_t failed_pushes = 0;
  int64_t pushed_bytes = 0;  // of slabs that nodes took, of pushes that go on or failed as well
  int64_t retries = 0;     // of calls
  int64_t reconnects = 0;  // data connections after the first
  int64_t sessions = 0;    // opened
  // Of the resources, for all their stores on the same transport:
  int64_t receive_bytes_used = 0;  // now, by encodings
  int64_t receive_bytes = 0;       // now, registered
  int64_t sending_bytes = 0;
};

// Some layers, heads and tokens of an encoding; zeros stand for everything.
struct EncodingPart {
  int64_t first_layer = 0, layers = 0;
  int64_t first_head = 0, heads = 0;
  int64_t tokens = 0;  // a prefix: a multiple of 512, or all
};

// A hold on a part, as Lease on the whole.
class PartLease {
 public:
  virtual ~PartLease() = default;
  // Of the whole encoding.
  virtual const Manifest& manifest() const = 0;
  virtual Tier source() const = 0;
  virtual absl::Status WaitLayer(int64_t layer, absl::Time deadline) = 0;
  // The blocks of the part's tokens of one head. REQUIRES: WaitLayer(layer) returned OK; the part holds that head.
  virtual absl::Span<const std::byte> head(int64_t layer, int64_t head) const = 0;
};

class RemoteStore : public Store {
 public:
  // As Read. Always over a transport. INVALID_ARGUMENT: the encoding has no such part.
  virtual absl::StatusOr<std::unique_ptr<PartLease>> ReadPart(absl::string_view ns, const Identity& identity,
                                                              Codec codec, const Etag& etag, const EncodingPart& part,
                                                              absl::Time deadline) = 0;
  // Memory, on a page boundary, from which Put sends without a copy: slabs of a Put that lie in it stay unchanged until
  // Put returns, and may be used again then. Serves all stores of the same resources and transport.
  // RESOURCE_EXHAUSTED, UNAVAILABLE.
  virtual absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> AllocateSlabs(int64_t bytes) = 0;

  // Lookup, ReadMany and Put in two steps. Asking does not wait for the network, not even for a connection: where there
  // is none, threads of the resources dial, and the request follows. INVALID_ARGUMENT; DEADLINE_EXCEEDED: it has passed
  // already; RESOURCE_EXHAUSTED: too many wait for threads. What happens later is what Wait gives.
  virtual absl::StatusOr<std::unique_ptr<PendingLookup>> AskLookup(absl::string_view ns,
                                                                   absl::Span<const Identity> identities, Codec codec,
                                                                   absl::Time deadline, const Notify& notify = {}) = 0;
  // `buffer` may be nullptr, or of another store: what comes over the transport that it was opened with lands there,
  // and everything else on the host.
  virtual absl::StatusOr<std::unique_ptr<PendingReads>> AskReads(DeviceBuffer* buffer, absl::string_view ns,
                                                                 Codec codec, absl::Span<const ReadRequest> requests,
                                                                 absl::Time deadline, const Notify& notify = {}) = 0;
  // The manifest and what the slabs refer to stay as they are until Wait gave the end or the pending put is destroyed.
  virtual absl::StatusOr<std::unique_ptr<PendingPut>> AskPut(absl::string_view ns, const Manifest& manifest,
                                                             absl::Span<const absl::Span<const std::byte>> slabs,
                                                             absl::Time deadline, const Notify& notify = {}) = 0;

  // For nodes that compare themselves with this one; the key has the right `repair`. Digests of slots, in order, as
  // many as are wanted. UNIMPLEMENTED: the node is of an older build.
  virtual absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) = 0;
  // Encodings of a slot behind `after` (nothing: from the first), by (namespace, identity, codec), as many as a message
  // holds.
  virtual absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) = 0;
  virtual RemoteCounters Counters() const = 0;
  // How reads come now: "mapped", "ucx", "grpc", or "transport" where one was given.
  virtual std::string ReadCarrier() const = 0;
};

// Opens a session and connects. INVALID_ARGUMENT: the options. UNAUTHENTICATED: the key. UNAVAILABLE: nobody answers at
// the address, or no carrier works; says what was tried. Stats().io says which carrier serves, and why no better one.
absl::StatusOr<std::unique_ptr<RemoteStore>> OpenRemote(const RemoteOptions& options);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_REMOTE_H_
