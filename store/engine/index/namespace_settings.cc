#include "store/engine/index/namespace_settings.h"

#include "base/little_endian.h"
#include "base/status.h"
#include "proto/envelope.h"

namespace kvlink::engine {
namespace {

constexpr EnvelopeKind kNamespaceKind = {0x534e564b /* "KVNS" */, 2, 0, "namespace record", 2};

}  // namespace

std::string SerializeNamespaceSettings(const NamespaceSettings& settings) {
  std::string payload;
  AppendField<uint64_t>(settings.capacity_bytes, &payload);
  AppendField<uint64_t>(settings.pinned_bytes, &payload);
  AppendField<uint64_t>(settings.revision, &payload);
  return WrapEnvelope(kNamespaceKind, payload);
}

absl::StatusOr<NamespaceSettings> ParseNamespaceSettings(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kNamespaceKind, bytes));
  FieldReader reader(payload);
  NamespaceSettings settings;
  settings.capacity_bytes = static_cast<int64_t>(reader.Read<uint64_t>());
  settings.pinned_bytes = static_cast<int64_t>(reader.Read<uint64_t>());
  settings.revision = reader.Read<uint64_t>();
  if (!reader.at_end() || settings.capacity_bytes < 0 || settings.pinned_bytes < 0 ||
      settings.revision > kMaxNamespaceRevision) {
    return absl::InvalidArgumentError("namespace record: wrong length, or a limit or a revision out of bounds");
  }
  return settings;
}

}  // namespace kvlink::engine
