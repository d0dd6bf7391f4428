// Small envelopes that are always rewritten as a whole, so that a crash leaves the old file or the new one.
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
constexpr EnvelopeKind kEnteredKind = {0x4e45564b /* "KVEN" */, 1, 0, "ENTERED file"};
constexpr char kBindingName[] = "CLUSTER", kEnteredName[] = "ENTERED";
constexpr int64_t kMaxBytes = 4096;

// nullopt if there is no such file.
template <typename Value>
absl::StatusOr<std::optional<Value>> ReadFile(const std::string& directory, absl::string_view name,
                                              absl::StatusOr<Value> (*parse)(absl::string_view bytes),
                                              absl::string_view advice) {
  const std::string path = absl::StrCat(directory, "/", name);
  const auto bytes = engine::FileSystem(nullptr).ReadWhole(path, kMaxBytes);
  if (absl::IsNotFound(bytes.status())) return std::nullopt;
  if (!absl::IsResourceExhausted(bytes.status())) KVLINK_RETURN_IF_ERROR(bytes.status());
  absl::StatusOr<Value> parsed = bytes.ok() ? parse(*bytes) : bytes.status();
  if (absl::IsUnimplemented(parsed.status())) return Annotate(parsed.status(), path);
  if (!parsed.ok()) {
    return absl::DataLossError(absl::StrCat(path, " is damaged: ", parsed.status().message(), "; ", advice));
  }
  return std::optional<Value>(*std::move(parsed));
}

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
  return ReadFile(directory, kBindingName, ParseBinding,
                  "if this store belongs to the cluster that it joins, remove the file");
}

absl::Status WriteBinding(const std::string& directory, const Binding& binding) {
  return engine::FileSystem(nullptr).WriteWhole(directory, kBindingName, SerializeBinding(binding));
}

std::string SerializeEntered(uint64_t entered) {
  std::string payload;
  AppendField(entered, &payload);
  return WrapEnvelope(kEnteredKind, payload);
}

absl::StatusOr<uint64_t> ParseEntered(absl::string_view bytes) {
  KVLINK_ASSIGN_OR_RETURN(const absl::string_view payload, OpenEnvelope(kEnteredKind, bytes));
  FieldReader reader(payload);
  const auto entered = reader.Read<uint64_t>();
  if (reader.at_end()) return entered;
  return absl::InvalidArgumentError("ENTERED file: malformed");
}

absl::StatusOr<uint64_t> ReadEntered(const std::string& directory) {
  KVLINK_ASSIGN_OR_RETURN(const auto entered,
                          ReadFile(directory, kEnteredName, ParseEntered,
                                   "remove the node with kvlink members remove, and the file, then start it again"));
  return entered.value_or(0);
}

absl::Status WriteEntered(const std::string& directory, uint64_t entered) {
  return engine::FileSystem(nullptr).WriteWhole(directory, kEnteredName, SerializeEntered(entered));
}

}  // namespace kvlink::store::cluster
