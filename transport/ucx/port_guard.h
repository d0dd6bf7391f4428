// Keeps peers that do not speak UCX away from UCX's listening sockets.
//
// UCX 1.13 has no limit in front of a peer that has not said what it wants: at the port of a listener it believes the
// length that comes first, and one that is longer than its buffer makes its thread read nothing for ever, with a
// descriptor that is never closed (tcp_sockcm_ep.c, uct_tcp_sockcm_ep_recv); a silent peer keeps a descriptor for as
// long as it likes. So the kernel drops, by a socket filter that accepted sockets inherit, every segment at the
// listener's port that does not begin as one of UCX's messages does, until the peer has begun one; sockets whose peer
// is not known after a while are shut down; and UCX takes connections at a limited rate, and none while too many are
// unknown (listener_gate.h). What this does not stop is a peer that speaks UCX (ucx.h, "Trust").
//
// Thread-safety: one thread. Linux only; elsewhere it finds nothing and does nothing.
#ifndef KVLINK_TRANSPORT_UCX_PORT_GUARD_H_
#define KVLINK_TRANSPORT_UCX_PORT_GUARD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "transport/ucx/listener_gate.h"

namespace kvlink::transport {

class PortGuard {
 public:
  static constexpr int64_t kManyStrangers = 256;              // beyond them they have kBetweenRounds
  static constexpr int64_t kMaxStrangers = 1024;              // beyond them, nobody is let in
  static constexpr absl::Duration kGrace = absl::Seconds(5);  // for a peer to be known
  static constexpr absl::Duration kBetweenRounds = absl::Seconds(1);

  // Provided by the owner. `known`: whether "host:port" has come in at a listener. `still`: runs `act` while
  // no thread of UCX opens or closes descriptors.
  struct Hooks {
    std::function<bool(const std::string& peer)> known;
    std::function<void(const std::function<void()>& act)> still;
  };
  explicit PortGuard(Hooks hooks);

  // TCP sockets of this process that listen.
  static std::set<int> Listening();

  // A socket at which UCX takes connections from its own kind on ports that it chose: its peers are known once they
  // have sent a few bytes.
  void AddInterface(int fd);
  // The socket of a listener, which gets the filter and a gate. UNAVAILABLE: it could not get them.
  absl::Status AddListener(int fd);
  // Before listeners go.
  void RemoveGates() { gates_.clear(); }

  // Looks at some descriptors, a bounded number; returns when to call again. `*closed` grows by sockets shut down.
  absl::Time Look(absl::Time now, int64_t* closed);

 private:
  struct Stranger {
    std::string peer;
    absl::Time since;
    uint64_t round = 0;
    bool began = false;  // the first bytes were sound, and its filter is gone
    bool shut = false;
  };
  // The peer of a connection that came in at a guarded port and is not known. Empty: it is none of those.
  std::string StrangerAt(int fd) const;
  void LetTheRestIn(int fd);
  // True: it was shut down now. REQUIRES: UCX stands still.
  bool Remove(int fd);
  void EndRound();
  int64_t Left() const;                  // who may still come, of all gates
  int64_t BucketOf(size_t gates) const;  // who may come at once at one of so many
  // Lets more in, as the rate and the number of strangers allow. True: somebody may be waiting.
  bool Admit(absl::Time now);
  // Looks at the next descriptors. False: those were the last of the round.
  bool LookAtSome(absl::Time now, int64_t* closed);

  const Hooks hooks_;
  const int64_t max_strangers_;
  std::vector<std::unique_ptr<ListenerGate>> gates_;
  int64_t room_;              // for strangers, until the end of the round
  int64_t admitted_ = 0;      // of all gates, since the start
  int64_t taken_before_ = 0;  // of them, those who had come when the round began
  int64_t bucket_ = 0;
  absl::Time drained_ = absl::InfinitePast();
  std::map<uint16_t, bool> ports_;  // -> whether it is a listener's
  std::map<int, Stranger> strangers_;
  std::vector<int> to_look_at_;
  absl::Time round_began_ = absl::InfinitePast();
  uint64_t round_ = 0;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_PORT_GUARD_H_
