// Reads on the node's own host by mapping its DRAM tier. Nothing is copied. The node keeps the pages as long as the
// lease is renewed; a table of generations shows when it has not.
//
// Thread-safety: all methods. Lifetime: leases must be released before the reader, and the reader before its
// constructor's arguments. A mapping lives as long as anything reads it, even beyond the node.
#ifndef KVLINK_STORE_CLIENT_DATA_MAPPED_H_
#define KVLINK_STORE_CLIENT_DATA_MAPPED_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/descriptor.h"
#include "base/mutex.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/control/timer.h"
#include "store/client/data/node_channel.h"
#include "store/client/data/node_connection.h"
#include "transport/local/local.h"

namespace kvlink::store::client {

// Another process's memory, mapped read-only.
class Mapping {
 public:
  // FAILED_PRECONDITION: not sealed as docs/formats.md requires, so that it could shrink under the reader, or smaller
  // than `bytes`. UNAVAILABLE: the system cannot map it.
  static absl::StatusOr<std::shared_ptr<const Mapping>> Map(const Descriptor& descriptor, int64_t bytes);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  Mapping(const std::byte* data, int64_t size) : data_(data), size_(size) {}
  const std::byte* const data_;
  const int64_t size_;
};

// Which layers of which residencies were verified. Bounded: the oldest residencies are forgotten.
class VerifiedLayers {
 public:
  bool Has(uint64_t residency, int64_t layer) const;
  void Add(uint64_t residency, int64_t layer, int64_t layers);

 private:
  static constexpr size_t kMaxResidencies = 8192;
  mutable Mutex mutex_;
  absl::flat_hash_map<uint64_t, std::vector<bool>> layers_ ABSL_GUARDED_BY(mutex_);
  std::deque<uint64_t> order_ ABSL_GUARDED_BY(mutex_);
};

class MappedReader {
 public:
  MappedReader(transport::LocalTransport* transport, Timer* timer, Control* control, ClientCounters* counters,
               RequestSource* source, absl::Duration connect_timeout);
  ~MappedReader();

  // Also for messages without payloads. Acquire also returns UNAVAILABLE if the node has no local socket.
  NodeChannel& channel() { return *channel_; }
  // Finds out whether the node's memory can be mapped at all: connects and waits for the table of generations.
  absl::Status Try(absl::Time deadline);
  // Waits until the node has handled everything sent before, so that released leases are released there too.
  absl::Status Flush(absl::Time deadline);

 private:
  absl::StatusOr<std::shared_ptr<NodeConnection>> Dial(const OpenedSession& session, absl::Time deadline);
  // Called by the timer: renews all leases. Returns when to do so again.
  absl::Time Renew();

  transport::LocalTransport* const transport_;
  ClientCounters* const counters_;
  RequestSource* const source_;
  const std::shared_ptr<std::atomic<int64_t>> held_ = std::make_shared<std::atomic<int64_t>>(0);  // number of leases
  std::unique_ptr<NodeChannel> channel_;

  mutable Mutex mutex_;
  // The node and its incarnation; each incarnation numbers its residencies anew.
  std::pair<std::string, uint64_t> node_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<VerifiedLayers> verified_ ABSL_GUARDED_BY(mutex_);
  absl::Duration renew_every_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(1);
  std::unique_ptr<Alarm> renewal_;
};

}  // namespace kvlink::store::client

#endif  // KVLINK_STORE_CLIENT_DATA_MAPPED_H_
