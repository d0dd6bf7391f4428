// Messages between processes of one host, over a Unix socket (SOCK_SEQPACKET), with file descriptors beside them. There
// are no payloads: what a node would send to a reader on its own host, the reader maps.
//
// The frames are those of docs/formats.md "Transport frames", one for each packet, so a connection here behaves as any
// other: hello, order, heartbeat, limits, closing. PostReceive and Send complete with UNIMPLEMENTED.
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

inline constexpr int kMaxDescriptors = 64;          // beside one message
inline constexpr int kMaxQueuedDescriptors = 1024;  // of a connection, which the network has not taken yet

// The peer's process and user, from the system: a client's when it connected, a server's when it began to listen.
struct PeerCredentials {
  pid_t process = 0;
  uid_t user = 0;
  gid_t group = 0;
};

class LocalConnection : public Connection {
 public:
  // As SendMessage. The peer gets duplicates; the caller keeps its own and may close them at once. INVALID_ARGUMENT
  // also: more than kMaxDescriptors, or one that is not open. RESOURCE_EXHAUSTED also: kMaxQueuedDescriptors are
  // waiting, or this process has no room for duplicates.
  virtual absl::Status SendMessageWithDescriptors(absl::string_view message, absl::Span<const int> descriptors) = 0;
  virtual PeerCredentials credentials() const = 0;
};

// Events of a connection that takes descriptors. A peer that sends some to events which are not of this class breaks
// the protocol: they are closed unseen, and so is the connection.
class LocalEvents : public ConnectionEvents {
 public:
  // Instead of OnMessage where there are descriptors, at least one.
  virtual void OnMessageWithDescriptors(absl::string_view message, std::vector<Descriptor> descriptors) = 0;
};

// As Accept.
using AcceptLocal = std::function<std::shared_ptr<ConnectionEvents>(std::shared_ptr<LocalConnection> connection)>;

class LocalTransport : public Transport {
 public:
  // A socket at `path` with the permissions `mode`, there from the moment on that connections are taken, and removed
  // with the listener. A socket that nobody listens at any more is replaced. INVALID_ARGUMENT: a path that is empty or
  // too long. UNAVAILABLE: somebody listens there, it is no socket, or its directory cannot be written to.
  virtual absl::StatusOr<std::unique_ptr<Listener>> ListenLocal(const std::string& path, mode_t mode,
                                                                AcceptLocal accept) = 0;
  // As Transport::Connect, `path` being the address.
  virtual absl::StatusOr<std::shared_ptr<LocalConnection>> ConnectLocal(const std::string& path,
                                                                        std::shared_ptr<ConnectionEvents> events,
                                                                        absl::Time deadline) = 0;

  // Transport: addresses are paths, Listen gives the socket mode 0600, and connections are LocalConnections. Allocate
  // and Register: UNIMPLEMENTED.
};

// INVALID_ARGUMENT (options; window_bytes means nothing here), RESOURCE_EXHAUSTED: no file descriptors.
absl::StatusOr<std::unique_ptr<LocalTransport>> NewLocalTransport(const TransportOptions& options);

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_LOCAL_LOCAL_H_
