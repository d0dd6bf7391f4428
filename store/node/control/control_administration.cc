#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/manifest.h"
#include "store/node/control/control_service.h"
#include "store/node/watch/statistics.h"
#include "store/store.h"

namespace kvlink::store {
namespace {

constexpr int64_t kMaxEncodings = 1024;
constexpr int64_t kMaxManifestBytes = int64_t{64} << 20;  // of one answer, the last manifest aside
constexpr int kMaxDrains = 4;
constexpr absl::Duration kNewsEvery = absl::Milliseconds(200);

absl::string_view View(const std::string& text) { return {text.data(), text.size()}; }

// One of a limited number of places, for as long as it lives.
class Place {
 public:
  Place(std::atomic<int>* taken, int most) : taken_(taken), got_(taken->fetch_add(1) < most) {}
  ~Place() { taken_->fetch_sub(1); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  bool got() const { return got_; }

 private:
  std::atomic<int>* const taken_;
  const bool got_;
};

void DescribeNamespace(const std::string& name, const engine::NamespaceSettings& settings, v1::Namespace* out) {
  out->set_name(name);
  out->set_capacity_bytes(settings.capacity_bytes);
  out->set_pinned_bytes(settings.pinned_bytes);
}

}  // namespace

grpc::Status ControlService::PutNamespace(grpc::ServerContext* context, const v1::PutNamespaceRequest* request,
                                          v1::PutNamespaceResponse* reply) {
  return Run(context, Operation::kAdministration, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", View(request->name())));
    const bool changes = request->has_capacity_bytes() || request->has_pinned_bytes();
    KVLINK_RETURN_IF_ERROR(session->Check(changes ? Right::kAdmin : Right::kRead, View(request->name())));
    const auto all = node_->engine->NamespaceSettingsAll();
    const auto known = all.find(request->name());
    engine::NamespaceSettings settings = known == all.end() ? engine::NamespaceSettings() : known->second;
    if (request->has_capacity_bytes()) settings.capacity_bytes = request->capacity_bytes();
    if (request->has_pinned_bytes()) settings.pinned_bytes = request->pinned_bytes();
    if (changes) KVLINK_RETURN_IF_ERROR(node_->engine->PutNamespace(View(request->name()), settings));
    DescribeNamespace(request->name(), settings, reply->mutable_settings());
    return absl::OkStatus();
  });
}

grpc::Status ControlService::ListNamespaces(grpc::ServerContext* context, const v1::ListNamespacesRequest* request,
                                            v1::ListNamespacesResponse* reply) {
  return Run(context, Operation::kAdministration, [&](Session* session) -> absl::Status {
    std::map<std::string, engine::NamespaceSettings> all = node_->engine->NamespaceSettingsAll();
    // Those without settings of their own, too.
    const engine::Engine::Statistics statistics = node_->engine->Stats();
    for (const auto& use : statistics.namespaces) all.try_emplace(use.ns);
    for (const auto& [ns, documents] : statistics.documents) all.try_emplace(ns);
    for (const auto& [name, settings] : all) {
      if (session->grant().Covers(View(name))) DescribeNamespace(name, settings, reply->add_namespaces());
    }
    return absl::OkStatus();
  });
}

grpc::Status ControlService::Stats(grpc::ServerContext* context, const v1::StatsRequest* request,
                                   v1::StatsResponse* reply) {
  return Run(context, Operation::kAdministration, [&](Session* session) -> absl::Status {
    const engine::Engine::Statistics statistics = node_->engine->Stats();
    const auto settings = node_->engine->NamespaceSettingsAll();
    std::map<std::string, v1::NamespaceStats> namespaces;
    for (const auto& [name, of] : settings) namespaces[name];
    for (const auto& use : statistics.namespaces) {
      v1::NamespaceStats& stats = namespaces[use.ns];
      stats.set_encodings(use.encodings);
      stats.set_bytes(use.bytes);
      stats.set_pinned_bytes(use.pinned_bytes);
    }
    for (const auto& [name, documents] : statistics.documents) namespaces[name].set_documents(documents);
    for (auto& [name, stats] : namespaces) {
      if (!session->grant().Covers(View(name))) continue;
      const auto of = settings.find(name);
      DescribeNamespace(name, of != settings.end() ? of->second : engine::NamespaceSettings(),
                        stats.mutable_settings());
      *reply->add_namespaces() = std::move(stats);
    }
    for (const auto& [name, value] : ValuesOf(node_, statistics)) (*reply->mutable_values())[name] = value;
    for (const auto& [name, text] : TextsOf(node_, statistics)) (*reply->mutable_texts())[name] = text;
    return absl::OkStatus();
  });
}

grpc::Status ControlService::ListEncodings(grpc::ServerContext* context, const v1::ListEncodingsRequest* request,
                                           v1::ListEncodingsResponse* reply) {
  return Run(context, Operation::kAdministration, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(ValidateName("namespace", View(request->ns())));
    KVLINK_RETURN_IF_ERROR(session->Check(Right::kRead, View(request->ns())));
    Identity after;
    if (!request->after().empty()) {
      if (request->after().size() != after.bytes.size()) {
        return absl::InvalidArgumentError("'after' is an identity of 32 bytes, or empty");
      }
      std::copy(request->after().begin(), request->after().end(), after.bytes.begin());
    }
    KVLINK_ASSIGN_OR_RETURN(
        const auto manifests,
        node_->engine->ListManifests(View(request->ns()), after, std::min<int64_t>(request->limit(), kMaxEncodings)));
    // All variants of an identity come together, because the next call begins after an identity.
    int64_t bytes = 0;
    for (size_t i = 0; i < manifests.size(); ++i) {
      if (bytes > kMaxManifestBytes && manifests[i].identity != manifests[i - 1].identity) break;
      std::string* const out = reply->add_manifests();
      *out = SerializeManifest(manifests[i]);
      bytes += static_cast<int64_t>(out->size());
    }
    return absl::OkStatus();
  });
}

