// The engine is asked for its namespaces periodically, not at each write: writes are admitted by the table of names
// alone.
#include "store/node/namespaces.h"

#include <string>
#include <utility>

#include "base/clock.h"
#include "base/status.h"

namespace kvlink::store::node {

std::set<std::string, std::less<>> NamespacesIn(engine::Engine* engine) {
  std::set<std::string, std::less<>> names;
  const engine::Engine::Statistics statistics = engine->Stats();
  for (const auto& use : statistics.namespaces) {
    if (use.encodings > 0) names.insert(use.ns);
  }
  for (const auto& [ns, documents] : statistics.documents) names.insert(ns);
  for (const auto& [ns, bytes] : statistics.dram_bytes_by_namespace) names.insert(ns);
  for (const auto& [ns, settings] : engine->NamespaceSettingsAll()) names.insert(ns);
  return names;
}

void Namespaces::Know(const std::set<std::string, std::less<>>& names) {
  Grant nobody;
  nobody.right = Right::kAdmin;  // they exist, whatever the limit is now
  nobody.every_namespace = true;
  for (const std::string& name : names) (void)Admit(nobody, name);
}

absl::Status Namespaces::Admit(const Grant& grant, absl::string_view ns) {
  MutexLock lock(&mutex_);
  const auto found = known_.find(ns);
  if (found != known_.end()) {
    found->second.admitted = SteadyNow();
    return absl::OkStatus();
  }
  KVLINK_RETURN_IF_ERROR(quota_.Take(grant));
  known_.emplace(std::string(ns), Known{grant, SteadyNow()});
  return absl::OkStatus();
}

void Namespaces::Forget(const std::set<std::string, std::less<>>& held, absl::Time before) {
  MutexLock lock(&mutex_);
  for (auto at = known_.begin(); at != known_.end();) {
    const auto here = at++;
    if (here->second.admitted >= before || held.contains(here->first)) continue;
    quota_.Return(here->second.grant);
    known_.erase(here);
  }
}

}  // namespace kvlink::store::node
