// The engine's namespaces: their limits, kept in the index and enforced by the table.
#include <utility>

#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr absl::string_view kNamespacePrefix = "namespace/";

}  // namespace

absl::Status EngineImpl::LoadNamespaces() {
  KVLINK_ASSIGN_OR_RETURN(const auto records, index_->ListMeta(kNamespacePrefix));
  for (const auto& [name, bytes] : records) {
    const std::string ns = name.substr(kNamespacePrefix.size());
    const auto settings = ParseNamespaceSettings(bytes);
    if (absl::IsInvalidArgument(settings.status())) {
      return absl::DataLossError(absl::StrCat("namespace '", ns, "': ", settings.status().message()));
    }
    KVLINK_RETURN_IF_ERROR(Annotate(settings.status(), absl::StrCat("namespace '", ns, "'")));
    table_.SetLimits(ns, *settings);
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::PutNamespace(absl::string_view ns, const NamespaceSettings& settings) {
  KVLINK_RETURN_IF_ERROR(Writable());
  if (ns.empty() || ns.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("a namespace needs a name, without zero bytes");
  }
  if (settings.capacity_bytes < 0 || settings.pinned_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("namespace '", ns, "': a limit below 0; 0 sets none"));
  }
  {
    MutexLock lock(&commit_mutex_);
    IndexBatch batch(index_.get());
    batch.PutMeta(absl::StrCat(kNamespacePrefix, ns), SerializeNamespaceSettings(settings));
    KVLINK_RETURN_IF_ERROR(CommitBatch(&batch));
    table_.SetLimits(ns, settings);
  }
  AskMaintenance();
  return absl::OkStatus();
}

absl::Status EngineImpl::ForgetNamespace(absl::string_view ns) {
  {
    MutexLock lock(&commit_mutex_);
    IndexBatch batch(index_.get());
    batch.DeleteMeta(absl::StrCat(kNamespacePrefix, ns));
    KVLINK_RETURN_IF_ERROR(CommitBatch(&batch));
    table_.ForgetLimits(ns);
  }
  AskMaintenance();
  return absl::OkStatus();
}

std::map<std::string, NamespaceSettings> EngineImpl::NamespaceSettingsAll() { return table_.LimitsAll(); }

}  // namespace kvlink::engine
