// Takes the connections of the control service and hands them to gRPC, which has no limit of its own: everyone is a
// stranger (strangers.h) until a call has said whose it is. While there are many strangers, connections are handed over
// at a limited rate, and hosts take turns.
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
  // Takes a connection over, a descriptor that it closes. `listener`: where it came in.
  using Give = std::function<void(int listener, int connection)>;

  // Listens at "host:port"; port 0 chooses one. Nobody is taken before Start. `strangers` outlives it. Up to
  // `max_waiting` connections wait for gRPC. UNAVAILABLE: in use, or not this host's.
  static absl::StatusOr<std::unique_ptr<ConnectionGate>> Listen(const std::string& address, Strangers* strangers,
                                                                int max_waiting);
  // Once. `give` is called by a thread of the gate, until the gate is destroyed.
  void Start(Give give);
  // Takes nobody any more; once, and as the destructor does.
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
  // Whether strangers are so many that everybody waits.
  bool Crowded() const;
  void Take(int listener);
  void HandOver(absl::Time now);

  Strangers* const strangers_;
  const size_t max_waiting_;
  std::vector<Descriptor> listeners_;
  Descriptor wake_;  // an event: the end
  std::string address_;
  Give give_;

  // The thread's.
  std::map<std::string, std::deque<Waiting>> waiting_;  // by host; no empty queues
  size_t count_ = 0;                                    // that wait
  std::string last_host_;                               // whose turn it was
  absl::Time next_ = absl::InfinitePast();              // when the next one may be handed over
  absl::Time listen_again_ = absl::InfinitePast();
  Thread thread_;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_GATE_H_
