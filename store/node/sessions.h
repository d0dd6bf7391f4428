// Sessions: identify clients, expire, and own state that ends with them (pins, and the answers that repeated requests
// get).
//
// Thread-safety: all methods. Lifetime: sessions are shared; a closed or expired one only refuses requests.
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
inline constexpr size_t kMaxClientName = 255;  // bytes of the name that are kept
// From the system's random number generator.
std::string RandomBytes(size_t count);

// Caches answers to requests that must not be carried out twice, by request id: pending ones, and those that ended
// last.
class ReplyCache {
 public:
  enum class State { kNew, kUnderWay, kAnswered };
  // kNew: the caller must carry the request out and call Finish or Forget. kAnswered: sets `*answer` to the first
  // answer.
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
  // For logs, since tokens are secret.
  int64_t number() const { return number_; }
  const Grant& grant() const { return grant_; }
  const std::string& client() const { return client_; }
  bool live(absl::Time now) const;
  absl::Time expires() const;

  // UNAUTHENTICATED: expired or closed. PERMISSION_DENIED.
  absl::Status Check(Right needed, absl::string_view ns) const;
  // Likewise, for operations on the node as a whole.
  absl::Status CheckAll(Right needed) const;

  // Records a pin made for the session, on the encoding with this key and sequence number. Returns false if the session
  // is closed. Pins of an earlier encoding with the key are gone, as it is.
  bool AddPin(const engine::EncodingKey& key, uint64_t sequence);
  // Removes one pin, and returns the sequence number it was made with; nullopt if the session has none of this key.
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
  // Releases one pin of an ended session.
  using Unpin = std::function<void(const engine::EncodingKey& key, uint64_t sequence)>;
  Sessions(const Limits& limits, absl::Duration lifetime, Unpin unpin)
      : limits_(limits), lifetime_(lifetime), unpin_(std::move(unpin)) {}

  // RESOURCE_EXHAUSTED: the limit of sessions is reached, for the grant or in total.
  absl::StatusOr<std::shared_ptr<Session>> Open(Grant grant, absl::string_view client);
  // UNAUTHENTICATED: no such session, or it has expired.
  absl::StatusOr<std::shared_ptr<Session>> Find(absl::string_view token);
  // Extends it to the full lifetime from now. UNAUTHENTICATED: it has ended.
  absl::Status Renew(Session* session);
  void Close(Session* session);
  void CloseAll();
  // Closes sessions whose grant does not satisfy `holds`; returns how many.
  int64_t CloseUnless(const std::function<bool(const Grant&)>& holds);
  // Releases all pins of a namespace, of all sessions; returns how many.
  int64_t DropPins(absl::string_view ns);
  // Closes expired sessions; returns how many.
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
