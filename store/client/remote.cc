#include "store/client/remote.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/control/catalog.h"
#include "store/client/control/counters.h"
#include "store/client/control/retry.h"
#include "store/client/data/pull.h"
#include "store/client/data/region.h"
#include "store/client/lookup.h"
#include "store/client/puts.h"
#include "store/client/reads.h"
#include "store/client/route.h"
#include "store/client/slots.h"
#include "transport/address.h"
#include "transport/grpc/credentials.h"

namespace kvlink::store::client {
namespace {

constexpr absl::string_view kCarrierNames[] = {"auto", "mapped", "ucx", "grpc"};

class Remote : public RemoteStore {
 public:
  explicit Remote(const RemoteOptions& options)
      : options_(options), route_(options), catalog_(&route_.control(), options.request_timeout) {}
  absl::Status Establish(absl::Time deadline) { return route_.Establish(deadline); }

  absl::StatusOr<std::vector<Found>> Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                            Codec codec) override;
  absl::StatusOr<std::unique_ptr<Lease>> Read(absl::string_view ns, const Identity& identity, Codec codec,
                                              const Etag& etag, absl::Time deadline) override {
    return ReadTo(nullptr, ns, identity, codec, etag, deadline);
  }
  absl::StatusOr<std::shared_ptr<DeviceBuffer>> OpenDeviceBuffer(const DeviceRegion& region) override;
  absl::StatusOr<std::unique_ptr<Lease>> ReadTo(DeviceBuffer* buffer, absl::string_view ns, const Identity& identity,
                                                Codec codec, const Etag& etag, absl::Time deadline) override;
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> ReadMany(DeviceBuffer* buffer, absl::string_view ns, Codec codec,
                                                               absl::Span<const ReadRequest> requests,
                                                               absl::Time deadline) override;
  absl::StatusOr<std::unique_ptr<PartLease>> ReadPart(absl::string_view ns, const Identity& identity, Codec codec,
                                                      const Etag& etag, const EncodingPart& part,
                                                      absl::Time deadline) override;
  absl::StatusOr<PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) override {
    return PutOver(&route_, ns, manifest, slabs, deadline);
  }
  absl::StatusOr<std::unique_ptr<PendingLookup>> AskLookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                           Codec codec, absl::Time deadline,
                                                           const Notify& notify) override {
    return client::AskLookup(&route_, ns, identities, codec, deadline, notify);
  }
  absl::StatusOr<std::unique_ptr<PendingReads>> AskReads(DeviceBuffer* buffer, absl::string_view ns, Codec codec,
                                                         absl::Span<const ReadRequest> requests, absl::Time deadline,
                                                         const Notify& notify) override;
  absl::StatusOr<std::unique_ptr<PendingPut>> AskPut(absl::string_view ns, const Manifest& manifest,
                                                     absl::Span<const absl::Span<const std::byte>> slabs,
                                                     absl::Time deadline, const Notify& notify) override {
    return client::AskPut(&route_, ns, manifest, slabs, deadline, notify);
  }
  absl::Status Pin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return Act(proto::EncodingAction::PIN, ns, identity, codec);
  }
  absl::Status Unpin(absl::string_view ns, const Identity& identity, Codec codec) override {
    return Act(proto::EncodingAction::UNPIN, ns, identity, codec);
  }
  absl::Status Remove(absl::string_view ns, const Identity& identity) override {
    return Act(proto::EncodingAction::REMOVE, ns, identity, Codec::kRawBf16);
  }
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> AllocateSlabs(int64_t bytes) override {
    KVLINK_ASSIGN_OR_RETURN(DataPath* const path, Path());
    return path->memory().AllocateSlabs(bytes);
  }

  absl::StatusOr<std::vector<absl::StatusOr<uint64_t>>> PutDocuments(absl::string_view ns,
                                                                     absl::Span<const DocumentPut> documents) override {
    return catalog_.Put(ns, documents);
  }
  absl::StatusOr<std::vector<absl::StatusOr<CatalogEntry>>> GetDocuments(absl::string_view ns,
                                                                         absl::Span<const std::string> ids) override {
    return catalog_.Get(ns, ids);
  }
  absl::StatusOr<std::vector<absl::Status>> DeleteDocuments(absl::string_view ns,
                                                            absl::Span<const DocumentDeletion> documents) override {
    return catalog_.Delete(ns, documents);
  }
  absl::StatusOr<NamespaceDeletion> DeleteNamespace(absl::string_view ns) override {
    return catalog_.DeleteNamespace(ns);
  }
  absl::StatusOr<uint64_t> Clock() override { return catalog_.Clock(); }
  absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(absl::string_view ns, absl::string_view after,
                                                          int64_t limit) override {
    return catalog_.List(ns, after, limit);
  }
  absl::StatusOr<std::vector<Listed>> ListEncodings(absl::string_view ns, const Identity& after,
                                                    int64_t limit) override {
    return catalog_.ListEncodings(ns, after, limit);
  }
  absl::StatusOr<VerifyReport> Verify(std::function<bool(int64_t, int64_t)> progress) override {
    return catalog_.Verify(progress);
  }
  void DropDramTier() override {
    // Encodings that this process no longer reads must not count as leased.
    MappedReader* const mapped = route_.mapped();
    if (mapped != nullptr) mapped->Flush(SteadyNow() + options_.request_timeout).IgnoreError();
    catalog_.DropDramTier();
  }
  absl::StatusOr<StoreStats> Stats() override;
  absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) override;
  absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) override;
  RemoteCounters Counters() const override;
  std::string ReadCarrier() const override { return route_.ReadCarrier(); }

 private:
  // The payload path, for one-time operations.
  absl::StatusOr<DataPath*> Path() {
    const absl::Time deadline = SteadyNow() + options_.connect_timeout;
    KVLINK_RETURN_IF_ERROR(route_.Establish(deadline));
    return route_.Data(deadline);
  }
  absl::Status Act(proto::EncodingAction::Action act, absl::string_view ns, const Identity& identity, Codec codec);
  absl::StatusOr<std::shared_ptr<Pull>> PullPart(const EncodingAddress& address, const proto::Part& part,
                                                 absl::Time deadline);

  const RemoteOptions options_;
  Route route_;
  Catalog catalog_;
};

