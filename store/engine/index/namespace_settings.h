// Limits of a namespace, and their record in the index (docs/formats.md "Namespace record").
// Thread-safety: plain values and pure functions.
#ifndef KVLINK_STORE_ENGINE_INDEX_NAMESPACE_SETTINGS_H_
#define KVLINK_STORE_ENGINE_INDEX_NAMESPACE_SETTINGS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvlink::engine {

// 0: the engine's own limit.
struct NamespaceSettings {
  // Most bytes of segments that its encodings may occupy, in whole blocks of 64 KiB.
  int64_t capacity_bytes = 0;
  // Most of these that its pinned encodings may occupy. The engine's own is EngineOptions::pinned_bytes, but at most
  // half of the namespace's capacity.
  int64_t pinned_bytes = 0;
  bool operator==(const NamespaceSettings&) const = default;
};

std::string SerializeNamespaceSettings(const NamespaceSettings& settings);
// INVALID_ARGUMENT for anything damaged, UNIMPLEMENTED for another major version.
absl::StatusOr<NamespaceSettings> ParseNamespaceSettings(absl::string_view bytes);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_NAMESPACE_SETTINGS_H_
