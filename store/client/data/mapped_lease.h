// A mapped reader's view, over one connection, of the node's memory and its leases on it. Private to store/client.
//
// Thread-safety: all methods. Lifetime: a tier is shared by its connection and leases; a mapping by its readers.
#ifndef KVLINK_STORE_CLIENT_DATA_MAPPED_LEASE_H_
#define KVLINK_STORE_CLIENT_DATA_MAPPED_LEASE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/client/control/counters.h"
#include "store/client/data/mapped.h"
#include "store/client/data/node_connection.h"
#include "store/client/data/pull.h"
#include "store/client/data/signal.h"
#include "store/store.h"

namespace kvlink::store::client {

class LeaseState;

// The memory the node has shared over a connection, and its notices about leases.
class SharedTier : public UnsolicitedSink {
 public:
  SharedTier(std::shared_ptr<VerifiedLayers> verified, std::shared_ptr<std::atomic<int64_t>> held,
             ClientCounters* counters)
      : verified_(std::move(verified)), held_(std::move(held)), counters_(counters) {}

  // Waits until the table of generations is mapped. FAILED_PRECONDITION, UNAVAILABLE: it cannot be. DEADLINE_EXCEEDED.
  absl::Status WaitReady(absl::Time deadline);
  // nullptr: there is no such memory, or it belongs to another namespace.
  std::shared_ptr<const Mapping> Find(uint32_t memory, absl::string_view ns) const;
  std::shared_ptr<const Mapping> generations() const;
  VerifiedLayers& verified() { return *verified_; }
  ClientCounters& counters() { return *counters_; }

  void Add(uint64_t lease, std::weak_ptr<LeaseState> state);
  void Remove(uint64_t lease);
  void OnUnsolicited(const proto::Answer& answer, std::vector<Descriptor> descriptors) override;

 private:
  struct Memory {
    std::string ns;
    std::shared_ptr<const Mapping> mapping;
  };
  const std::shared_ptr<VerifiedLayers> verified_;
  const std::shared_ptr<std::atomic<int64_t>> held_;
  ClientCounters* const counters_;
  mutable Mutex mutex_;
  CondVar changed_;
  absl::flat_hash_map<uint32_t, Memory> memories_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Mapping> generations_ ABSL_GUARDED_BY(mutex_);
  absl::Status problem_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, std::weak_ptr<LeaseState>> leases_ ABSL_GUARDED_BY(mutex_);
};

// The state of one lease, as the carrier reports it.
class LeaseState : public AnswerSink, public std::enable_shared_from_this<LeaseState> {
 public:
  // `signal` (may be null) is notified of the answer.
  LeaseState(std::shared_ptr<NodeConnection> connection, std::shared_ptr<SharedTier> tier,
             std::shared_ptr<Signal> signal)
      : connection_(std::move(connection)), tier_(std::move(tier)), signal_(std::move(signal)) {}
  ~LeaseState() override;

  // If true, Await does not block.
  bool answered() const;
  // Returns the node's answer, with the complete manifest.
  absl::StatusOr<proto::Leased> Await(absl::Time deadline);
  // Waits until layers [0, layer] are present. UNAVAILABLE, DEADLINE_EXCEEDED, DATA_LOSS.
  absl::Status AwaitLayer(int64_t layer, absl::Time deadline);
  // Returns the lease to the node, now or when it is granted.
  void Release();
  void OnLayersReady(const absl::Status& status, int64_t ready);

  void OnAnswer(const absl::Status& status, const proto::Answer& answer) override;
  void OnClosed(const absl::Status& why) override;
  const std::shared_ptr<NodeConnection>& connection() const { return connection_; }
  SharedTier& tier() const { return *tier_; }

 private:
  void GiveBack() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellAnswered() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<NodeConnection> connection_;
  const std::shared_ptr<SharedTier> tier_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<Signal> signal_ ABSL_GUARDED_BY(mutex_);  // until answered
  proto::Leased leased_ ABSL_GUARDED_BY(mutex_);
  uint64_t request_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t lease_ = 0;  // the node's number for it; set on the carrier's thread
  bool begun_ ABSL_GUARDED_BY(mutex_) = false, complete_ ABSL_GUARDED_BY(mutex_) = false;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t ready_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
};

class MappedLease : public Lease {
 public:
  // Statuses as Store::Read; FAILED_PRECONDITION: the node does not share this encoding's memory. In two steps, so that
  // many leases can be requested before the first answer is waited for. `signal` expects the answer and is notified of
  // it.
  static absl::StatusOr<std::unique_ptr<MappedLease>> Ask(std::shared_ptr<NodeConnection> connection,
                                                          const EncodingAddress& address, absl::Time deadline,
                                                          std::shared_ptr<Signal> signal);
  bool answered() const { return state_->answered(); }
  absl::Status Start(const EncodingAddress& address, absl::Time deadline);
  ~MappedLease() override;
  const Manifest& manifest() const override { return manifest_; }
  Tier source() const override { return source_; }
  absl::Status WaitLayer(int64_t layer, absl::Time deadline) override;
  absl::Span<const std::byte> layer(int64_t layer) const override;
  bool intact() const override;

 private:
  explicit MappedLease(std::shared_ptr<LeaseState> state) : state_(std::move(state)) {}
  absl::Status Prepare(const proto::Leased& leased, const EncodingAddress& address);
  absl::Status Lapsed() const;
  void Suspect() const;

  const std::shared_ptr<LeaseState> state_;
  std::string ns_;
  Manifest manifest_;
  Tier source_ = Tier::kNone;
  struct Slab {
    std::shared_ptr<const Mapping> memory;  // null: the layer has no bytes
    int64_t offset = 0;
  };
  std::shared_ptr<const Mapping> generations_;
  std::vector<Slab> slabs_;  // by layer
  const uint64_t* slot_ = nullptr;
  uint64_t generation_ = 0, residency_ = 0;
  mutable std::atomic<bool> lapsed_{false};
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_MAPPED_LEASE_H_
