// Counters of a transport. Thread-safety: all methods.
#ifndef KVLINK_TRANSPORT_COUNTERS_H_
#define KVLINK_TRANSPORT_COUNTERS_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "transport/transport.h"

namespace kvlink::transport {

class Counters {
 public:
  using Count = std::atomic<int64_t>;
  Count connections{0}, messages_sent{0}, messages_received{0}, payloads_sent{0}, payload_bytes_sent{0},
      payloads_received{0}, payload_bytes_received{0}, payloads_late{0}, quarantined_bytes{0}, registered_bytes{0};

  void Closed(absl::string_view reason) {
    MutexLock lock(&mutex_);
    ++closes_[std::string(reason)];
  }

  TransportStats Stats(int64_t wakeups) const {
    TransportStats stats;
    stats.connections = connections;
    stats.messages_sent = messages_sent;
    stats.messages_received = messages_received;
    stats.payloads_sent = payloads_sent;
    stats.payload_bytes_sent = payload_bytes_sent;
    stats.payloads_received = payloads_received;
    stats.payload_bytes_received = payload_bytes_received;
    stats.payloads_late = payloads_late;
    stats.quarantined_bytes = quarantined_bytes;
    stats.registered_bytes = registered_bytes;
    stats.wakeups = wakeups;
    MutexLock lock(&mutex_);
    stats.closes = closes_;
    return stats;
  }

 private:
  mutable Mutex mutex_;
  std::map<std::string, int64_t> closes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_COUNTERS_H_
