// What parsers of protobuf payloads share, first of all limits on hostile ones, checked before the parser allocates: a
// two-byte field may expand to a hundred-byte object. Thread-safety: pure functions.
#ifndef KVLINK_PROTO_WIRE_H_
#define KVLINK_PROTO_WIRE_H_

#include <cstdint>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/digest.h"

namespace kvlink::internal {

struct FieldBound {
  int field;  // number of a repeated message field
  int64_t max_elements;
  int64_t max_bytes;  // per element
};

// INVALID_ARGUMENT, with a message that starts with `name`, if `payload` is malformed or exceeds the bound.
absl::Status CheckFieldBound(absl::string_view name, absl::string_view payload, const FieldBound& bound);

// INVALID_ARGUMENT, with a message that starts with `name`, if `payload` is malformed, has more than `max_fields`
// fields (known or not), or an element of its repeated message field `nested` (0: none) has more than
// `max_nested_fields`.
absl::Status CheckFieldCount(absl::string_view name, absl::string_view payload, int64_t max_fields, int nested,
                             int64_t max_nested_fields);

// False, and `to` unchanged, unless `from` has the digest's length.
template <int kBytes>
bool CopyDigest(const std::string& from, Digest<kBytes>& to) {
  if (from.size() != kBytes) return false;
  std::memcpy(to.bytes.data(), from.data(), kBytes);
  return true;
}

inline absl::Status BadManifest(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("manifest: ", what));
}

}  // namespace kvlink::internal

#endif  // KVLINK_PROTO_WIRE_H_
