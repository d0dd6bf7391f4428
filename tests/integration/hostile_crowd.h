// A crowd of hostile peers unknown to a node: raw sockets, not our client. Each peer connects, sends its turn of a list
// of speeches, reads nothing, and reconnects at once when it is cut off.
// Thread-safety: as documented.
#ifndef KVLINK_TESTS_INTEGRATION_HOSTILE_CROWD_H_
#define KVLINK_TESTS_INTEGRATION_HOSTILE_CROWD_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/descriptor.h"
#include "base/thread.h"

namespace kvlink::testing {

struct CrowdOptions {
  std::string address;  // host:port, or the path of a socket (SOCK_SEQPACKET)
  int peers = 0;
  // Peer i sends speech i modulo their count after connecting. An empty speech sends nothing.
  std::vector<std::string> speeches;
};

// The peers, driven by one thread. It yields to every other thread of the machine, because real peers would have their
// own processors. Thread-safe.
class HostileCrowd {
 public:
  explicit HostileCrowd(CrowdOptions options);
  ~HostileCrowd();

  // Waits until every peer has requested a connection. False: not in time.
  bool WaitForAll(absl::Duration within) const;
  int connected() const { return connected_.load(); }          // now
  int64_t connections() const { return connections_.load(); }  // since the start, including those that were cut off

 private:
  struct Peer {
    Descriptor socket;
    bool spoke = false, came = false;
  };
  void Run();
  // Reconnects. False: the system or the listener has no room now.
  bool Connect(size_t index);
  void Cut(size_t index);
  void Speak(size_t index);

  const CrowdOptions options_;
  const Descriptor poll_;
  std::atomic<bool> stop_{false};
  std::atomic<int> connected_{0}, came_{0};
  std::atomic<int64_t> connections_{0};
  // Used only by the thread.
  std::vector<Peer> peers_;
  std::deque<size_t> waiting_;  // to connect, in order
  Thread thread_;
};

// Lets the calling thread run only when no other needs to.
void YieldToOthers();

// Speeches for the gRPC service. `token`: a session's token in hexadecimal digits, or empty: no session.
std::vector<std::string> GrpcSpeeches(const std::string& token = "");
// For the UCX listener: bytes that are not a UCX message, that only begin like one, or that never continue.
std::vector<std::string> UcxSpeeches();
// For the Unix socket: frames of docs/formats.md "Transport frames", whole, broken, and without an identity.
std::vector<std::string> LocalSpeeches();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_HOSTILE_CROWD_H_
