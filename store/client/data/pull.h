// Receives one encoding, or a part of one, from the node: its manifest, then piece after piece into receive memory of
// the host or of a device. Each piece is verified in place before any reader sees it.
//
// Thread-safety: all methods. Lifetime: shared by the lease, by the connection until the outcome is known, and by
// pending operations; the verifier, counters and receive memory must outlive it.
#ifndef KVLINK_STORE_CLIENT_DATA_PULL_H_
#define KVLINK_STORE_CLIENT_DATA_PULL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "proto/manifest.h"
#include "proto/part.h"
#include "store/client/control/counters.h"
#include "store/client/data/arena.h"
#include "store/client/data/node_connection.h"
#include "store/client/data/region.h"
#include "store/client/data/signal.h"
#include "store/client/data/verifier.h"
#include "store/client/remote.h"
#include "store/store.h"

namespace kvlink::store::client {

struct EncodingAddress {
  std::string ns;
  Identity identity;
  Codec codec = Codec::kRawBf16;
  Etag etag;
};

class Pull : public AnswerSink, public std::enable_shared_from_this<Pull> {
 public:
  struct Context {
    Arena* receive_memory;
    std::shared_ptr<Region> region;  // preferred to `receive_memory` while it has room; may be nullptr
    Verifier* verifier;
    ClientCounters* counters;
    absl::Duration transfer_timeout;
  };
  // Sends the request, waits for the manifest until `deadline`, and starts receiving. NOT_FOUND: a miss.
  // RESOURCE_EXHAUSTED: the receive memory is full or, with RetryAfter, the node is busy. UNAVAILABLE,
  // DEADLINE_EXCEEDED. INVALID_ARGUMENT: no such part. DATA_LOSS: the node's manifest is damaged or another encoding's.
  static absl::StatusOr<std::shared_ptr<Pull>> Begin(const Context& context, std::shared_ptr<NodeConnection> connection,
                                                     const EncodingAddress& address, const proto::Part& part,
                                                     absl::Time deadline);
  // Begin in two steps, so that many pulls can be requested before the first answer is waited for. Ask sends the
  // request. The caller must have taken a slot of connection->pulls(), which the pull always returns. Statuses as
  // Begin. `signal` (may be null) expects the answer and is notified of it.
  static absl::StatusOr<std::shared_ptr<Pull>> Ask(const Context& context, std::shared_ptr<NodeConnection> connection,
                                                   const EncodingAddress& address, const proto::Part& part,
                                                   std::shared_ptr<Signal> signal);
  // If true, Start does not block.
  bool answered() const;
  // Waits for the manifest and starts receiving. Call once; after an error the pull is over.
  absl::Status Start(const proto::Part& part, absl::Time deadline);
  Pull(const Context& context, std::shared_ptr<NodeConnection> connection, const EncodingAddress& address,
       std::shared_ptr<Signal> signal);

  const Manifest& manifest() const { return manifest_; }
  Tier source() const { return tier_; }
  // Whether the bytes are in the region.
  bool on_device() const { return on_device_; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  // Bytes [offset, offset + length) of a layer's slab, where they arrived. REQUIRES: WaitLayer(layer) returned OK, and
  // the part contains them.
  absl::Span<const std::byte> Bytes(int64_t layer, int64_t offset, int64_t length) const;
  // Stops pending operations and releases the memory; no reader may be waiting any longer.
  void Release();

  void OnAnswer(const absl::Status& status, const proto::Answer& answer) override;
  void OnClosed(const absl::Status& why) override;

 private:
  enum class State : uint8_t { kPending, kReceiving, kReceived, kVerifying, kGood };

  absl::Status SendRequest(const proto::Part& part);
  absl::Status StartReceiving(const proto::Part& part, absl::Time deadline);
  absl::StatusOr<std::string> AwaitManifest(absl::Time deadline);
  absl::Status Prepare(const std::string& manifest, const proto::Part& part);
  // Takes memory for pieces of these lengths.
  absl::StatusOr<std::vector<transport::Slice>> TakeMemory(absl::Span<const int64_t> lengths);
  void LandMore();
  void OnReceived(size_t piece, const absl::Status& status, int64_t bytes);
  // Verifies a piece that has arrived, unless another thread already does: either the verifier's thread or a waiting
  // reader, which is idle anyway.
  void Verify(size_t piece);
  absl::Status VerifyBytes(const Piece& piece, const transport::Slice& slice) const;
  void Suspect();
  // Only the first call has an effect. It ends the pull: readers get no layer that has not arrived yet.
  void Fail(absl::Status why, bool tell_node);
  void Stop(bool tell_node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellAnswered() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Context context_;
  const std::shared_ptr<NodeConnection> connection_;
  const EncodingAddress address_;
  const absl::Time receive_deadline_;
  uint64_t id_ = 0;
  uint64_t first_payload_ = 0;

  // Set by Begin, before the pull is shared.
  Manifest manifest_;
  Tier tier_ = Tier::kNone;
  bool on_device_ = false;
  std::vector<Piece> pieces_;
  std::vector<size_t> first_piece_;  // per layer, and finally the number of pieces

  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<NodeConnection> use_ ABSL_GUARDED_BY(mutex_);  // until stopped
  std::shared_ptr<Signal> signal_ ABSL_GUARDED_BY(mutex_);       // until answered
  std::string manifest_bytes_ ABSL_GUARDED_BY(mutex_);
  bool started_ ABSL_GUARDED_BY(mutex_) = false;  // the manifest is complete
  std::vector<transport::Slice> slices_ ABSL_GUARDED_BY(mutex_);
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> awaited_ ABSL_GUARDED_BY(mutex_);  // pieces with a waiting reader
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;            // next piece to receive
  size_t good_ ABSL_GUARDED_BY(mutex_) = 0;
  int receiving_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool holds_slot_ ABSL_GUARDED_BY(mutex_) = false;
};

// Leases over pulls. `tokens`: number of tokens in the part.
std::unique_ptr<Lease> LeaseOver(std::shared_ptr<Pull> pull);
std::unique_ptr<PartLease> PartOver(std::shared_ptr<Pull> pull, int64_t tokens);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_PULL_H_
