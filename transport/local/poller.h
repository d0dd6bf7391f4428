// The event source of a local transport's progress thread: its sockets.
//
// Thread-safety: the progress thread, except Create and the destructor (that thread must not be running).
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
  // `events` are epoll's. May call Forget for any watcher, including itself.
  virtual void Ready(uint32_t events) = 0;
};

class Poller : public EventSource {
 public:
  // RESOURCE_EXHAUSTED: no file descriptors.
  static absl::StatusOr<std::unique_ptr<Poller>> Create();

  // Calls `watcher` while `fd` is ready for `events`, until Forget(id), which must come before `fd` is closed. Returns
  // 0 if the system refuses; `watcher` is then never called.
  uint64_t Watch(int fd, uint32_t events, Watcher* watcher);
  void Change(uint64_t id, uint32_t events);
  void Forget(uint64_t id);

  // Buffer for the packet being read.
  std::string& packet() { return packet_; }

  bool Poll() override;
  bool Arm() override { return true; }  // level-triggered: a ready socket stays ready
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
