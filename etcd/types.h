// What etcd holds, and what may be asked of it in a transaction. Thread-safety: plain values.
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

// A condition on one key. A key that is not there has revisions and a lease of 0, and no condition on its value holds.
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
  LeaseId lease = kNoLease;  // the key goes when the lease ends
};
struct DeleteOp {
  std::string key;
  bool prefix = false;
};
using Op = std::variant<GetOp, PutOp, DeleteOp>;

struct Transaction {
  std::vector<Compare> conditions;  // all must hold; none: always
  std::vector<Op> then, otherwise;  // no key is changed twice
};
// Of one operation: a GetOp's keys in order, how many keys a DeleteOp deleted.
struct OpResult {
  std::vector<KeyValue> found;
  int64_t deleted = 0;
};
struct TransactionResult {
  bool succeeded = false;  // the conditions held, and `then` was carried out
  int64_t revision = 0;    // of the store, after it
  std::vector<OpResult> results;
};

struct GetOptions {
  bool prefix = false;   // all keys that begin with the key
  int64_t revision = 0;  // as of then; 0: now
  int64_t limit = 0;     // at most so many keys, the first ones in order; 0: all
  // From what the member has, be it old and the member cut off from the others. Otherwise what was written before the
  // call is seen.
  bool serializable = false;
};
struct GetResult {
  std::vector<KeyValue> found;  // in order of their keys; empty: there is none, which is no error
  bool more = false;            // there are more than the limit
  int64_t revision = 0;         // of the store: where a watch goes on is one more
};

struct DeleteResult {
  int64_t deleted = 0;   // keys
  int64_t revision = 0;  // of the store, after it
};

struct Lease {
  LeaseId id = kNoLease;
  absl::Duration ttl;      // that etcd granted, which may be more than was asked for
  absl::Time valid_until;  // of SteadyNow(): etcd does not end it before
};

struct Event {
  bool deleted = false;  // by somebody, or by the end of its lease
  KeyValue key_value;    // where deleted: the key, and as mod_revision when
};
struct WatchBatch {
  // In the order in which they happened; all of each revision in one batch. Empty: there were none, up to `revision`.
  std::vector<Event> events;
  // Changes up to and including this revision have been told. Where there are no events, releases of etcd before 2024
  // may say so a moment too early (etcd's issue 15220): what they left out then follows.
  int64_t revision = 0;
};

}  // namespace kvlink::etcd

#endif  // KVLINK_ETCD_TYPES_H_
