// The contents of etcd, and the operations of a transaction. Thread-safety: plain values.
#ifndef KVLINK_ETCD_TYPES_H_
#define KVLINK_ETCD_TYPES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"

namespace kvlink::etcd {

using LeaseId = int64_t;
inline constexpr LeaseId kNoLease = 0;

struct KeyValue {
  std::string key;  // without the client's prefix
  std::string value;
  int64_t create_revision = 0, mod_revision = 0;
  LeaseId lease = kNoLease;
};

// A condition on one key. An absent key has revisions and lease 0 and satisfies no condition on its value.
struct Compare {
  enum class Target { kCreateRevision, kModRevision, kValue, kLease };
  enum class Relation { kEqual, kNotEqual, kGreater, kLess };
  std::string key;
  Target target = Target::kModRevision;
  Relation relation = Relation::kEqual;
  int64_t number = 0;  // a revision or a lease
  std::string value;

  static Compare Absent(std::string key) { return {std::move(key), Target::kCreateRevision, Relation::kEqual, 0, ""}; }
  static Compare ModRevision(std::string key, int64_t revision) {
    return {std::move(key), Target::kModRevision, Relation::kEqual, revision, ""};
  }
  static Compare Value(std::string key, std::string value) {
    return {std::move(key), Target::kValue, Relation::kEqual, 0, std::move(value)};
  }
  static Compare Lease(std::string key, LeaseId lease) {
    return {std::move(key), Target::kLease, Relation::kEqual, lease, ""};
  }
};

// Operations of a transaction. `prefix`: all keys that begin with `key`.
struct GetOp {
  std::string key;
  bool prefix = false;
};
struct PutOp {
  std::string key, value;
  LeaseId lease = kNoLease;  // the key is deleted when the lease ends
};
struct DeleteOp {
  std::string key;
  bool prefix = false;
};
using Op = std::variant<GetOp, PutOp, DeleteOp>;

struct Transaction {
  std::vector<Compare> conditions;  // all must hold; empty: always true
  std::vector<Op> then, otherwise;  // no key may be changed twice
};
// The result of one operation: the keys a GetOp found, in order, or the number of keys a DeleteOp deleted.
struct OpResult {
  std::vector<KeyValue> found;
  int64_t deleted = 0;
};
struct TransactionResult {
  bool succeeded = false;  // the conditions held, and `then` was carried out
  int64_t revision = 0;    // of etcd, after the transaction
  std::vector<OpResult> results;
};

struct GetOptions {
  bool prefix = false;   // all keys that begin with the key
  int64_t revision = 0;  // read as of this revision; 0: now
  int64_t limit = 0;     // at most this many keys, the first in order; 0: all
  // Answers from the member's own state, which may be stale, even if it is cut off. Otherwise the read sees everything
  // written before the call.
  bool serializable = false;
};
struct GetResult {
  std::vector<KeyValue> found;  // ordered by key; empty if there is none, which is not an error
  bool more = false;            // the limit left some out
  int64_t revision = 0;         // of etcd; a watch continues at this + 1
};

struct DeleteResult {
  int64_t deleted = 0;   // number of keys
  int64_t revision = 0;  // of etcd, after the deletion
};

struct Lease {
  LeaseId id = kNoLease;
  absl::Duration ttl;      // as granted by etcd; may exceed the requested one
  absl::Time valid_until;  // SteadyNow() time before which etcd does not end it
};

struct Event {
  bool deleted = false;  // by a client, or by the end of its lease
  KeyValue key_value;    // if deleted: only the key, and in mod_revision the revision of the deletion
};
struct WatchBatch {
  // In the order they happened; all events of a revision are in one batch. Empty: no events up to `revision`.
  std::vector<Event> events;
  // All changes up to and including this revision have been reported. If there are no events, etcd releases before 2024
  // may report a revision slightly too early (etcd issue 15220); the missing events then follow.
  int64_t revision = 0;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_TYPES_H_
