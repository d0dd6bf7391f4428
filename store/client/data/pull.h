// One encoding, or a part of one, on its way from the node: its manifest, then piece after piece into receive memory,
// of the host or of a device, each verified where it arrived before anybody sees it.
//
// Thread-safety: all methods. Lifetime: shared by the lease, by the connection until the end is known, and by what is
// under way; verifier, counters and receive memory outlive it.
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
    std::shared_ptr<Region> region;  // goes before `receive_memory`, where there is room; may be nullptr
    Verifier* verifier;
    ClientCounters* counters;
    absl::Duration transfer_timeout;
  };
  // Asks, waits for the manifest until `deadline`, and lets the bytes come. NOT_FOUND: a miss. RESOURCE_EXHAUSTED: the
  // receive memory is full, or with RetryAfter, the node is busy. UNAVAILABLE, DEADLINE_EXCEEDED. INVALID_ARGUMENT: no
  // such part. DATA_LOSS: the node's manifest is damaged or another encoding's.
  static absl::StatusOr<std::shared_ptr<Pull>> Begin(const Context& context, std::shared_ptr<NodeConnection> connection,
                                                     const EncodingAddress& address, const proto::Part& part,
                                                     absl::Time deadline);
  // Begin in two steps, so that many pulls can be asked for before the first answer is waited for. Ask sends the
  // request; the caller has taken a slot of connection->pulls(), which the pull gives back in any case. Statuses as
  // Begin.
  // `signal` (may be null) is raised when it is answered.
  static absl::StatusOr<std::shared_ptr<Pull>> Ask(const Context& context, std::shared_ptr<NodeConnection> connection,
                                                   const EncodingAddress& address, const proto::Part& part,
                                                   std::shared_ptr<Signal> signal);
  // Start then waits for nobody.
  bool answered() const;
  // Waits for the manifest and lets the bytes come. Once; where it fails the pull is over.
  absl::Status Start(const proto::Part& part, absl::Time deadline);
  Pull(const Context& context, std::shared_ptr<NodeConnection> connection, const EncodingAddress& address,
       std::shared_ptr<Signal> signal);

  const Manifest& manifest() const { return manifest_; }
  Tier source() const { return tier_; }
  // Whether the bytes are in the region.
  bool on_device() const { return on_device_; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline);
  // Bytes [offset, offset + length) of a layer's slab, where they arrived. REQUIRES: WaitLayer(layer) returned OK and
  // the part has them.
  absl::Span<const std::byte> Bytes(int64_t layer, int64_t offset, int64_t length) const;
  // Nobody waits any more: stops what is under way and gives the memory back.
  void Release();

  void OnAnswer(const absl::Status& status, const proto::Answer& answer) override;
  void OnClosed(const absl::Status& why) override;

 private:
  enum class State : uint8_t { kPending, kReceiving, kReceived, kVerifying, kGood };

  absl::Status SendRequest(const proto::Part& part);
  absl::Status StartReceiving(const proto::Part& part, absl::Time deadline);
  absl::StatusOr<std::string> AwaitManifest(absl::Time deadline);
  absl::Status Prepare(const std::string& manifest, const proto::Part& part);
  // Memory for pieces of these lengths.
  absl::StatusOr<std::vector<transport::Slice>> TakeMemory(absl::Span<const int64_t> lengths);
  void LandMore();
  void OnReceived(size_t piece, const absl::Status& status, int64_t bytes);
  // Verifies a piece that has arrived, unless somebody else is at it: the verifier's thread, or who waits for it, which
  // has nothing better to do.
  void Verify(size_t piece);
  absl::Status VerifyBytes(const Piece& piece, const transport::Slice& slice) const;
  void Suspect();
  // The first call ends the pull: nobody who waits gets a layer that has not arrived yet.
  void Fail(absl::Status why, bool tell_node);
  void Stop(bool tell_node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellAnswered() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Context context_;
  const std::shared_ptr<NodeConnection> connection_;
  const EncodingAddress address_;
  const absl::Time receive_deadline_;
  uint64_t id_ = 0;
  uint64_t first_payload_ = 0;

  // Set by Begin, before the pull is anybody else's.
  Manifest manifest_;
  Tier tier_ = Tier::kNone;
  bool on_device_ = false;
  std::vector<Piece> pieces_;
  std::vector<size_t> first_piece_;  // of each layer, and the number of pieces

  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<NodeConnection> use_ ABSL_GUARDED_BY(mutex_);  // until it is stopped
  std::shared_ptr<Signal> signal_ ABSL_GUARDED_BY(mutex_);       // until it is answered
  std::string manifest_bytes_ ABSL_GUARDED_BY(mutex_);
  bool started_ ABSL_GUARDED_BY(mutex_) = false;  // the manifest is whole
  std::vector<transport::Slice> slices_ ABSL_GUARDED_BY(mutex_);
  std::vector<State> states_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> awaited_ ABSL_GUARDED_BY(mutex_);  // pieces of which somebody wants to hear
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;            // piece to receive next
  size_t good_ ABSL_GUARDED_BY(mutex_) = 0;
  int receiving_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool holds_slot_ ABSL_GUARDED_BY(mutex_) = false;
};

// Leases over pulls. `tokens`: of the part.
std::unique_ptr<Lease> LeaseOver(std::shared_ptr<Pull> pull);
std::unique_ptr<PartLease> PartOver(std::shared_ptr<Pull> pull, int64_t tokens);

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_PULL_H_
