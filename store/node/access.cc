// Keys are stored only as hashes, and errors name lines, never keys.
#include "store/node/access.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/descriptor.h"
#include "base/status.h"
#include "proto/digest.h"
#include "store/store.h"

namespace kvlink::store::node {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kFewestKeyCharacters = 16, kMaxKeyCharacters = 1024;
constexpr size_t kMaxNamespaces = 1024;

std::array<uint8_t, 32> HashOf(absl::string_view key) {
  Sha256 hash;
  hash.Update(key);
  return hash.Finish();
}

absl::StatusOr<Right> ParseRight(absl::string_view text) {
  for (const Right right : {Right::kRead, Right::kRepair, Right::kWrite, Right::kAdmin}) {
    if (text == RightName(right)) return right;
  }
  return absl::InvalidArgumentError("the third field is the right: read, repair, write or admin");
}

absl::Status ParseNamespaces(absl::string_view text, Grant* grant) {
  if (text == "*") {
    grant->every_namespace = true;
    return absl::OkStatus();
  }
  for (const absl::string_view ns : absl::StrSplit(text, ',')) {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
    if (ns == "*") return absl::InvalidArgumentError("'*' stands alone, or names are listed");
    grant->namespaces.emplace(ns);
    if (grant->namespaces.size() > kMaxNamespaces) return absl::InvalidArgumentError("more than 1024 namespaces");
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view RightName(Right right) {
  switch (right) {
    case Right::kRead:
      return "read";
    case Right::kRepair:
      return "repair";
    case Right::kWrite:
      return "write";
    case Right::kAdmin:
      return "admin";
  }
  return "unknown";
}

bool Includes(Right right, Right needed) { return right == needed || right == Right::kAdmin || needed == Right::kRead; }

absl::Status Grant::Allows(Right needed, absl::string_view ns) const {
  if (!Includes(right, needed)) {
    return absl::PermissionDeniedError(
        absl::StrCat("this key has the right '", RightName(right), "', and '", RightName(needed), "' is needed"));
  }
  if (!Covers(ns)) return absl::PermissionDeniedError(absl::StrCat("this key does not cover namespace '", ns, "'"));
  return absl::OkStatus();
}

absl::Status Grant::AllowsAll(Right needed) const {
  if (!Includes(right, needed) || !every_namespace) {
    return absl::PermissionDeniedError(
        absl::StrCat("this needs a key with the right '", RightName(needed), "' over all namespaces ('*')"));
  }
  return absl::OkStatus();
}

absl::StatusOr<AccessList> AccessList::Parse(absl::string_view text) {
  if (text.size() > kMaxBytes) return absl::InvalidArgumentError("an access file has at most 1 MiB");
  AccessList list;
  list.guarded_ = true;
  std::set<std::string> names;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = line.substr(0, line.find('#'));
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (fields.empty()) continue;
    const auto bad = [number](const absl::Status& status) { return Annotate(status, absl::StrCat("line ", number)); };
    if (fields.size() != 4) {
      return bad(absl::InvalidArgumentError("expected NAME KEY RIGHTS NAMESPACES, separated by spaces"));
    }
    Grant grant;
    grant.name = std::string(fields[0]);
    KVLINK_RETURN_IF_ERROR(bad(ValidateName("name", fields[0])));
    if (!names.insert(grant.name).second) return bad(absl::InvalidArgumentError("the name is there already"));
    const absl::string_view key = fields[1];
    const bool printable = std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7f; });
    if (key.size() < kFewestKeyCharacters || key.size() > kMaxKeyCharacters || !printable) {
      return bad(absl::InvalidArgumentError("a key has 16 to 1024 printable ASCII characters"));
    }
    auto right = ParseRight(fields[2]);
    if (!right.ok()) return bad(right.status());
    grant.right = *right;
    KVLINK_RETURN_IF_ERROR(bad(ParseNamespaces(fields[3], &grant)));
    grant.key = HashOf(key);
    if (!list.grants_.emplace(grant.key, grant).second) {
      return bad(absl::InvalidArgumentError("the key is another line's, too"));
    }
  }
  if (list.grants_.empty()) return absl::InvalidArgumentError("no line grants anything");
  return list;
}

absl::StatusOr<AccessList> AccessList::Load(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (file.get() < 0 || fstat(file.get(), &status) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot read the access file ", path, ": ", std::strerror(errno)));
  }
  if ((status.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("the access file ", path,
                                                      " can be read or changed by other users, and holds every key: "
                                                      "chmod 600 it"));
  }
  std::string text(kMaxBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::NotFoundError(absl::StrCat("cannot read the access file ", path, ": ", std::strerror(errno)));
    }
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  text.resize(size);
  auto list = Parse(text);
  if (!list.ok()) return Annotate(list.status(), path);
  return list;
}

bool AccessList::Holds(const Grant& grant) const {
  const auto found = grants_.find(grant.key);
  return found != grants_.end() && found->second == grant;
}

absl::StatusOr<Grant> AccessList::Find(absl::string_view key) const {
  if (!guarded_) {
    Grant all;
    all.name = "anybody";
    all.right = Right::kAdmin;
    all.every_namespace = true;
    return all;
  }
  const auto found = grants_.find(HashOf(key));
  if (found == grants_.end()) return absl::UnauthenticatedError("the key is not in the node's access file");
  return found->second;
}

}  // namespace kvlink::store::node
