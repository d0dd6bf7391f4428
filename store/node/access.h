// A node's access file: keys and their rights (docs/formats.md "Access file").
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

// Repair covers reading and listing a node's slots: the right one node grants another. Write includes read; admin
// includes all.
enum class Right : uint8_t { kRead = 1, kRepair = 2, kWrite = 3, kAdmin = 4 };
absl::string_view RightName(Right right);
bool Includes(Right right, Right needed);

// The rights of one key.
struct Grant {
  std::string name;                  // used in logs
  std::array<uint8_t, 32> key = {};  // SHA-256 of the key
  Right right = Right::kRead;
  bool every_namespace = false;
  std::set<std::string, std::less<>> namespaces;

  // PERMISSION_DENIED, saying which right is missing.
  absl::Status Allows(Right needed, absl::string_view ns) const;
  // For operations on the node as a whole, which need the right on every namespace.
  absl::Status AllowsAll(Right needed) const;
  bool Covers(absl::string_view ns) const { return every_namespace || namespaces.find(ns) != namespaces.end(); }
  bool operator==(const Grant&) const = default;
};

class AccessList {
 public:
  // Allows everything to every client, whatever its key.
  AccessList() = default;
  // INVALID_ARGUMENT, naming the line but never the key.
  static absl::StatusOr<AccessList> Parse(absl::string_view text);
  // NOT_FOUND; INVALID_ARGUMENT (as Parse, naming the file); FAILED_PRECONDITION: users other than its owner can read
  // or change the file, which holds all keys.
  static absl::StatusOr<AccessList> Load(const std::string& path);

  // UNAUTHENTICATED: unknown key.
  absl::StatusOr<Grant> Find(absl::string_view key) const;
  // Whether the list still contains exactly this grant.
  bool Holds(const Grant& grant) const;
  // Whether clients need a key.
  bool guarded() const { return guarded_; }

 private:
  bool guarded_ = false;
  // Keyed by hash, so that the time of a lookup reveals nothing about the keys.
  std::map<std::array<uint8_t, 32>, Grant> grants_;
};

// The list in force, which can be replaced while the node serves. Thread-safety: all methods.
class Access {
 public:
  explicit Access(AccessList list) : guarded_(list.guarded()), list_(std::move(list)) {}
  absl::StatusOr<Grant> Find(absl::string_view key) const {
    MutexLock lock(&mutex_);
    return list_.Find(key);
  }
  // Whether a grant found earlier is still in force.
  bool Holds(const Grant& grant) const {
    MutexLock lock(&mutex_);
    return !guarded_ || list_.Holds(grant);
  }
  // Whether clients need a key; constant over the node's lifetime.
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
