// Two ends of a connection for the tests of transports, over each carrier within this machine.
#ifndef KVLINK_TESTS_TRANSPORT_PEERS_H_
#define KVLINK_TESTS_TRANSPORT_PEERS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "transport/transport.h"

namespace kvlink::testing {

// Waits in tests end after this time; only a failing test takes as long.
inline absl::Time Patience() { return SteadyNow() + absl::Seconds(60); }

// Records the events of a connection.
class Inbox : public transport::ConnectionEvents {
 public:
  void OnMessage(absl::string_view message) override;
  void OnClosed(const absl::Status& why) override;
  // The next message; nullopt once the connection is closed.
  std::optional<std::string> Next();
  // Waits until the connection is closed.
  absl::Status Closed();
  bool closed();
  int closings();

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::string> messages_ ABSL_GUARDED_BY(mutex_);
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
  int closings_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The completion of one operation; aborts the test program if called twice.
class Completion {
 public:
  Completion() : state_(std::make_shared<State>()) {}
  std::function<void(const absl::Status&)> ForSend() const;
  std::function<void(const absl::Status&, int64_t)> ForReceive() const;
  absl::Status Wait() const;
  bool done() const;
  int64_t bytes() const;

 private:
  struct State {
    Mutex mutex;
    CondVar changed;
    bool done ABSL_GUARDED_BY(mutex) = false;
    absl::Status status ABSL_GUARDED_BY(mutex);
    int64_t bytes ABSL_GUARDED_BY(mutex) = 0;
  };
  static void Set(State* state, const absl::Status& status, int64_t bytes);
  std::shared_ptr<State> state_;
};

// Memory that can be waited for until the transport no longer uses it.
class WatchedSlice {
 public:
  WatchedSlice(std::shared_ptr<transport::RegisteredBuffer> buffer, int64_t offset, int64_t length);
  // A slice that counts as in use until the transport has dropped it. Call once.
  transport::Slice Take();
  bool free() const;
  bool WaitFree() const;

 private:
  struct Use;
  transport::Slice slice_;
  std::shared_ptr<Use> use_;
};

// Accepts connections and keeps them.
class Server {
 public:
  // Listens at a port of its own choosing.
  explicit Server(transport::Transport* transport, const std::string& address = "127.0.0.1:0");
  std::string address() const { return listener_->address(); }
  struct Accepted {
    std::shared_ptr<transport::Connection> connection;
    std::shared_ptr<Inbox> inbox;
  };
  Accepted Next();
  void StopListening() { listener_ = nullptr; }

 private:
  struct State {
    Mutex mutex;
    CondVar changed;
    std::deque<Accepted> accepted ABSL_GUARDED_BY(mutex);
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
  std::unique_ptr<transport::Listener> listener_;
};

enum class Carrier { kLoopback, kUcx, kGrpc, kLocal };
std::string CarrierName(Carrier carrier);
// An address to listen at: a port chosen by the transport, or an unused path.
std::string NewAddress(Carrier carrier);

// A connected client and server, each with its own transport.
struct Peers {
  explicit Peers(Carrier carrier, const transport::TransportOptions& options = {});
  std::unique_ptr<transport::Transport> server_transport, client_transport;
  std::unique_ptr<Server> server;
  std::shared_ptr<Inbox> client_inbox, server_inbox;
  std::shared_ptr<transport::Connection> client, accepted;
};

// A new transport; for UCX, over the machine's loopback device.
std::unique_ptr<transport::Transport> NewTransport(Carrier carrier, const transport::TransportOptions& options = {});

// Addresses at which this process listens, in /proc/net's hexadecimal: "0100007F" is 127.0.0.1.
std::multiset<std::string> Listening();

// Bytes that identify their payload.
void Fill(transport::Slice slice, uint64_t seed);
bool Check(const transport::Slice& slice, uint64_t seed);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_TRANSPORT_PEERS_H_
