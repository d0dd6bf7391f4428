// The requests of a cluster's clients and their answers, and a check that the answers keep the store's promises.
//
// A history is checked for four rules:
//   1. a read returns exactly what was written under its name, or a miss
//   2. a document does not come back after its deletion was acknowledged
//   3. an acknowledged write is not missed, unless it was removed or misses are excused (Excuse)
//   4. no client sees a document go back in generation
//
// Calls overlap. If a call has not ended before another begins, either may take effect first, and a call with an
// unknown outcome may take effect at any time after it began; a rule is broken only if no such order explains the
// answers.
//
// Thread-safety: History all methods; Check is a pure function.
#ifndef KVLINK_TESTS_INTEGRATION_CLUSTER_HISTORY_H_
#define KVLINK_TESTS_INTEGRATION_CLUSTER_HISTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/mutex.h"

namespace kvlink::testing {

enum class CallKind : uint8_t {
  kPut,             // an encoding: `key`; `value` names its bytes
  kRead,            // of an encoding, whole: `value` names the bytes received
  kRemove,          // of an encoding
  kPutDocument,     // `value` is the generation assigned or given
  kGetDocument,     // `value` is the generation found
  kDeleteDocument,  // `value` is the generation of the deletion, 0 if chosen by the catalog
};

// "put document".
const char* NameOf(CallKind kind);
// Whether the call goes to the catalog, not to the nodes.
bool OfDocument(CallKind kind);

enum class Ending : uint8_t {
  kOk,       // acknowledged, or found
  kAbsent,   // a miss, or no such document
  kFailed,   // not carried out, now or later
  kUnknown,  // may have been carried out, or may still be
};

struct Call {
  int client = 0;
  CallKind kind = CallKind::kRead;
  uint64_t key = 0;              // of the encoding or the document
  uint64_t value = 0;            // see CallKind
  int64_t begun = 0, ended = 0;  // on one clock for all clients
  Ending ending = Ending::kOk;
};

// From `begin` to `end` misses are allowed: every replica was gone, or something was evicted.
struct Excuse {
  int64_t begin = 0, end = 0;
};

class History {
 public:
  void Add(const Call& call);
  std::vector<Call> calls() const;

 private:
  mutable Mutex mutex_;
  std::vector<Call> calls_ ABSL_GUARDED_BY(mutex_);
};

// Returns one line for each broken promise, naming the rule and the calls; empty if all were kept. A read that overlaps
// an excuse may miss, and so may all later reads of the same key until it is written again.
std::vector<std::string> Check(const std::vector<Call>& calls, const std::vector<Excuse>& excuses);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_HISTORY_H_
