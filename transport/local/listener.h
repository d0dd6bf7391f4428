// A Unix socket that accepts connections. Thread-safety: Bind from any thread, the rest from the progress thread,
// except the destructor (after Stop).
#ifndef KVLINK_TRANSPORT_LOCAL_LISTENER_H_
#define KVLINK_TRANSPORT_LOCAL_LISTENER_H_

#include <sys/stat.h>
#include <sys/un.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/descriptor.h"
#include "transport/local/poller.h"
#include "transport/progress.h"

namespace kvlink::transport {

// INVALID_ARGUMENT: empty or too long.
absl::StatusOr<sockaddr_un> LocalAddress(const std::string& path);

class LocalSocket : public Watcher {
 public:
  // As LocalTransport::ListenLocal.
  static absl::StatusOr<std::unique_ptr<LocalSocket>> Bind(const std::string& path, mode_t mode);
  ~LocalSocket() override;

  // Passes each connection to `take`. Returns false if the system refuses.
  bool Start(Poller* poller, ProgressThread* thread, std::function<void(Descriptor)> take);
  void Stop();
  void Ready(uint32_t events) override;
  const std::string& path() const { return path_; }

 private:
  LocalSocket(Descriptor socket, std::string path, const struct stat& file)
      : socket_(std::move(socket)), path_(std::move(path)), file_(file) {}

  void ListenAgain(absl::Time when);

  const Descriptor socket_;
  const std::string path_;
  const struct stat file_;  // identifies our socket file
  Poller* poller_ = nullptr;
  ProgressThread* thread_ = nullptr;
  uint64_t watch_ = 0;
  // When the token bucket of accepted connections will be empty.
  absl::Time empty_at_ = absl::InfinitePast();
  std::function<void(Descriptor)> take_;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_LOCAL_LISTENER_H_
