// The sockets of a local transport, as the event source of its progress thread.
//
// Thread-safety: the progress thread, except Create and the destructor (that thread is not running then).
#ifndef KVLINK_TRANSPORT_LOCAL_POLLER_H_
#define KVLINK_TRANSPORT_LOCAL_POLLER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "base/descriptor.h"
#include "transport/progress.h"

namespace kvlink::transport {

class Watcher {
 public:
  virtual ~Watcher() = default;
  // `events` as epoll's. May forget any watcher, itself included.
  virtual void Ready(uint32_t events) = 0;
};

class Poller : public EventSource {
 public:
  // RESOURCE_EXHAUSTED: no file descriptors.
  static absl::StatusOr<std::unique_ptr<Poller>> Create();

  // Calls `watcher` while `fd` is ready for `events`, until Forget(id), which comes before `fd` is closed. 0: the
  // system refused, and it is never called.
  uint64_t Watch(int fd, uint32_t events, Watcher* watcher);
  void Change(uint64_t id, uint32_t events);
  void Forget(uint64_t id);

  // Memory for the packet that is being read.
  std::string& packet() { return packet_; }

  bool Poll() override;
  bool Arm() override { return true; }  // what is ready stays ready
  int fd() const override { return epoll_.get(); }

 private:
  struct Watched {
    int fd;
    Watcher* watcher;
  };
  explicit Poller(Descriptor epoll);

  const Descriptor epoll_;
  std::string packet_;
  uint64_t last_id_ = 0;
  absl::flat_hash_map<uint64_t, Watched> watched_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_LOCAL_POLLER_H_
