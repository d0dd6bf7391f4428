// The engine's namespaces: their limits, stored in the index and enforced by the table.
#include <algorithm>
#include <utility>

#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr absl::string_view kNamespacePrefix = "namespace/";

std::string NameOf(absl::string_view ns) { return absl::StrCat(kNamespacePrefix, ns); }

absl::Status CheckSettings(absl::string_view ns, const NamespaceSettings& settings) {
  if (ns.empty() || ns.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("a namespace needs a name without zero bytes");
  }
  if (settings.capacity_bytes < 0 || settings.pinned_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace '", ns, "': limits must not be negative; 0 removes a limit"));
  }
  if (settings.revision < 1 || settings.revision > kMaxNamespaceRevision) {
    return absl::InvalidArgumentError(absl::StrCat("namespace '", ns, "': a revision must be 1 to 2^63 - 1"));
  }
  return absl::OkStatus();
}

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
  KVLINK_RETURN_IF_ERROR(CheckSettings(
      ns, {change.capacity_bytes.value_or(0), change.pinned_bytes.value_or(0), change.revision.value_or(1)}));
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
      return absl::FailedPreconditionError(absl::StrCat("namespace '", ns, "': revision ", revision,
                                                        " does not replace the current revision ", settings.revision));
    }
    settings = changed;
    settings.revision = revision;
    IndexBatch batch(index_.get());
    batch.PutMeta(NameOf(ns), SerializeNamespaceSettings(settings));
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
    batch.DeleteMeta(NameOf(ns));
    KVLINK_RETURN_IF_ERROR(CommitBatch(&batch));
    table_.ForgetLimits(ns);
  }
  AskMaintenance();
  return absl::OkStatus();
}

absl::Status EngineImpl::ReplaceNamespaces(const std::map<std::string, NamespaceSettings>& all) {
  KVLINK_RETURN_IF_ERROR(Writable());
  for (const auto& [ns, settings] : all) KVLINK_RETURN_IF_ERROR(CheckSettings(ns, settings));
  {
    MutexLock lock(&commit_mutex_);
    const auto before = table_.LimitsAll();
    if (before == all) return absl::OkStatus();
    IndexBatch batch(index_.get());
    for (const auto& [ns, settings] : all) batch.PutMeta(NameOf(ns), SerializeNamespaceSettings(settings));
    for (const auto& [ns, settings] : before) {
      if (!all.contains(ns)) batch.DeleteMeta(NameOf(ns));
    }
    KVLINK_RETURN_IF_ERROR(CommitBatch(&batch));
    for (const auto& [ns, settings] : all) table_.SetLimits(ns, settings);
    for (const auto& [ns, settings] : before) {
      if (!all.contains(ns)) table_.ForgetLimits(ns);
    }
  }
  AskMaintenance();
  return absl::OkStatus();
}

std::map<std::string, NamespaceSettings> EngineImpl::NamespaceSettingsAll() { return table_.LimitsAll(); }

void EngineImpl::SetShareOfLimits(double share) {
  share = std::clamp(share, 0.0, 1.0);
  if (share == table_.share()) return;
  table_.SetShare(share);
  AskMaintenance();
}

}  // namespace kvlink::engine
