// A journal of writes by clients of a store under faults: encodings begun, acknowledged, and later removed. Kept in a
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
  // Creates the file if needed. Aborts the program if it cannot be written, because the test cannot continue.
  explicit Journal(std::string path);
  const std::string& path() const { return path_; }

  void Started(uint64_t number) { Write('?', number); }
  // Call before relying on it: the record survives the process.
  void Acknowledged(uint64_t number);
  // Its acknowledgement no longer counts.
  void Removed(uint64_t number);
  // The number of Removed calls on this object. Read it before known(): it then counts every removal after known().
  int64_t removals() const { return removals_.load(); }

  // Numbers from this object's Acknowledged calls, and from the file when it was opened.
  std::vector<uint64_t> known() const;

  struct Contents {
    std::set<uint64_t> started, acknowledged;  // `acknowledged` is a subset of `started`
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
