// A namespace's limits as a record in the index (docs/formats.md "Namespace record"). Thread-safety: pure functions.
#ifndef KVLINK_STORE_ENGINE_INDEX_NAMESPACE_SETTINGS_H_
#define KVLINK_STORE_ENGINE_INDEX_NAMESPACE_SETTINGS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "store/engine/types.h"

namespace kvlink::engine {

inline constexpr uint64_t kMaxNamespaceRevision = INT64_MAX;

std::string SerializeNamespaceSettings(const NamespaceSettings& settings);
// INVALID_ARGUMENT: damaged. UNIMPLEMENTED: another major version.
absl::StatusOr<NamespaceSettings> ParseNamespaceSettings(absl::string_view bytes);

}  // namespace kvlink::engine

#endif  // KVLINK_STORE_ENGINE_INDEX_NAMESPACE_SETTINGS_H_