absl::StatusOr<std::vector<Found>> Remote::Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                  Codec codec) {
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  KVLINK_ASSIGN_OR_RETURN(const auto asked, AskLookup(ns, identities, codec, deadline, {}));
  return asked->Wait(deadline);
}

absl::StatusOr<std::shared_ptr<DeviceBuffer>> Remote::OpenDeviceBuffer(const DeviceRegion& region) {
  KVLINK_RETURN_IF_ERROR(route_.Establish(SteadyNow() + options_.connect_timeout));
  if (route_.mapped() != nullptr) {
    return absl::UnimplementedError("encodings are read by mapping the node's memory");
  }
  KVLINK_ASSIGN_OR_RETURN(DataPath* const path, Path());
  return path->OpenRegion(region, options_.region_rest);
}

absl::StatusOr<std::unique_ptr<PendingReads>> Remote::AskReads(DeviceBuffer* buffer, absl::string_view ns, Codec codec,
                                                               absl::Span<const ReadRequest> requests,
                                                               absl::Time deadline, const Notify& notify) {
  std::shared_ptr<Region> region;
  if (auto* const ours = dynamic_cast<Region*>(buffer)) region = ours->shared_from_this();
  return client::AskReads(&route_, std::move(region), ns, codec, requests, deadline, notify);
}

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> Remote::ReadMany(DeviceBuffer* buffer, absl::string_view ns,
                                                                     Codec codec,
                                                                     absl::Span<const ReadRequest> requests,
                                                                     absl::Time deadline) {
  const auto asked = AskReads(buffer, ns, codec, requests, deadline, {});
  auto leases = asked.ok() ? (*asked)->Wait(deadline) : absl::StatusOr<PendingReads::Leases>(asked.status());
  if (leases.ok()) return *std::move(leases);
  PendingReads::Leases refused;
  for (size_t i = 0; i < requests.size(); ++i) refused.emplace_back(leases.status());
  return refused;
}

