// Keeps peers that do not speak UCX away from UCX's listening sockets.
//
// UCX 1.13 does not protect itself against unidentified peers. At a listener's port it trusts the length that arrives
// first; if that exceeds its buffer, its thread stops reading forever and never closes the descriptor (tcp_sockcm_ep.c,
// uct_tcp_sockcm_ep_recv). A silent peer holds a descriptor for as long as it likes. Hence three defences. A socket
// filter, inherited by accepted sockets, makes the kernel drop every segment at the listener's port that does not begin
// like a UCX message, until the peer has begun one. Sockets whose peer stays unidentified for a while are shut down.
// And UCX accepts connections at a limited rate, and none while too many peers are unidentified (listener_gate.h). This
// does not stop a peer that speaks UCX (ucx.h, "Trust").
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
  static constexpr int64_t kManyStrangers = 256;              // beyond this, they have only kBetweenRounds
  static constexpr int64_t kMaxStrangers = 1024;              // beyond this, no connection is let in
  static constexpr absl::Duration kGrace = absl::Seconds(5);  // for a peer to be identified
  static constexpr absl::Duration kBetweenRounds = absl::Seconds(1);

  // Provided by the owner. `known`: whether "host:port" is the peer of an accepted session. `still`: runs `act` while
  // no UCX thread opens or closes descriptors.
  struct Hooks {
    std::function<bool(const std::string& peer)> known;
    std::function<void(const std::function<void()>& act)> still;
  };
  explicit PortGuard(Hooks hooks);

  // This process's listening TCP sockets.
  static std::set<int> Listening();

  // Adds a socket at which UCX accepts its own connections, on a port it chose; a peer there counts as known once it
  // has sent a few bytes.
  void AddInterface(int fd);
  // Adds a listener's socket and gives it the filter and a gate. UNAVAILABLE: that failed.
  absl::Status AddListener(int fd);
  // Call before the listeners are destroyed.
  void RemoveGates() { gates_.clear(); }

  // Checks a bounded number of descriptors; returns when to call again. Adds the number of sockets shut down to
  // `*closed`.
  absl::Time Look(absl::Time now, int64_t* closed);

 private:
  struct Stranger {
    std::string peer;
    absl::Time since;
    uint64_t round = 0;
    bool began = false;  // the first bytes were valid, and the filter was removed
    bool shut = false;
  };
  // The peer of an accepted, unidentified connection at a guarded port. Empty: `fd` is none.
  std::string StrangerAt(int fd) const;
  void LetTheRestIn(int fd);
  // Shuts a stranger's connection down. Returns whether it did so now. REQUIRES: UCX stands still (Hooks::still).
  bool Remove(int fd);
  void EndRound();
  int64_t Left() const;                  // connections all gates may still let in
  int64_t BucketOf(size_t gates) const;  // connections one of `gates` gates may let in at once
  // Lets more connections in, as the rate and the number of strangers allow. Returns true if one may be waiting.
  bool Admit(absl::Time now);
  // Checks the next descriptors. Returns false if they were the last of the round.
  bool LookAtSome(absl::Time now, int64_t* closed);

  const Hooks hooks_;
  const int64_t max_strangers_;
  std::vector<std::unique_ptr<ListenerGate>> gates_;
  int64_t room_;              // for strangers, until the end of the round
  int64_t admitted_ = 0;      // by all gates, since the start
  int64_t taken_before_ = 0;  // of admitted_, those accepted when the round began
  int64_t bucket_ = 0;
  absl::Time drained_ = absl::InfinitePast();
  std::map<uint16_t, bool> ports_;  // port -> whether it is a listener's
  std::map<int, Stranger> strangers_;
  std::vector<int> to_look_at_;
  absl::Time round_began_ = absl::InfinitePast();
  uint64_t round_ = 0;
};

}  // namespace kvlink::transport

#endif  // KVLINK_TRANSPORT_UCX_PORT_GUARD_H_
