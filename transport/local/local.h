// Messages between processes on one host, over a Unix socket (SOCK_SEQPACKET), with file descriptors attached. There
// are no payloads: a reader on the node's host maps the memory instead.
//
// The frames are those of docs/formats.md "Transport frames", one per packet, so connections behave like any other:
// hello, order, heartbeat, limits, closing. PostReceive and Send complete with UNIMPLEMENTED.
//
// Thread-safety and lifetime as transport.h.
#ifndef KVLINK_TRANSPORT_LOCAL_LOCAL_H_
#define KVLINK_TRANSPORT_LOCAL_LOCAL_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/descriptor.h"
#include "transport/transport.h"

namespace kvlink::transport {

inline constexpr int kMaxDescriptors = 64;          // attached to one message
inline constexpr int kMaxQueuedDescriptors = 1024;  // per connection, not yet taken by the network

// The peer's process and user, as reported by the system: a client's when it connected, a server's when it began to
// listen.
struct PeerCredentials {
  pid_t process = 0;
  uid_t user = 0;
  gid_t group = 0;
};

class LocalConnection : public Connection {
 public:
  // Like SendMessage, with descriptors attached. The peer gets duplicates; the caller keeps its own and may close them
  // at once. Also INVALID_ARGUMENT: more than kMaxDescriptors, or one is not open. Also RESOURCE_EXHAUSTED:
  // kMaxQueuedDescriptors are waiting, or this process cannot open the duplicates.
  virtual absl::Status SendMessageWithDescriptors(absl::string_view message, absl::Span<const int> descriptors) = 0;
  virtual PeerCredentials credentials() const = 0;
};

// Events for a connection that accepts descriptors. If a connection's events are not of this class, a peer that sends
// descriptors violates the protocol: they are closed unseen, and so is the connection.
class LocalEvents : public ConnectionEvents {
 public:
  // Called instead of OnMessage if the message has descriptors, at least one.
  virtual void OnMessageWithDescriptors(absl::string_view message, std::vector<Descriptor> descriptors) = 0;
};

// As Accept.
using AcceptLocal = std::function<std::shared_ptr<ConnectionEvents>(std::shared_ptr<LocalConnection> connection)>;

class LocalTransport : public Transport {
 public:
  // Listens on a socket at `path` with the permissions `mode`. The file appears once connections are accepted and is
  // removed with the listener. A stale socket, on which no process listens, is replaced. INVALID_ARGUMENT: the path is
  // empty or too long. UNAVAILABLE: another process listens there, the file is not a socket, or the directory is not
  // writable.
  virtual absl::StatusOr<std::unique_ptr<Listener>> ListenLocal(const std::string& path, mode_t mode,
                                                                AcceptLocal accept) = 0;
  // Like Transport::Connect, with `path` as the address.
  virtual absl::StatusOr<std::shared_ptr<LocalConnection>> ConnectLocal(const std::string& path,
                                                                        std::shared_ptr<ConnectionEvents> events,
                                                                        absl::Time deadline) = 0;

  // As a Transport: addresses are paths, Listen creates the socket with mode 0600, and connections are
  // LocalConnections. Allocate and Register return UNIMPLEMENTED.
};

// INVALID_ARGUMENT (options; window_bytes has no effect), RESOURCE_EXHAUSTED: no file descriptors.
absl::StatusOr<std::unique_ptr<LocalTransport>> NewLocalTransport(const TransportOptions& options);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_LOCAL_LOCAL_H_
