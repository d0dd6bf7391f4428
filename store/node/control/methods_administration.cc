// Administration. Verify and Drain are streams: they report progress a few times a second, and end when the client is
// gone.
#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "proto/data.h"
#include "proto/manifest.h"
#include "store/node/control/methods.h"
#include "store/node/watch/statistics.h"
#include "store/store.h"

namespace kvlink::store::node {
namespace {

constexpr int64_t kMaxEncodings = 1024;
constexpr int64_t kMaxManifestBytes = int64_t{3} << 20;  // per answer, not counting the last identity
constexpr size_t kMaxDamaged = 10000;                    // reported by one Verify
constexpr absl::Duration kNewsEvery = absl::Milliseconds(200);

// Holds one of a limited number of places during its lifetime.
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

}  // namespace

void ControlMethods::AddAdministration() {
  Add("Stats", Operation::kAdministration, &ControlMethods::Stats);
  Add("ListEncodings", Operation::kAdministration, &ControlMethods::ListEncodings);
  Add("DropDramTier", Operation::kAdministration, &ControlMethods::DropDramTier);
  AddStream("Verify", &ControlMethods::Verify);
  AddStream("Drain", &ControlMethods::Drain);
}

absl::Status ControlMethods::Stats(ControlCall* call, const v1::StatsRequest& request, v1::StatsResponse* reply) {
  const engine::Engine::Statistics statistics = node_->engine->Stats();
  const auto settings = node_->engine->NamespaceSettingsAll();
  for (auto& [name, figures] : NamespacesOf(statistics, settings)) {
    if (!call->grant().Covers(View(name))) continue;
    v1::NamespaceStats* const out = reply->add_namespaces();
    DescribeNamespace(name, figures.settings, out->mutable_settings());
    out->set_encodings(figures.encodings);
    out->set_bytes(figures.bytes);
    out->set_pinned_bytes(figures.pinned_bytes);
    out->set_documents(figures.documents);
    out->set_dram_bytes(figures.dram_bytes);
  }
  for (const auto& [name, value] : figures_->Values(statistics)) (*reply->mutable_values())[name] = value;
  for (const auto& [name, text] : figures_->Texts(statistics)) (*reply->mutable_texts())[name] = text;
  return absl::OkStatus();
}

absl::Status ControlMethods::ListEncodings(ControlCall* call, const v1::ListEncodingsRequest& request,
                                           v1::ListEncodingsResponse* reply) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", View(request.ns())));
  KVLINK_RETURN_IF_ERROR(call->session()->Check(Right::kRead, View(request.ns())));
  Identity after;
  if (!request.after().empty()) {
    if (request.after().size() != after.bytes.size()) {
      return absl::InvalidArgumentError("'after' is an identity of 32 bytes, or empty");
    }
    std::copy(request.after().begin(), request.after().end(), after.bytes.begin());
  }
  KVLINK_ASSIGN_OR_RETURN(
      const auto manifests,
      node_->engine->ListManifests(View(request.ns()), after, std::min<int64_t>(request.limit(), kMaxEncodings)));
  // All variants of an identity go into one answer, because the next call starts after an identity.
  int64_t bytes = 0;
  for (size_t i = 0; i < manifests.size(); ++i) {
    if (bytes > kMaxManifestBytes && manifests[i].identity != manifests[i - 1].identity) break;
    std::string* const out = reply->add_manifests();
    *out = SerializeManifest(manifests[i]);
    bytes += static_cast<int64_t>(out->size());
  }
  return absl::OkStatus();
}

absl::Status ControlMethods::Verify(ControlCall* call, const v1::VerifyRequest& request) {
  const Place place(&verifying_, 1);
  if (!place.got()) return absl::ResourceExhaustedError("the node is being verified already");
  absl::Time told = absl::InfinitePast();
  v1::VerifyProgress progress;
  KVLINK_ASSIGN_OR_RETURN(const auto outcome, node_->engine->Verify([&](int64_t done, int64_t all) {
    if (call->cancelled()) return false;
    progress.set_bytes_done(done);
    progress.set_bytes(all);
    if (SteadyNow() - told < kNewsEvery) return true;
    told = SteadyNow();
    return call->Write(progress.SerializeAsString());
  }));
  if (call->cancelled()) return absl::CancelledError("the call has ended");
  progress.set_finished(true);
  progress.set_encodings(outcome.encodings);
  progress.set_bytes_done(outcome.bytes);
  for (const engine::DamagedEncoding& damage : outcome.damaged) {
    if (progress.damaged_size() == static_cast<int>(kMaxDamaged)) break;
    v1::Damage* const out = progress.add_damaged();
    out->set_ns(damage.key.ns);
    out->set_identity(std::string(BytesOf(damage.key.identity)));
    out->set_codec(static_cast<uint32_t>(damage.key.codec));
    out->set_what(damage.what);
    for (const std::string& document : damage.documents) out->add_documents(document);
  }
  for (const std::string& problem : outcome.index_problems) {
    if (progress.index_problems_size() == static_cast<int>(kMaxDamaged)) break;
    progress.add_index_problems(problem);
  }
  node_->log.Info("verified", {{"encodings", outcome.encodings},
                               {"bytes", outcome.bytes},
                               {"damaged", static_cast<int64_t>(outcome.damaged.size())},
                               {"index_problems", static_cast<int64_t>(outcome.index_problems.size())}});
  call->Write(progress.SerializeAsString());
  return absl::OkStatus();
}

absl::Status ControlMethods::DropDramTier(ControlCall* call, const v1::DropDramTierRequest& request,
                                          v1::DropDramTierResponse* reply) {
  KVLINK_RETURN_IF_ERROR(call->grant().AllowsAll(Right::kAdmin));
  node_->engine->DropDramTier();
  return absl::OkStatus();
}

absl::Status ControlMethods::Drain(ControlCall* call, const v1::DrainRequest& request) {
  node_->draining.Begin();
  while (true) {
    v1::DrainProgress progress;
    progress.set_drained(node_->draining.Finish());
    progress.set_pulls(node_->traffic.pulls.load());
    progress.set_pushes(node_->traffic.pushes.load());
    progress.set_connections(node_->traffic.connections.taken());
    progress.set_leases(node_->traffic.leases.load());
    if (!call->Write(progress.SerializeAsString())) return absl::CancelledError("the call has ended");
    if (progress.drained()) break;
    call->Pause(kNewsEvery);
  }
  if (request.stop()) node_->draining.AskStop();
  return absl::OkStatus();
}

}  // namespace kvlink::store::node
