#include "proto/wire.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include "absl/strings/str_cat.h"

namespace kvlink::internal {

absl::Status CheckFieldBound(absl::string_view name, absl::string_view payload, const FieldBound& bound) {
  using google::protobuf::internal::WireFormatLite;
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(payload.data()),
                                            static_cast<int>(payload.size()));
  int64_t elements = 0;
  while (const uint32_t tag = in.ReadTag()) {
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return absl::InvalidArgumentError(absl::StrCat(name, ": malformed"));
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length) || !in.Skip(static_cast<int>(length))) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": malformed"));
    }
    if (WireFormatLite::GetTagFieldNumber(tag) != bound.field) continue;
    if (++elements > bound.most_elements || static_cast<int64_t>(length) > bound.most_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": field ", bound.field, " has more than ",
                                                     bound.most_elements, " elements, or one beyond ", bound.most_bytes,
                                                     " bytes"));
    }
  }
  if (!in.ConsumedEntireMessage()) return absl::InvalidArgumentError(absl::StrCat(name, ": malformed"));
  return absl::OkStatus();
}

}  // namespace kvlink::internal
