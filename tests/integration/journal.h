// A journal of writes by clients of a store under faults: encodings begun, acknowledged, and removed since. Kept in a
// file that outlives the clients.
// Thread-safety: all methods; any number of processes may share the file.
#ifndef KVLINK_TESTS_INTEGRATION_JOURNAL_H_
#define KVLINK_TESTS_INTEGRATION_JOURNAL_H_

#include <atomic>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "base/mutex.h"

namespace kvlink::testing {

class Journal {
 public:
  // Made if it is not there. Aborts the program if it cannot be written: a test has nothing to go on with.
  explicit Journal(std::string path);
  const std::string& path() const { return path_; }

  void Started(uint64_t number) { Write('?', number); }
  // Before the caller relies on it: what this says survives the process.
  void Acknowledged(uint64_t number);
  // Its acknowledgement binds no more.
  void Removed(uint64_t number);
  // How often that was called on this object. Asked before known(): a number of it that goes later, this counts.
  int64_t removals() const { return removals_.load(); }

  // Of this object's own Acknowledged, and of what the file held when it was opened.
  std::vector<uint64_t> known() const;

  struct Contents {
    std::set<uint64_t> started, acknowledged;  // what was acknowledged is among what was started
  };
  Contents Read() const;

 private:
  void Write(char what, uint64_t number) const;

  const std::string path_;
  const Descriptor file_;
  std::atomic<int64_t> removals_{0};
  mutable Mutex mutex_;
  std::vector<uint64_t> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_JOURNAL_H_
