// Each rule checks one key at a time, in the order in which calls began: some order of overlapping calls must explain
// each answer. That is weaker than linearizability, which a cache does not promise.
#include "tests/integration/cluster/history.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvlink::testing {

const char* NameOf(CallKind kind) {
  switch (kind) {
    case CallKind::kPut:
      return "put";
    case CallKind::kRead:
      return "read";
    case CallKind::kRemove:
      return "remove";
    case CallKind::kPutDocument:
      return "put document";
    case CallKind::kGetDocument:
      return "get document";
    case CallKind::kDeleteDocument:
      return "delete document";
  }
  return "?";
}

bool OfDocument(CallKind kind) {
  return kind == CallKind::kPutDocument || kind == CallKind::kGetDocument || kind == CallKind::kDeleteDocument;
}

namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

std::string Text(const Call& call) {
  return absl::StrCat(NameOf(call.kind), " ", call.key, call.ending == Ending::kAbsent ? " absent" : "", " value ",
                      call.value, " by client ", call.client, " in [", call.begun, ", ", call.ended, "]");
}

// The time after which a call can no longer take effect.
int64_t LatestEffect(const Call& call) { return call.ending == Ending::kUnknown ? kNever : call.ended; }

using Calls = std::vector<const Call*>;

class Checker {
 public:
  explicit Checker(const std::vector<Excuse>& excuses) : excuses_(excuses) {}

  void Encoding(const Calls& calls) {
    for (const Call* call : calls) {
      if (call->kind != CallKind::kRead) continue;
      if (call->ending == Ending::kOk) WasWritten(calls, *call);
      if (call->ending == Ending::kAbsent) MayMiss(calls, *call, CallKind::kPut, CallKind::kRemove);
    }
  }

  void Document(const Calls& calls) {
    std::map<int, const Call*> latest;  // for each client, the call that showed the highest generation
    for (const Call* call : calls) {
      if (call->kind == CallKind::kGetDocument && call->ending == Ending::kAbsent) {
        MayMiss(calls, *call, CallKind::kPutDocument, CallKind::kDeleteDocument);
      }
      if (call->ending != Ending::kOk || call->kind == CallKind::kDeleteDocument) continue;
      if (call->kind == CallKind::kGetDocument) StaysDeleted(calls, *call);
      const Call*& seen = latest[call->client];
      // A client's calls are sequential, so they are ordered by their beginnings.
      if (seen != nullptr && call->kind == CallKind::kGetDocument && call->value < seen->value &&
          call->begun >= seen->ended) {
        Broken(4, "a client saw the generation of a document go back", {seen, call});
      }
      if (seen == nullptr || call->value > seen->value) seen = call;
    }
  }

  std::vector<std::string> Broken() && { return std::move(broken_); }

 private:
  void Broken(int rule, const std::string& what, const Calls& calls) {
    std::string line = absl::StrCat("rule ", rule, ": ", what);
    for (const Call* call : calls) absl::StrAppend(&line, "; ", Text(*call));
    broken_.push_back(std::move(line));
  }

  void WasWritten(const Calls& calls, const Call& read) {
    const bool written = std::any_of(calls.begin(), calls.end(), [&read](const Call* put) {
      return put->kind == CallKind::kPut && put->ending != Ending::kFailed && put->value == read.value &&
             put->begun < read.ended;
    });
    if (!written) Broken(1, "a read returned bytes that were never written", {&read});
  }

  bool Excused(int64_t from, int64_t to) const {
    return std::any_of(excuses_.begin(), excuses_.end(),
                       [from, to](const Excuse& excuse) { return excuse.begin <= to && excuse.end >= from; });
  }

  // A miss breaks a promise if a put was acknowledged before the read began, and no removal may have taken effect since
  // the put began. Excuses for nodes do not apply to the catalog, which must lose nothing.
  void MayMiss(const Calls& calls, const Call& read, CallKind puts, CallKind removals) {
    for (const Call* put : calls) {
      if (put->kind != puts || put->ending != Ending::kOk || put->ended > read.begun) continue;
      const bool removed = std::any_of(calls.begin(), calls.end(), [&](const Call* remove) {
        return remove->kind == removals && remove->ending != Ending::kFailed && remove->begun < read.ended &&
               LatestEffect(*remove) > put->begun;
      });
      if (removed || (!OfDocument(read.kind) && Excused(put->ended, read.ended))) continue;
      return Broken(3, "a read missed an acknowledged write", {put, &read});
    }
  }

  // Finding a document breaks a promise if a deletion was acknowledged before the call began, and no put of a
  // generation above the deletion's may have taken effect since.
  void StaysDeleted(const Calls& calls, const Call& found) {
    for (const Call* deletion : calls) {
      if (deletion->kind != CallKind::kDeleteDocument || deletion->ending != Ending::kOk ||
          deletion->ended > found.begun) {
        continue;
      }
      const bool put_again = std::any_of(calls.begin(), calls.end(), [&](const Call* put) {
        return put->kind == CallKind::kPutDocument && put->ending != Ending::kFailed && put->begun < found.ended &&
               LatestEffect(*put) > deletion->begun && (put->ending == Ending::kUnknown || put->value == found.value) &&
               (deletion->value == 0 || found.value > deletion->value);
      });
      if (!put_again) return Broken(2, "a document came back after its deletion", {deletion, &found});
    }
  }

  const std::vector<Excuse>& excuses_;
  std::vector<std::string> broken_;
};

}  // namespace

void History::Add(const Call& call) {
  MutexLock lock(&mutex_);
  calls_.push_back(call);
}

std::vector<Call> History::calls() const {
  MutexLock lock(&mutex_);
  return calls_;
}

std::vector<std::string> Check(const std::vector<Call>& calls, const std::vector<Excuse>& excuses) {
  std::map<uint64_t, Calls> encodings, documents;
  for (const Call& call : calls) (OfDocument(call.kind) ? documents : encodings)[call.key].push_back(&call);
  Checker checker(excuses);
  const auto by_beginning = [](const Call* a, const Call* b) { return a->begun < b->begun; };
  for (auto& [key, of_key] : encodings) {
    std::sort(of_key.begin(), of_key.end(), by_beginning);
    checker.Encoding(of_key);
  }
  for (auto& [key, of_key] : documents) {
    std::sort(of_key.begin(), of_key.end(), by_beginning);
    checker.Document(of_key);
  }
  return std::move(checker).Broken();
}

}  // namespace kvlink::testing
