// Accepts the control service's connections and passes them to gRPC, which has no limit of its own. Every connection is
// a stranger (strangers.h) until one of its calls has identified its peer. While there are many strangers, connections
// are passed on at a limited rate, with hosts taking turns.
//
// Thread-safety: all methods.
#ifndef KVLINK_STORE_NODE_CONTROL_GATE_H_
#define KVLINK_STORE_NODE_CONTROL_GATE_H_

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/descriptor.h"
#include "base/thread.h"
#include "store/node/strangers.h"

namespace kvlink::store::node {

class ConnectionGate {
 public:
  // Takes over a connection, as a descriptor that it must close. `listener`: the index of the listening socket it
  // arrived at.
  using Give = std::function<void(int listener, int connection)>;

  // Listens on "host:port"; port 0 picks a free one. Accepts nothing before Start. `strangers` must outlive it. At most
  // `max_waiting` connections wait to be passed to gRPC. UNAVAILABLE: the address is in use, or not this host's.
  static absl::StatusOr<std::unique_ptr<ConnectionGate>> Listen(const std::string& address, Strangers* strangers,
                                                                int max_waiting);
  // Call once. `give` is called on the gate's thread, until the gate is destroyed.
  void Start(Give give);
  // Stops accepting. The destructor calls it too.
  void Stop();
  ~ConnectionGate() { Stop(); }

  const std::string& address() const { return address_; }

 private:
  struct Waiting {
    std::string peer;
    int listener;
    Descriptor socket;
  };
  ConnectionGate(Strangers* strangers, int max_waiting)
      : strangers_(strangers), max_waiting_(static_cast<size_t>(max_waiting)) {}
  void Run();
  // Whether there are so many strangers that every connection must wait.
  bool Crowded() const;
  void Take(int listener);
  void HandOver(absl::Time now);

  Strangers* const strangers_;
  const size_t max_waiting_;
  std::vector<Descriptor> listeners_;
  Descriptor wake_;  // an eventfd: stop
  std::string address_;
  Give give_;

  // Used only by the thread.
  std::map<std::string, std::deque<Waiting>> waiting_;  // by host; queues are never empty
  size_t count_ = 0;                                    // waiting connections
  std::string last_host_;                               // the host served last
  absl::Time next_ = absl::InfinitePast();              // when the next connection may be passed on
  absl::Time listen_again_ = absl::InfinitePast();
  Thread thread_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_GATE_H_