absl::StatusOr<std::unique_ptr<Lease>> Remote::ReadTo(DeviceBuffer* buffer, absl::string_view ns,
                                                      const Identity& identity, Codec codec, const Etag& etag,
                                                      absl::Time deadline) {
  return std::move(ReadMany(buffer, ns, codec, {{identity, etag}}, deadline)[0]);
}

absl::StatusOr<std::shared_ptr<Pull>> Remote::PullPart(const EncodingAddress& address, const proto::Part& part,
                                                       absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const Route::Opened opened, route_.Acquire(Need::kPayloads, deadline));
  const Pull::Context context{&opened.path->memory().receive_memory(), nullptr, &route_.resources().verifier(),
                              &route_.counters(), options_.transfer_timeout};
  return route_.Checked(*opened.connection, Pull::Begin(context, opened.connection, address, part, deadline));
}

absl::StatusOr<std::unique_ptr<PartLease>> Remote::ReadPart(absl::string_view ns, const Identity& identity, Codec codec,
                                                            const Etag& etag, const EncodingPart& part,
                                                            absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("read: the deadline has passed");
  for (const int64_t number : {part.first_layer, part.layers, part.first_head, part.heads, part.tokens}) {
    if (number < 0 || number > INT32_MAX)
      return absl::InvalidArgumentError(absl::StrCat("a part with the invalid number ", number));
  }
  const EncodingAddress address{std::string(ns), identity, codec, etag};
  proto::Part wanted;
  wanted.set_first_layer(static_cast<uint32_t>(part.first_layer));
  wanted.set_layers(static_cast<uint32_t>(part.layers));
  wanted.set_first_head(static_cast<uint32_t>(part.first_head));
  wanted.set_heads(static_cast<uint32_t>(part.heads));
  wanted.set_tokens(part.tokens);
  KVLINK_ASSIGN_OR_RETURN(auto pull, WithRetries(&route_.retries(), route_.Patience(deadline),
                                                 [&] { return PullPart(address, wanted, deadline); }));
  return PartOver(std::move(pull), part.tokens);
}

absl::Status Remote::Act(proto::EncodingAction::Action act, absl::string_view ns, const Identity& identity,
                         Codec codec) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  // One number for all attempts, so that the node carries it out once.
  const uint64_t id = route_.requests().next_id.fetch_add(1);
  return WithRetries(&route_.retries(), route_.Patience(deadline), [&]() -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const Route::Opened opened, route_.Acquire(Need::kMessages, deadline));
    NodeConnection* const connection = opened.connection.get();
    proto::Request request = connection->NewRequest(ns, deadline, id);
    request.mutable_action()->set_action(act);
    request.mutable_action()->set_codec(static_cast<uint32_t>(codec));
    request.mutable_action()->set_identities(std::string(BytesOf(identity)));
    auto answer = route_.Checked(*connection, connection->Call(request, deadline));
    if (!answer.ok()) return answer.status();
    const std::string& codes = answer->action_done().codes();
    if (codes.size() != 1) return absl::UnavailableError("the node answered for the wrong number of encodings");
    if (static_cast<uint8_t>(codes[0]) == kMovedCode) return MovedStatus(answer->action_done().epoch());
    const auto code = static_cast<absl::StatusCode>(codes[0]);
    if (code == absl::StatusCode::kOk) {
      const int64_t pins = act == proto::EncodingAction::PIN ? 1 : act == proto::EncodingAction::UNPIN ? -1 : 0;
      route_.control().CountPins(connection->session(), pins);
      return absl::OkStatus();
    }
    return absl::Status(code, absl::StrCat("the node's answer for encoding ", identity.Hex()));
  });
}

