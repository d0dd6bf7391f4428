// Sessions: who speaks, for how long, and what is theirs and goes with them (pins, answers that a repeated request
// gets).
//
// Thread-safety: all methods. Lifetime: sessions are shared; one that is closed or expired only refuses.
#ifndef KVLINK_STORE_NODE_SESSIONS_H_
#define KVLINK_STORE_NODE_SESSIONS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "store/engine/disk/location.h"
#include "store/node/access.h"

namespace kvlink::store::node {

inline constexpr size_t kTokenBytes = 16;
inline constexpr size_t kMaxClientName = 255;  // bytes that are kept of it
// From the system's generator of random numbers.
std::string RandomBytes(size_t count);

// Answers to requests that must not be carried out twice, by request id: those under way, and the latest that ended.
class ReplyCache {
 public:
  enum class State { kNew, kUnderWay, kAnswered };
  // kNew: the caller carries it out and calls Finish or Forget. kAnswered: `*answer` is that of the first.
  State Begin(uint64_t id, std::string* answer);
  void Finish(uint64_t id, std::string answer);
  void Forget(uint64_t id);

 private:
  struct Entry {
    bool answered = false;
    std::string answer;
  };
  Mutex mutex_;
  absl::flat_hash_map<uint64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::deque<uint64_t> answered_ ABSL_GUARDED_BY(mutex_);  // oldest first
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

class Session {
 public:
  Session(std::string token, int64_t number, Grant grant, std::string client, absl::Time expires);

  const std::string& token() const { return token_; }
  // For logs: tokens are secrets.
  int64_t number() const { return number_; }
  const Grant& grant() const { return grant_; }
  const std::string& client() const { return client_; }
  bool live(absl::Time now) const;
  absl::Time expires() const;

  // UNAUTHENTICATED: expired or closed; PERMISSION_DENIED.
  absl::Status Check(Right needed, absl::string_view ns) const;
  // The same for acts on the node as a whole.
  absl::Status CheckAll(Right needed) const;

  // Pins that were made for the session, of the encoding that had this name and sequence number. AddPin: false once it
  // is closed. Those of an earlier encoding of the name are gone, as it is.
  bool AddPin(const engine::EncodingKey& key, uint64_t sequence);
  // Takes one away, and gives the sequence number it was made with. Nothing: it has none of that name.
  std::optional<uint64_t> TakePin(const engine::EncodingKey& key);
  ReplyCache& answers() { return answers_; }

 private:
  friend class Sessions;
  struct PinCount {
    uint64_t sequence = 0;
    int64_t count = 0;
  };
  using Pins = std::map<engine::EncodingKey, PinCount>;
  void Renew(absl::Time expires);
  Pins Close();
  Pins TakePins(absl::string_view ns);

  const std::string token_;
  const int64_t number_;
  const Grant grant_;
  const std::string client_;
  ReplyCache answers_;
  std::atomic<int64_t> expires_;  // nanoseconds since 1970; 0: closed
  Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  Pins pins_ ABSL_GUARDED_BY(mutex_);
};

class Sessions {
 public:
  struct Limits {
    int sessions = 8192;
    int per_grant = 2048;
    int reserved = 64;  // beyond `sessions`, for administrators of every namespace
  };
  // Gives back one pin of a session that ended.
  using Unpin = std::function<void(const engine::EncodingKey& key, uint64_t sequence)>;
  Sessions(const Limits& limits, absl::Duration lifetime, Unpin unpin)
      : limits_(limits), lifetime_(lifetime), unpin_(std::move(unpin)) {}

  // RESOURCE_EXHAUSTED: as many as there may be are open, of the grant or of all.
  absl::StatusOr<std::shared_ptr<Session>> Open(Grant grant, absl::string_view client);
  // UNAUTHENTICATED: no such session, or it has expired.
  absl::StatusOr<std::shared_ptr<Session>> Find(absl::string_view token);
  // For the full lifetime from now. UNAUTHENTICATED: it has ended.
  absl::Status Renew(Session* session);
  void Close(Session* session);
  void CloseAll();
  // Closes those whose grant `holds` no longer; returns how many.
  int64_t CloseUnless(const std::function<bool(const Grant&)>& holds);
  // Gives back the pins of a namespace, whichever session has them; returns how many.
  int64_t DropPins(absl::string_view ns);
  // Closes what has expired; returns how many.
  int64_t Sweep(absl::Time now);

  absl::Duration lifetime() const { return lifetime_; }
  int64_t size() const;

 private:
  using OpenSessions = absl::flat_hash_map<std::string, std::shared_ptr<Session>>;
  std::shared_ptr<Session> Take(OpenSessions::iterator session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::shared_ptr<Session>> TakeIf(const std::function<bool(const Session&)>& ends);
  void Release(const std::shared_ptr<Session>& session);

  const Limits limits_;
  const absl::Duration lifetime_;
  const Unpin unpin_;
  mutable Mutex mutex_;
  OpenSessions sessions_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int> by_grant_ ABSL_GUARDED_BY(mutex_);
  int64_t opened_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_SESSIONS_H_