grpc::Status ControlService::Verify(grpc::ServerContext* context, const v1::VerifyRequest* request,
                                    grpc::ServerWriter<v1::VerifyProgress>* stream) {
  return Run(context, Operation::kAdministration, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(session->grant().AllowsAll(Right::kAdmin));
    const Place place(&verifying_, 1);
    if (!place.got()) return absl::ResourceExhaustedError("the node is being verified already");
    absl::Time told = absl::InfinitePast();
    v1::VerifyProgress progress;
    KVLINK_ASSIGN_OR_RETURN(const auto outcome, node_->engine->Verify([&](int64_t done, int64_t all) {
      if (Ended(context)) return false;
      progress.set_bytes_done(done);
      progress.set_bytes(all);
      if (SteadyNow() - told < kNewsEvery) return true;
      told = SteadyNow();
      return stream->Write(progress);
    }));
    if (Ended(context)) return absl::CancelledError("the call has ended");
    progress.set_finished(true);
    progress.set_encodings(outcome.encodings);
    progress.set_bytes_done(outcome.bytes);
    for (const engine::Engine::Damage& damage : outcome.damaged) {
      v1::Damage* const out = progress.add_damaged();
      out->set_ns(damage.key.ns);
      out->set_identity(std::string(BytesOf(damage.key.identity)));
      out->set_codec(static_cast<uint32_t>(damage.key.codec));
      out->set_what(damage.what);
    }
    for (const std::string& problem : outcome.index_problems) progress.add_index_problems(problem);
    node_->log.Info("verified", {{"encodings", outcome.encodings},
                                 {"bytes", outcome.bytes},
                                 {"damaged", static_cast<int64_t>(outcome.damaged.size())},
                                 {"index_problems", static_cast<int64_t>(outcome.index_problems.size())}});
    stream->Write(progress);
    return absl::OkStatus();
  });
}

grpc::Status ControlService::DropDramTier(grpc::ServerContext* context, const v1::DropDramTierRequest* request,
                                          v1::DropDramTierResponse* reply) {
  return Run(context, Operation::kAdministration, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(session->grant().AllowsAll(Right::kAdmin));
    node_->engine->DropDramTier();
    return absl::OkStatus();
  });
}

grpc::Status ControlService::Drain(grpc::ServerContext* context, const v1::DrainRequest* request,
                                   grpc::ServerWriter<v1::DrainProgress>* stream) {
  return Run(context, Operation::kAdministration, [&](Session* session) -> absl::Status {
    KVLINK_RETURN_IF_ERROR(session->grant().AllowsAll(Right::kAdmin));
    const Place place(&drains_, kMaxDrains);
    if (!place.got()) return absl::ResourceExhaustedError("several drains are being watched already");
    node_->drain();
    while (true) {
      v1::DrainProgress progress;
      progress.set_pulls(node_->pulls.load());
      progress.set_pushes(node_->pushes.load());
      progress.set_connections(node_->links.open());
      progress.set_leases(node_->leases.load());
      progress.set_drained(progress.pulls() == 0 && progress.pushes() == 0 && progress.leases() == 0);
      if (!stream->Write(progress) || Ended(context)) return absl::CancelledError("the call has ended");
      if (progress.drained()) break;
      absl::SleepFor(kNewsEvery);
    }
    if (request->stop()) node_->stop();
    return absl::OkStatus();
  });
}

}  // namespace kvlink::store