absl::StatusOr<std::vector<SlotDigest>> Remote::SlotDigests(absl::Span<const uint16_t> slots) {
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  return WithRetries(&route_.retries(), route_.Patience(deadline), [&]() -> absl::StatusOr<std::vector<SlotDigest>> {
    KVLINK_ASSIGN_OR_RETURN(const Route::Opened opened, route_.Acquire(Need::kMessages, deadline));
    return route_.Checked(*opened.connection, AskSlotDigests(opened.connection.get(), slots, deadline));
  });
}

absl::StatusOr<SlotListing> Remote::ListSlot(int slot, const std::optional<SlotEntry>& after) {
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  return WithRetries(&route_.retries(), route_.Patience(deadline), [&]() -> absl::StatusOr<SlotListing> {
    KVLINK_ASSIGN_OR_RETURN(const Route::Opened opened, route_.Acquire(Need::kMessages, deadline));
    return route_.Checked(*opened.connection, AskSlot(opened.connection.get(), slot, after, deadline));
  });
}

absl::StatusOr<StoreStats> Remote::Stats() {
  KVLINK_ASSIGN_OR_RETURN(StoreStats stats, catalog_.Stats());
  absl::StrAppend(&stats.io, "; read over ", ReadCarrier());
  const std::string why = route_.WhyNoBetter();
  if (!why.empty()) absl::StrAppend(&stats.io, " (", why, ")");
  return stats;
}

RemoteCounters Remote::Counters() const {
  const ClientCounters& now = route_.counters();
  RemoteCounters counters;
  counters.answered_reads = now.answered_reads;
  counters.pulls = now.pulls;
  counters.failed_pulls = now.failed_pulls;
  counters.corrupt_slabs = now.corrupt_slabs;
  counters.late_layers = now.late_layers;
  counters.device_pulls = now.device_pulls;
  counters.device_fallbacks = now.device_fallbacks;
  counters.mapped_leases = now.mapped_leases;
  counters.lapsed_leases = now.lapsed_leases;
  counters.verified_bytes = now.verified_bytes;
  counters.known_bytes = now.known_bytes;
  counters.pushes = now.pushes;
  counters.failed_pushes = now.failed_pushes;
  counters.pushed_bytes = now.pushed_bytes;
  counters.retries = now.retries;
  counters.reconnects = now.reconnects;
  counters.sessions = now.sessions;
  route_.FillMemory(&counters);
  return counters;
}

}  // namespace

absl::string_view CarrierName(Carrier carrier) { return kCarrierNames[static_cast<int>(carrier)]; }

absl::StatusOr<Carrier> ParseCarrier(absl::string_view name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kCarrierNames[i]) return static_cast<Carrier>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", name, "' is not a carrier; use one of ", absl::StrJoin(kCarrierNames, ", ")));
}

absl::StatusOr<std::unique_ptr<RemoteStore>> OpenRemote(const RemoteOptions& options) {
  KVLINK_RETURN_IF_ERROR(Annotate(transport::ParseAddress(options.address).status(), "store"));
  if (options.resources == nullptr && (options.receive_bytes < 1 || options.sending_bytes < 1)) {
    return absl::InvalidArgumentError("store: receive_bytes and sending_bytes must be positive");
  }
  // The store would keep a mistake for as long as it lives, but files may be in the middle of being replaced.
  KVLINK_RETURN_IF_ERROR(transport::CheckSecrecy(options.tls, options.address, !options.key.empty()));
  auto remote = std::make_unique<Remote>(options);
  if (options.connect_later) return remote;
  KVLINK_RETURN_IF_ERROR(remote->Establish(absl::InfiniteFuture()));
  return remote;
}

absl::Status CheckTls(const transport::TlsOptions& tls) { return transport::ChannelCredentials(tls).status(); }

}  // namespace kvlink::store::client
