// Namespaces: limits and deletion. Deleting one first releases its pins, which belong to sessions. An interrupted call
// leaves a consistent state, and repeating it continues.
#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "store/node/control/methods.h"
#include "store/store.h"

namespace kvlink::store::node {

void DescribeNamespace(const std::string& name, const engine::NamespaceSettings& settings, v1::Namespace* out) {
  out->set_name(name);
  out->set_capacity_bytes(settings.capacity_bytes);
  out->set_pinned_bytes(settings.pinned_bytes);
  out->set_revision(settings.revision);
}

void ControlMethods::AddNamespaces() {
  Add("PutNamespace", Operation::kAdministration, &ControlMethods::PutNamespace);
  Add("DeleteNamespace", Operation::kAdministration, &ControlMethods::DeleteNamespace);
  Add("ListNamespaces", Operation::kAdministration, &ControlMethods::ListNamespaces);
  Add("DropPins", Operation::kAdministration, &ControlMethods::DropPins);
}

absl::Status ControlMethods::PutNamespace(ControlCall* call, const v1::PutNamespaceRequest& request,
                                          v1::PutNamespaceResponse* reply) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", View(request.name())));
  const bool changes = request.has_capacity_bytes() || request.has_pinned_bytes() || request.has_revision();
  KVLINK_RETURN_IF_ERROR(call->session()->Check(changes ? Right::kAdmin : Right::kRead, View(request.name())));
  const auto all = node_->engine->NamespaceSettingsAll();
  const auto known = all.find(request.name());
  engine::NamespaceSettings settings = known == all.end() ? engine::NamespaceSettings() : known->second;
  int64_t used = 0;
  for (const auto& use : node_->engine->Stats().namespaces) {
    if (use.ns == request.name()) used = use.bytes;
  }
  if (changes) {
    KVLINK_RETURN_IF_ERROR(node_->namespaces.Admit(call->grant(), View(request.name())));
    engine::NamespaceChange change;
    if (request.has_capacity_bytes()) change.capacity_bytes = request.capacity_bytes();
    if (request.has_pinned_bytes()) change.pinned_bytes = request.pinned_bytes();
    if (request.has_revision()) change.revision = request.revision();
    KVLINK_ASSIGN_OR_RETURN(settings, node_->engine->PutNamespace(View(request.name()), change));
  }
  DescribeNamespace(request.name(), settings, reply->mutable_settings());
  if (settings.capacity_bytes > 0) reply->set_bytes_over(std::max<int64_t>(0, used - settings.capacity_bytes));
  return absl::OkStatus();
}

absl::Status ControlMethods::DeleteNamespace(ControlCall* call, const v1::DeleteNamespaceRequest& request,
                                             v1::DeleteProgress* reply) {
  const absl::string_view ns = View(request.name());
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  KVLINK_RETURN_IF_ERROR(call->session()->Check(Right::kAdmin, ns));
  (void)node_->sessions.DropPins(ns);
  KVLINK_ASSIGN_OR_RETURN(const auto deleted, node_->engine->DeleteNamespace(ns));
  reply->set_documents(deleted.documents);
  reply->set_encodings(deleted.encodings);
  node_->log.Info("namespace_deleted", {{"namespace", request.name()}, {"by", call->grant().name}});
  return absl::OkStatus();
}

absl::Status ControlMethods::ListNamespaces(ControlCall* call, const v1::ListNamespacesRequest& request,
                                            v1::ListNamespacesResponse* reply) {
  std::map<std::string, engine::NamespaceSettings> all = node_->engine->NamespaceSettingsAll();
  // Also namespaces without settings of their own.
  const engine::Engine::Statistics statistics = node_->engine->Stats();
  for (const auto& use : statistics.namespaces) all.try_emplace(use.ns);
  for (const auto& [ns, documents] : statistics.documents) all.try_emplace(ns);
  for (const auto& [name, settings] : all) {
    if (call->grant().Covers(View(name))) DescribeNamespace(name, settings, reply->add_namespaces());
  }
  return absl::OkStatus();
}

absl::Status ControlMethods::DropPins(ControlCall* call, const v1::DropPinsRequest& request,
                                      v1::DropPinsResponse* reply) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", View(request.ns())));
  KVLINK_RETURN_IF_ERROR(call->session()->Check(Right::kAdmin, View(request.ns())));
  reply->set_pins(node_->sessions.DropPins(View(request.ns())));
  return absl::OkStatus();
}

}  // namespace kvlink::store::node
