// The access file of a node: keys and their rights (docs/formats.md "Access file").
// Thread-safety: plain values.
#ifndef KVLINK_STORE_NODE_ACCESS_H_
#define KVLINK_STORE_NODE_ACCESS_H_

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"

namespace kvlink::store::node {

// Repair is reading, and listing what a node has of each slot: what one node lets another do. Write includes read, and
// admin all of them.
enum class Right : uint8_t { kRead = 1, kRepair = 2, kWrite = 3, kAdmin = 4 };
absl::string_view RightName(Right right);
bool Includes(Right right, Right needed);

// The rights of one key.
struct Grant {
  std::string name;                  // for logs
  std::array<uint8_t, 32> key = {};  // its hash
  Right right = Right::kRead;
  bool every_namespace = false;
  std::set<std::string, std::less<>> namespaces;

  // PERMISSION_DENIED, saying what is missing.
  absl::Status Allows(Right needed, absl::string_view ns) const;
  // For acts on the node as a whole, which need the right over every namespace.
  absl::Status AllowsAll(Right needed) const;
  bool Covers(absl::string_view ns) const { return every_namespace || namespaces.find(ns) != namespaces.end(); }
  bool operator==(const Grant&) const = default;
};

class AccessList {
 public:
  // Everybody may do everything, whatever the key.
  AccessList() = default;
  // INVALID_ARGUMENT naming the line, never the key.
  static absl::StatusOr<AccessList> Parse(absl::string_view text);
  // NOT_FOUND, INVALID_ARGUMENT (as Parse, naming the file), FAILED_PRECONDITION: others than its owner may read or
  // change the file, which holds every key.
  static absl::StatusOr<AccessList> Load(const std::string& path);

  // UNAUTHENTICATED: an unknown key.
  absl::StatusOr<Grant> Find(absl::string_view key) const;
  // Whether the list still grants this, exactly.
  bool Holds(const Grant& grant) const;
  // Whether keys are asked for.
  bool guarded() const { return guarded_; }

 private:
  bool guarded_ = false;
  // By the hash of the key, so that the time of a look-up tells nothing about the keys.
  std::map<std::array<uint8_t, 32>, Grant> grants_;
};

// The list in force: it can be replaced while the node serves. Thread-safety: all methods.
class Access {
 public:
  explicit Access(AccessList list) : guarded_(list.guarded()), list_(std::move(list)) {}
  absl::StatusOr<Grant> Find(absl::string_view key) const {
    MutexLock lock(&mutex_);
    return list_.Find(key);
  }
  // Whether what was found earlier is granted still.
  bool Holds(const Grant& grant) const {
    MutexLock lock(&mutex_);
    return !guarded_ || list_.Holds(grant);
  }
  // Whether keys are asked for: the same for as long as the node.
  bool guarded() const { return guarded_; }
  void Replace(AccessList list) {
    MutexLock lock(&mutex_);
    list_ = std::move(list);
  }

 private:
  const bool guarded_;
  mutable Mutex mutex_;
  AccessList list_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_ACCESS_H_
