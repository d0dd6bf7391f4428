// One connection of a faulty transport. Thread-safety: only the decorator's thread, except where marked.
#ifndef KVLINK_TESTS_SUPPORT_TRANSPORT_FAULTY_FAULTY_CHANNEL_H_
#define KVLINK_TESTS_SUPPORT_TRANSPORT_FAULTY_FAULTY_CHANNEL_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "tests/support/transport/faulty/faulty.h"
#include "transport/progress.h"
#include "transport/transport.h"

namespace kvlink::transport {

class FaultyChannel : public std::enable_shared_from_this<FaultyChannel> {
 public:
  // `thread` and `allocator` outlive all operations of the channel.
  FaultyChannel(ProgressThread* thread, Transport* allocator, absl::Duration delay, absl::Duration freeze)
      : thread_(thread), allocator_(allocator), delay_(delay), freeze_(freeze) {}

  // Returns events for the inner transport, passed on to `events` on the decorator's thread. Any thread.
  std::shared_ptr<ConnectionEvents> Wrap(std::shared_ptr<ConnectionEvents> events);
  // Any thread, once, before the connection is used.
  void Bind(std::shared_ptr<Connection> inner);

  // The user's calls, with `fault` applied; `draw` chooses the place of a corruption.
  void SendMessage(std::string message, Fault fault, uint64_t draw);
  void Send(uint64_t id, Slice from, absl::Time deadline, Sent done, Fault fault, uint64_t draw);
  void PostReceive(uint64_t id, Slice into, absl::Time deadline, Received done);
  void CancelReceive(uint64_t id);
  void CancelSend(uint64_t id);
  void Close();
  // Releases the inner connection.
  void Abandon();

  bool closed() const { return closed_; }  // any thread
  const std::string& peer() const { return peer_; }

 private:
  class Events;
  // An outgoing operation that is held. `go` passes it on; `fail` (of a send) completes it instead.
  struct Held {
    bool behind_next = false;
    bool send = false;
    uint64_t id = 0;
    std::function<void()> go;
    std::function<void(const absl::Status&)> fail;
    Timers::Id due, deadline;
  };

  void OnMessage(std::string message);
  void OnClosed(const absl::Status& why);
  // Applies the faults of passing on: cut, freeze, delay, reorder. False: the operation is over.
  void Pass(Held held, absl::Time deadline, Fault fault);
  void Hold(Held held, absl::Time due, absl::Time deadline);
  void Go(int64_t number);
  void FailHeld(int64_t number, const absl::Status& status);
  void FailAll(const absl::Status& status);
  bool frozen() const { return thread_->now() < frozen_until_; }
  void PassMessage(const std::string& message);

  ProgressThread* const thread_;
  Transport* const allocator_;
  const absl::Duration delay_, freeze_;
  std::shared_ptr<Connection> inner_;
  std::shared_ptr<ConnectionEvents> events_;
  std::string peer_;
  std::atomic<bool> closed_{false};
  absl::Time frozen_until_ = absl::InfinitePast();
  std::map<int64_t, Held> held_;  // in the order of the calls
  int64_t last_ = 0;
  std::deque<std::string> inbound_;  // messages received while frozen
};

}  // namespace kvlink::transport

#endif  // KVLINK_TESTS_SUPPORT_TRANSPORT_FAULTY_FAULTY_CHANNEL_H_
