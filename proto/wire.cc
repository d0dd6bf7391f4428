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
    if (++elements > bound.max_elements || static_cast<int64_t>(length) > bound.max_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": field ", bound.field, " has more than ",
                                                     bound.max_elements, " elements, or one beyond ", bound.max_bytes,
                                                     " bytes"));
    }
  }
  if (!in.ConsumedEntireMessage()) return absl::InvalidArgumentError(absl::StrCat(name, ": malformed"));
  return absl::OkStatus();
}

absl::Status CheckFieldCount(absl::string_view name, absl::string_view payload, int64_t max_fields, int nested,
                             int64_t max_nested_fields) {
  using google::protobuf::internal::WireFormatLite;
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(payload.data()),
                                            static_cast<int>(payload.size()));
  const auto malformed = [&] { return absl::InvalidArgumentError(absl::StrCat(name, ": malformed")); };
  int64_t fields = 0;
  while (const uint32_t tag = in.ReadTag()) {
    if (++fields > max_fields) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": has more than ", max_fields, " fields"));
    }
    const auto type = WireFormatLite::GetTagWireType(tag);
    // Groups, which none of our messages has, would hide fields from the count.
    if (type == WireFormatLite::WIRETYPE_START_GROUP || type == WireFormatLite::WIRETYPE_END_GROUP) return malformed();
    if (type != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return malformed();
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return malformed();
    const int begin = in.CurrentPosition();
    if (!in.Skip(static_cast<int>(length))) return malformed();
    if (nested == 0 || WireFormatLite::GetTagFieldNumber(tag) != nested) continue;
    const absl::Status element =
        CheckFieldCount(name, payload.substr(static_cast<size_t>(begin), length), max_nested_fields, 0, 0);
    if (!element.ok()) return element;
  }
  return in.ConsumedEntireMessage() ? absl::OkStatus() : malformed();
}

}  // namespace kvlink::internal
