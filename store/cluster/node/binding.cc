// One small envelope that is always rewritten as a whole, so that a crash leaves the old file or the new one.
#include "store/cluster/node/binding.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "proto/envelope.h"
#include "store/cluster/members/records.h"
#include "store/engine/disk/file.h"

namespace kvlink::store::cluster {
namespace {

constexpr EnvelopeKind kBindingKind = {0x4c43564b /* "KVCL" */, 1, 0, "CLUSTER file"};
constexpr char kBindingName[] = "CLUSTER";
constexpr int64_t kMaxBytes = 4096;

}  // namespace

std::string SerializeBinding(const Binding& binding) {
  std::string payload(reinterpret_cast<const char*>(binding.cluster_id.data()), binding.cluster_id.size());
  AppendVarint(binding.cluster_name.size(), &payload);
  payload += binding.cluster_name;
  return WrapEnvelope(kBindingKind, payload);
}

absl::StatusOr<Binding> ParseBinding(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kBindingKind, bytes));
  FieldReader reader(payload);
  Binding binding;
  reader.ReadBytes(binding.cluster_id.data(), binding.cluster_id.size());
  const uint64_t size = reader.ReadVarint();
  if (reader.ok() && size <= kMaxClusterNameBytes) {
    binding.cluster_name.resize(size);
    reader.ReadBytes(binding.cluster_name.data(), size);
  }
  if (reader.at_end() && ValidateClusterName(binding.cluster_name).ok()) return binding;
  return absl::InvalidArgumentError("CLUSTER file: malformed");
}

absl::StatusOr<std::optional<Binding>> ReadBinding(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/", kBindingName);
  const auto bytes = engine::FileSystem(nullptr).ReadWhole(path, kMaxBytes);
  if (absl::IsNotFound(bytes.status())) return std::nullopt;
  if (!absl::IsResourceExhausted(bytes.status())) KVLINK_RETURN_IF_ERROR(bytes.status());
  auto binding = bytes.ok() ? ParseBinding(*bytes) : bytes.status();
  if (absl::IsUnimplemented(binding.status())) return Annotate(binding.status(), path);
  if (!binding.ok()) {
    return absl::DataLossError(absl::StrCat(path, " is damaged: ", binding.status().message(),
                                            "; if this store belongs to the cluster that it joins, remove the file"));
  }
  return std::optional<Binding>(*std::move(binding));
}

absl::Status WriteBinding(const std::string& directory, const Binding& binding) {
  return engine::FileSystem(nullptr).WriteWhole(directory, kBindingName, SerializeBinding(binding));
}

}  // namespace kvlink::store::cluster
