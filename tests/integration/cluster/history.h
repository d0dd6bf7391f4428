// What clients of a cluster asked for and were answered, and whether the answers keep the store's promises.
//
// Four rules, each of which a history is checked for:
//   1. a read gives exactly what was written under its name, or a miss
//   2. a document does not come back after its deletion was acknowledged
//   3. what was acknowledged is not missed, while nobody removed it and no misses are excused (Excuse)
//   4. no client sees a document go back in generation
//
// Calls overlap. A call that has not ended before another begins may take effect before or after it, and one whose
// outcome nobody knows may take effect at any time after it began; the rules hold only what no such order explains.
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
  kRead,            // of an encoding, whole: `value` names the bytes that came
  kRemove,          // of an encoding
  kPutDocument,     // `value` is the generation that it was given, or named
  kGetDocument,     // `value` is the generation found
  kDeleteDocument,  // `value` is the generation of the deletion, 0 where the catalog chose
};

// "put document".
const char* NameOf(CallKind kind);
// Of the catalog, not of the nodes.
bool OfDocument(CallKind kind);

enum class Ending : uint8_t {
  kOk,       // acknowledged, or found
  kAbsent,   // a miss, or no such document
  kFailed,   // it was not carried out, and will not be
  kUnknown,  // it may have been carried out, or may still be
};

struct Call {
  int client = 0;
  CallKind kind = CallKind::kRead;
  uint64_t key = 0;              // of the encoding or the document
  uint64_t value = 0;            // see CallKind
  int64_t begun = 0, ended = 0;  // of one clock for all clients
  Ending ending = Ending::kOk;
};

// From `begin` to `end` a miss is no fault: every replica was gone, or something was evicted.
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

// One line for each broken promise, naming the rule and the calls; empty: all were kept. A read that an excuse touches
// may miss; and so may all later ones of the same key, until it is written again.
std::vector<std::string> Check(const std::vector<Call>& calls, const std::vector<Excuse>& excuses);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_CLUSTER_HISTORY_H_
