// A crowd of peers that a node does not know and that mean harm: raw sockets, no client of ours. Each peer connects,
// says what its turn of a list of speeches is, reads nothing, and comes again at once when it is cut.
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
  // Sent by peer i when it has connected: number i modulo their count. An empty one sends nothing.
  std::vector<std::string> speeches;
};

// The peers, driven by one thread. It yields to every other thread of the machine: those whom it stands for have
// processors of their own. Thread-safe.
class HostileCrowd {
 public:
  explicit HostileCrowd(CrowdOptions options);
  ~HostileCrowd();

  // Waits until every peer has asked for a connection. False: it did not come to that.
  bool WaitForAll(absl::Duration within) const;
  int connected() const { return connected_.load(); }          // now
  int64_t connections() const { return connections_.load(); }  // since the start, those that were cut included

 private:
  struct Peer {
    Descriptor socket;
    bool spoke = false, came = false;
  };
  void Run();
  // Connects anew. False: the system or the listener has no room now.
  bool Connect(size_t index);
  void Cut(size_t index);
  void Speak(size_t index);

  const CrowdOptions options_;
  const Descriptor poll_;
  std::atomic<bool> stop_{false};
  std::atomic<int> connected_{0}, came_{0};
  std::atomic<int64_t> connections_{0};
  // The thread's.
  std::vector<Peer> peers_;
  std::deque<size_t> waiting_;  // to connect, the next one first
  Thread thread_;
};

// Lets the calling thread run only where no other wants to.
void YieldToOthers();

// Speeches to the service over gRPC. `token`: the hexadecimal digits of a session's, or empty: of nobody.
std::vector<std::string> GrpcSpeeches(const std::string& token = "");
// To the listener of UCX: what is none of its messages, what begins as one, and what never goes on.
std::vector<std::string> UcxSpeeches();
// To the Unix socket: frames of docs/formats.md "Transport frames", whole, broken, and without an identity.
std::vector<std::string> LocalSpeeches();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_HOSTILE_CROWD_H_
