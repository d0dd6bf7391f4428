// The engine's namespaces: their limits, stored in the index and enforced by the table.
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

absl::StatusOr<NamespaceSettings> EngineImpl::PutNamespace(absl::string_view ns, const NamespaceChange& change) {
  KVLINK_RETURN_IF_ERROR(Writable());
  if (ns.empty() || ns.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("a namespace needs a name, without zero bytes");
  }
  if (change.capacity_bytes.value_or(0) < 0 || change.pinned_bytes.value_or(0) < 0) {
    return absl::InvalidArgumentError(absl::StrCat("namespace '", ns, "': a limit below 0; 0 sets none"));
  }
  if (change.revision.value_or(1) < 1 || change.revision.value_or(1) > kMaxNamespaceRevision) {
    return absl::InvalidArgumentError(absl::StrCat("namespace '", ns, "': revisions are 1 to 2^63 - 1"));
  }
  NamespaceSettings settings;
  {
    MutexLock lock(&commit_mutex_);
    const auto all = table_.LimitsAll();
    if (const auto there = all.find(std::string(ns)); there != all.end()) settings = there->second;
    NamespaceSettings changed = settings;
    changed.capacity_bytes = change.capacity_bytes.value_or(settings.capacity_bytes);
    changed.pinned_bytes = change.pinned_bytes.value_or(settings.pinned_bytes);
    // A change repeated because its answer was lost has already been made.
    if (change.revision == settings.revision && changed == settings) return settings;
    const uint64_t revision = change.revision.value_or(settings.revision + 1);
    if (revision <= settings.revision || revision > kMaxNamespaceRevision) {
      return absl::FailedPreconditionError(absl::StrCat("namespace '", ns, "': revision ", settings.revision,
                                                        " holds, and ", revision, " does not replace it"));
    }
    settings = changed;
    settings.revision = revision;
    IndexBatch batch(index_.get());
    batch.PutMeta(absl::StrCat(kNamespacePrefix, ns), SerializeNamespaceSettings(settings));
    KVLINK_RETURN_IF_ERROR(CommitBatch(&batch));
    table_.SetLimits(ns, settings);
  }
  AskMaintenance();
  return settings;
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
