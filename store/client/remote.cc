#include "store/client/remote.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/control/catalog.h"
#include "store/client/control/control.h"
#include "store/client/control/counters.h"
#include "store/client/control/retry.h"
#include "store/client/data/data_path.h"
#include "store/client/data/mapped.h"
#include "store/client/data/pull.h"
#include "store/client/data/push.h"
#include "store/client/data/slots.h"
#include "store/client/data/verifier.h"
#include "store/client/reachable.h"
#include "transport/address.h"

namespace kvlink::store::client {
namespace {

constexpr absl::string_view kCarrierNames[] = {"auto", "mapped", "ucx", "grpc"};

// An encoding that cannot be mapped may still be pulled over a transport.
bool MappingFailed(const absl::Status& status) {
  if (MovedEpoch(status).has_value()) return false;
  return absl::IsUnavailable(status) || absl::IsFailedPrecondition(status);
}

class Remote : public RemoteStore {
 public:
  explicit Remote(const RemoteOptions& options)
      : options_(options),
        retries_(&counters_),
        control_({options.address, options.key, options.name, options.tls}, &retries_, &counters_),
        catalog_(&control_, options.request_timeout),
        verifier_(std::make_unique<Verifier>()) {
    requests_.placement = options.placement;
  }
  ~Remote() override {
    // First what calls back, then what it calls.
    mapped_ = nullptr;
    if (path_ != nullptr) path_->channel().Close();
    verifier_ = nullptr;
  }
  absl::Status Open();

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
                                absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) override;
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
    KVLINK_ASSIGN_OR_RETURN(DataPath* const path, Data(SteadyNow() + options_.connect_timeout));
    return path->AllocateSlabs(bytes);
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
    if (mapped_ != nullptr) mapped_->Flush(SteadyNow() + options_.request_timeout).IgnoreError();
    catalog_.DropDramTier();
  }
  absl::StatusOr<StoreStats> Stats() override;
  absl::StatusOr<std::vector<SlotDigest>> SlotDigests(absl::Span<const uint16_t> slots) override;
  absl::StatusOr<SlotListing> ListSlot(int slot, const std::optional<SlotEntry>& after) override;
  RemoteCounters Counters() const override;
  std::string ReadCarrier() const override;

 private:
  absl::Time Patience(absl::Time deadline) const { return std::min(deadline, SteadyNow() + options_.patience); }
  // The way of payloads, chosen when it is first needed.
  absl::StatusOr<DataPath*> Data(absl::Time deadline);
  // `problems`: of the carriers that were tried before.
  absl::StatusOr<std::unique_ptr<DataPath>> ChoosePath(absl::Time deadline, std::vector<std::string>* problems);
  // The open connection for messages without payloads.
  absl::StatusOr<std::shared_ptr<NodeConnection>> Messages(absl::Time deadline);
  absl::Status Act(proto::EncodingAction::Action act, absl::string_view ns, const Identity& identity, Codec codec);
  absl::StatusOr<std::vector<Found>> LookupOnce(NodeConnection* connection, absl::string_view ns,
                                                absl::Span<const Identity> identities, Codec codec,
                                                absl::Time deadline);
  // `region`: where to receive; nullptr: on the host.
  absl::StatusOr<std::unique_ptr<Lease>> ReadOnce(const EncodingAddress& address, const std::shared_ptr<Region>& region,
                                                  absl::Time deadline);
  // One attempt for each of `addresses`.
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> ReadManyOnce(absl::Span<const EncodingAddress> addresses,
                                                                   const std::shared_ptr<Region>& region,
                                                                   absl::Time deadline);
  // All pulls are asked for before the first manifest is waited for, as far as the node lets a connection pull at a
  // time.
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> PullManyOnce(absl::Span<const EncodingAddress> addresses,
                                                                   const std::shared_ptr<Region>& region,
                                                                   absl::Time deadline);
  absl::StatusOr<std::shared_ptr<Pull>> PullOnce(const EncodingAddress& address, const proto::Part& part,
                                                 const std::shared_ptr<Region>& region, absl::Time deadline);
  // The result of a request on `connection`, where the session's end is UNAVAILABLE, to be tried again.
  template <typename Result>
  Result Checked(const NodeConnection& connection, Result result) {
    if (!absl::IsUnauthenticated(StatusOf(result))) return result;
    control_.Ended(connection.session());
    return absl::UnavailableError("the session has ended");
  }

  const RemoteOptions options_;
  ClientCounters counters_;
  RetryPolicy retries_;
  Control control_;
  Catalog catalog_;
  RequestSource requests_;

  mutable Mutex path_mutex_;
  CondVar path_chosen_;
  bool choosing_ ABSL_GUARDED_BY(path_mutex_) = false;           // one of the callers of Data does
  std::unique_ptr<DataPath> path_ ABSL_GUARDED_BY(path_mutex_);  // stays once it is there
  std::vector<std::string> why_no_better_ ABSL_GUARDED_BY(path_mutex_);
  std::unique_ptr<Verifier> verifier_;
  std::unique_ptr<MappedReader> mapped_;  // null: reads do not map
};

absl::Status Remote::Open() {
  const absl::Time deadline = SteadyNow() + options_.connect_timeout;
  KVLINK_RETURN_IF_ERROR(CheckReachable(options_.address, deadline));
  KVLINK_RETURN_IF_ERROR(WithRetries(&retries_, deadline, [&] { return control_.Session(deadline).status(); }));
  const bool may_map = options_.transport == nullptr &&
                       ((options_.carrier == Carrier::kAuto && options_.map) || options_.carrier == Carrier::kMapped);
  if (may_map) {
    KVLINK_ASSIGN_OR_RETURN(mapped_, MappedReader::Create(&control_, &counters_, &requests_, options_.connect_timeout));
    const absl::Status mapped = mapped_->Try(SteadyNow() + options_.connect_timeout);
    if (mapped.ok()) return absl::OkStatus();
    mapped_ = nullptr;
    if (options_.carrier == Carrier::kMapped) {
      return absl::UnavailableError(
          absl::StrCat(options_.address, ": its memory cannot be mapped: ", mapped.message()));
    }
    MutexLock lock(&path_mutex_);
    why_no_better_.push_back(absl::StrCat("not mapped: ", mapped.message()));
  }
  // Each carrier has the time of an attempt, whatever those before it took.
  return Data(SteadyNow() + 2 * options_.connect_timeout).status();
}

absl::StatusOr<DataPath*> Remote::Data(absl::Time deadline) {
  ReleasableMutexLock lock(&path_mutex_);
  while (choosing_) {
    if (!path_chosen_.WaitUntil(&path_mutex_, deadline) && choosing_) {
      return absl::DeadlineExceededError("no data connection to the node in time");
    }
  }
  if (path_ != nullptr) return path_.get();
  // Without the lock: it dials, and who only looks at the store does not wait for that.
  choosing_ = true;
  lock.Release();
  std::vector<std::string> problems;
  auto chosen = ChoosePath(deadline, &problems);
  lock.Reacquire();
  choosing_ = false;
  path_chosen_.SignalAll();
  if (!chosen.ok()) return chosen.status();
  why_no_better_.insert(why_no_better_.end(), problems.begin(), problems.end());
  path_ = *std::move(chosen);
  return path_.get();
}

absl::StatusOr<std::unique_ptr<DataPath>> Remote::ChoosePath(absl::Time deadline, std::vector<std::string>* problems) {
  std::vector<Carrier> carriers = {options_.carrier};
  if (options_.carrier == Carrier::kAuto || options_.carrier == Carrier::kMapped) {
    carriers = {Carrier::kUcx, Carrier::kGrpc};
    if (options_.tls.enabled()) {
      carriers = {Carrier::kGrpc};
      problems->push_back("ucx does not encrypt, so it is used where it is named");
    }
  }
  if (options_.transport != nullptr) carriers.resize(1);
  for (const Carrier carrier : carriers) {
    auto path = DataPath::Create(carrier, options_, &control_, &counters_, &requests_);
    absl::Status status = path.status();
    if (path.ok()) status = (*path)->channel().Acquire(deadline).status();
    if (status.ok()) return path;
    if (absl::IsPermissionDenied(status) || absl::IsUnauthenticated(status)) return status;
    problems->push_back(absl::StrCat(path.ok() ? (*path)->name() : "", path.ok() ? ": " : "", status.message()));
  }
  return absl::UnavailableError(
      absl::StrCat("no data connection to the node at ", options_.address, ": ", absl::StrJoin(*problems, "; ")));
}

absl::StatusOr<std::shared_ptr<NodeConnection>> Remote::Messages(absl::Time deadline) {
  if (mapped_ != nullptr) {
    auto connection = mapped_->Acquire(deadline);
    if (connection.ok() || options_.carrier == Carrier::kMapped) return connection;
  }
  KVLINK_ASSIGN_OR_RETURN(DataPath* const path, Data(deadline));
  return path->channel().Acquire(deadline);
}

absl::StatusOr<std::vector<Found>> Remote::Lookup(absl::string_view ns, absl::Span<const Identity> identities,
                                                  Codec codec) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  return WithRetries(&retries_, Patience(deadline), [&]() -> absl::StatusOr<std::vector<Found>> {
    KVLINK_ASSIGN_OR_RETURN(const auto connection, Messages(deadline));
    return Checked(*connection, LookupOnce(connection.get(), ns, identities, codec, deadline));
  });
}

absl::StatusOr<std::vector<Found>> Remote::LookupOnce(NodeConnection* connection, absl::string_view ns,
                                                      absl::Span<const Identity> identities, Codec codec,
                                                      absl::Time deadline) {
  std::vector<Found> found(identities.size());
  for (size_t begin = 0; begin < identities.size(); begin += kMaxIdentities) {
    const absl::Span<const Identity> some = identities.subspan(begin, kMaxIdentities);
    proto::Request request = connection->NewRequest(ns, deadline);
    request.mutable_lookup()->set_codec(static_cast<uint32_t>(codec));
    request.mutable_lookup()->set_identities(PackIdentities(some));
    KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, connection->Call(request, deadline));
    const std::string& records = answer.found().records();
    if (records.size() != some.size() * kFoundRecordBytes) {
      return absl::UnavailableError("the node answered a lookup with another number of records");
    }
    for (size_t i = 0; i < some.size(); ++i) {
      const FoundRecord record = FoundRecordAt({records.data(), records.size()}, static_cast<int64_t>(i));
      if (record.tier == kMovedTier) found[begin + i].moved = answer.found().epoch();
      if (record.tier == 0 || record.tier == kMovedTier) continue;
      found[begin + i] = {.present = true,
                          .codec = codec,
                          .etag = record.etag,
                          .tokens = static_cast<int64_t>(record.tokens),
                          .bytes = static_cast<int64_t>(record.bytes),
                          .tier = static_cast<Tier>(record.tier)};
    }
  }
  return found;
}

absl::StatusOr<std::shared_ptr<Pull>> Remote::PullOnce(const EncodingAddress& address, const proto::Part& part,
                                                       const std::shared_ptr<Region>& region, absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(DataPath* const path, Data(deadline));
  KVLINK_ASSIGN_OR_RETURN(auto connection, path->channel().Acquire(deadline));
  const Pull::Context context{&path->receive_memory(), region, verifier_.get(), &counters_, options_.transfer_timeout};
  return Checked(*connection, Pull::Begin(context, connection, address, part, deadline));
}

absl::StatusOr<std::unique_ptr<Lease>> Remote::ReadOnce(const EncodingAddress& address,
                                                        const std::shared_ptr<Region>& region, absl::Time deadline) {
  if (mapped_ != nullptr) {
    auto lease = mapped_->Read(address, deadline);
    if (absl::IsUnauthenticated(lease.status())) {
      control_.Ended(control_.number());
      return absl::UnavailableError("the session has ended");
    }
    if (lease.ok() || !MappingFailed(lease.status())) return lease;
    if (options_.carrier == Carrier::kMapped) return absl::UnavailableError(lease.status().message());
  }
  KVLINK_ASSIGN_OR_RETURN(auto pull, PullOnce(address, {}, region, deadline));
  return LeaseOver(std::move(pull));
}

absl::StatusOr<std::shared_ptr<DeviceBuffer>> Remote::OpenDeviceBuffer(const DeviceRegion& region) {
  if (mapped_ != nullptr) return absl::UnimplementedError("encodings are read from the node's memory, which is mapped");
  KVLINK_ASSIGN_OR_RETURN(DataPath* const path, Data(SteadyNow() + options_.connect_timeout));
  return path->OpenRegion(region, options_.region_rest);
}

absl::StatusOr<std::unique_ptr<Lease>> Remote::ReadTo(DeviceBuffer* buffer, absl::string_view ns,
                                                      const Identity& identity, Codec codec, const Etag& etag,
                                                      absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("read: the deadline has passed");
  const EncodingAddress address{std::string(ns), identity, codec, etag};
  std::shared_ptr<Region> region;
  if (auto* const ours = dynamic_cast<Region*>(buffer)) region = ours->shared_from_this();
  return WithRetries(&retries_, Patience(deadline), [&] { return ReadOnce(address, region, deadline); });
}

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> Remote::PullManyOnce(absl::Span<const EncodingAddress> addresses,
                                                                         const std::shared_ptr<Region>& region,
                                                                         absl::Time deadline) {
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> leases;
  const auto path = Data(deadline);
  auto connection = path.ok() ? (*path)->channel().Acquire(deadline) : path.status();
  if (!connection.ok()) {
    for (size_t i = 0; i < addresses.size(); ++i) leases.emplace_back(connection.status());
    return leases;
  }
  const Pull::Context context{&(*path)->receive_memory(), region, verifier_.get(), &counters_,
                              options_.transfer_timeout};
  std::deque<absl::StatusOr<std::shared_ptr<Pull>>> asked;  // those behind `leases`
  const auto finish = [&] {
    auto pull = std::move(asked.front());
    asked.pop_front();
    if (pull.ok()) {
      const absl::Status started = (*pull)->Start({}, deadline);
      if (!started.ok()) pull = started;
    }
    pull = Checked(**connection, std::move(pull));
    if (pull.ok()) {
      leases.emplace_back(LeaseOver(*std::move(pull)));
    } else {
      leases.emplace_back(pull.status());
    }
  };
  for (const EncodingAddress& address : addresses) {
    // A pull gives its slot back once it is complete, which it can be only after it was started.
    while (!(*connection)->pulls().TryTake()) {
      if (!asked.empty()) {
        finish();
        continue;
      }
      const absl::Status slot = (*connection)->pulls().Take(deadline);
      if (slot.ok()) break;
      while (leases.size() < addresses.size()) leases.emplace_back(slot);
      return leases;
    }
    asked.push_back(Pull::Ask(context, *connection, address, {}));
  }
  while (!asked.empty()) finish();
  return leases;
}

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> Remote::ReadManyOnce(absl::Span<const EncodingAddress> addresses,
                                                                         const std::shared_ptr<Region>& region,
                                                                         absl::Time deadline) {
  if (mapped_ == nullptr) return PullManyOnce(addresses, region, deadline);
  auto leases = mapped_->ReadMany(addresses, deadline);
  std::vector<size_t> unmapped;
  std::vector<EncodingAddress> pulled;
  for (size_t i = 0; i < leases.size(); ++i) {
    if (absl::IsUnauthenticated(leases[i].status())) {
      control_.Ended(control_.number());
      leases[i] = absl::UnavailableError("the session has ended");
    } else if (!leases[i].ok() && MappingFailed(leases[i].status())) {
      if (options_.carrier == Carrier::kMapped) {
        leases[i] = absl::UnavailableError(leases[i].status().message());
      } else {
        unmapped.push_back(i);
        pulled.push_back(addresses[i]);
      }
    }
  }
  if (unmapped.empty()) return leases;
  auto others = PullManyOnce(pulled, region, deadline);
  for (size_t k = 0; k < unmapped.size(); ++k) leases[unmapped[k]] = std::move(others[k]);
  return leases;
}

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> Remote::ReadMany(DeviceBuffer* buffer, absl::string_view ns,
                                                                     Codec codec,
                                                                     absl::Span<const ReadRequest> requests,
                                                                     absl::Time deadline) {
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> leases;
  absl::Status refused = ValidateName("namespace", ns);
  if (SteadyNow() >= deadline) refused = absl::DeadlineExceededError("read: the deadline has passed");
  for (size_t i = 0; i < requests.size(); ++i) {
    leases.emplace_back(refused.ok() ? absl::UnavailableError("not asked for yet") : refused);
  }
  if (!refused.ok()) return leases;
  std::shared_ptr<Region> region;
  if (auto* const ours = dynamic_cast<Region*>(buffer)) region = ours->shared_from_this();
  // All are tried again together: a node that is away costs the patience of one read, however many are wanted.
  std::vector<size_t> left(requests.size());
  std::iota(left.begin(), left.end(), size_t{0});
  const absl::Time patience = Patience(deadline);
  for (int attempt = 0; !left.empty(); ++attempt) {
    std::vector<EncodingAddress> addresses;
    for (const size_t i : left) addresses.push_back({std::string(ns), requests[i].identity, codec, requests[i].etag});
    auto some = ReadManyOnce(addresses, region, deadline);
    std::vector<size_t> failed;
    absl::Status worst;
    for (size_t k = 0; k < left.size(); ++k) {
      leases[left[k]] = std::move(some[k]);
      const absl::Status& status = leases[left[k]].status();
      if (!absl::IsUnavailable(status) && !absl::IsResourceExhausted(status)) continue;
      // A failure that is not worth a retry stays as it is.
      if (absl::IsResourceExhausted(status) && !RetryAfter(status).has_value()) continue;
      failed.push_back(left[k]);
      worst = status;
    }
    left = std::move(failed);
    if (left.empty()) {
      retries_.Succeeded();
      break;
    }
    const std::optional<absl::Duration> wait = retries_.Wait(worst, attempt, patience);
    if (!wait.has_value()) break;
    absl::SleepFor(*wait);
  }
  return leases;
}

absl::StatusOr<std::unique_ptr<PartLease>> Remote::ReadPart(absl::string_view ns, const Identity& identity, Codec codec,
                                                            const Etag& etag, const EncodingPart& part,
                                                            absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("read: the deadline has passed");
  for (const int64_t number : {part.first_layer, part.layers, part.first_head, part.heads, part.tokens}) {
    if (number < 0 || number > INT32_MAX) return absl::InvalidArgumentError(absl::StrCat("a part with ", number));
  }
  const EncodingAddress address{std::string(ns), identity, codec, etag};
  proto::Part wanted;
  wanted.set_first_layer(static_cast<uint32_t>(part.first_layer));
  wanted.set_layers(static_cast<uint32_t>(part.layers));
  wanted.set_first_head(static_cast<uint32_t>(part.first_head));
  wanted.set_heads(static_cast<uint32_t>(part.heads));
  wanted.set_tokens(part.tokens);
  KVLINK_ASSIGN_OR_RETURN(auto pull, WithRetries(&retries_, Patience(deadline),
                                                 [&] { return PullOnce(address, wanted, nullptr, deadline); }));
  return PartOver(std::move(pull), part.tokens);
}

absl::StatusOr<PutResult> Remote::Put(absl::string_view ns, const Manifest& manifest,
                                      absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  KVLINK_RETURN_IF_ERROR(Annotate(manifest.Validate(), "put"));
  if (slabs.size() != manifest.layers.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("put: ", slabs.size(), " slabs for ", manifest.layers.size(), " layers"));
  }
  for (size_t layer = 0; layer < slabs.size(); ++layer) {
    if (static_cast<int64_t>(slabs[layer].size()) != manifest.layers[layer].length) {
      return absl::InvalidArgumentError(absl::StrCat("put: the slab of layer ", layer, " has ", slabs[layer].size(),
                                                     " bytes, and the manifest says ", manifest.layers[layer].length));
    }
  }
  if (SteadyNow() >= deadline) return absl::DeadlineExceededError("put: the deadline has passed");
  PushOrder order;
  order.ns = std::string(ns);
  order.manifest = &manifest;
  order.slabs = slabs;
  ++counters_.pushes;
  order.silence = options_.silence;
  absl::Duration silent;  // so long attempts have waited for a node that gave no sign
  auto result = WithRetries(&retries_, deadline, [&]() -> absl::StatusOr<PutResult> {
    const absl::Time begun = SteadyNow();
    const absl::Time limit = std::min(deadline, begun + options_.silence - silent);
    const auto path = Data(limit);
    const auto connection = path.ok() ? (*path)->channel().Acquire(limit) : path.status();
    if (connection.ok()) {
      silent = absl::ZeroDuration();
      order.sending = &(*path)->sending();
      order.registered = [path = *path](absl::Span<const std::byte> slab) { return path->Registered(slab); };
      auto done = Checked(**connection, PushOnce(*connection, &order, deadline));
      if (!order.silent) return done;
      silent = options_.silence;
    } else {
      silent += SteadyNow() - begun;
    }
    if (silent < options_.silence || SteadyNow() >= deadline) return connection.status();
    // Not to be tried again.
    return absl::AbortedError("");
  });
  if (absl::IsAborted(result.status()) && silent >= options_.silence) {
    result =
        absl::UnavailableError(absl::StrCat("put: the node at ", options_.address, " has given no sign for ",
                                            absl::FormatDuration(options_.silence), ": it is stopped, or cut off"));
  }
  if (!result.ok()) ++counters_.failed_pushes;
  return result;
}

absl::Status Remote::Act(proto::EncodingAction::Action act, absl::string_view ns, const Identity& identity,
                         Codec codec) {
  KVLINK_RETURN_IF_ERROR(ValidateName("namespace", ns));
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  // One number for all attempts: the node carries it out once.
  const uint64_t id = requests_.next_id.fetch_add(1);
  return WithRetries(&retries_, Patience(deadline), [&]() -> absl::Status {
    KVLINK_ASSIGN_OR_RETURN(const auto connection, Messages(deadline));
    proto::Request request = connection->NewRequest(ns, deadline, id);
    request.mutable_action()->set_action(act);
    request.mutable_action()->set_codec(static_cast<uint32_t>(codec));
    request.mutable_action()->set_identities(std::string(BytesOf(identity)));
    auto answer = Checked(*connection, connection->Call(request, deadline));
    if (!answer.ok()) return answer.status();
    const std::string& codes = answer->action_done().codes();
    if (codes.size() != 1) return absl::UnavailableError("the node answered for another number of encodings");
    if (static_cast<uint8_t>(codes[0]) == kMovedCode) return MovedStatus(answer->action_done().epoch());
    const auto code = static_cast<absl::StatusCode>(codes[0]);
    if (code == absl::StatusCode::kOk) return absl::OkStatus();
    return absl::Status(code, absl::StrCat("the node's answer for encoding ", identity.Hex()));
  });
}

absl::StatusOr<std::vector<SlotDigest>> Remote::SlotDigests(absl::Span<const uint16_t> slots) {
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  return WithRetries(&retries_, Patience(deadline), [&]() -> absl::StatusOr<std::vector<SlotDigest>> {
    KVLINK_ASSIGN_OR_RETURN(const auto connection, Messages(deadline));
    return Checked(*connection, AskSlotDigests(connection.get(), slots, deadline));
  });
}

absl::StatusOr<SlotListing> Remote::ListSlot(int slot, const std::optional<SlotEntry>& after) {
  const absl::Time deadline = SteadyNow() + options_.request_timeout;
  return WithRetries(&retries_, Patience(deadline), [&]() -> absl::StatusOr<SlotListing> {
    KVLINK_ASSIGN_OR_RETURN(const auto connection, Messages(deadline));
    return Checked(*connection, AskSlot(connection.get(), slot, after, deadline));
  });
}

absl::StatusOr<StoreStats> Remote::Stats() {
  KVLINK_ASSIGN_OR_RETURN(StoreStats stats, catalog_.Stats());
  absl::StrAppend(&stats.io, "; read over ", ReadCarrier());
  MutexLock lock(&path_mutex_);
  if (!why_no_better_.empty()) absl::StrAppend(&stats.io, " (", absl::StrJoin(why_no_better_, "; "), ")");
  return stats;
}

std::string Remote::ReadCarrier() const {
  if (mapped_ != nullptr) return "mapped";
  MutexLock lock(&path_mutex_);
  return path_ == nullptr ? "nothing" : path_->name();
}

RemoteCounters Remote::Counters() const {
  RemoteCounters counters;
  counters.pulls = counters_.pulls;
  counters.failed_pulls = counters_.failed_pulls;
  counters.corrupt_slabs = counters_.corrupt_slabs;
  counters.late_layers = counters_.late_layers;
  counters.device_pulls = counters_.device_pulls;
  counters.device_fallbacks = counters_.device_fallbacks;
  counters.mapped_leases = counters_.mapped_leases;
  counters.lapsed_leases = counters_.lapsed_leases;
  counters.verified_bytes = counters_.verified_bytes;
  counters.known_bytes = counters_.known_bytes;
  counters.pushes = counters_.pushes;
  counters.failed_pushes = counters_.failed_pushes;
  counters.retries = counters_.retries;
  counters.reconnects = counters_.reconnects;
  counters.sessions = counters_.sessions;
  MutexLock lock(&path_mutex_);
  if (path_ != nullptr) {
    counters.receive_bytes_used = path_->receive_memory().used();
    counters.receive_bytes = path_->receive_memory().bytes();
    counters.sending_bytes = path_->sending().bytes();
  }
  return counters;
}

}  // namespace

absl::string_view CarrierName(Carrier carrier) { return kCarrierNames[static_cast<int>(carrier)]; }

absl::StatusOr<Carrier> ParseCarrier(absl::string_view name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kCarrierNames[i]) return static_cast<Carrier>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' is no carrier: ", absl::StrJoin(kCarrierNames, ", ")));
}

absl::StatusOr<std::unique_ptr<RemoteStore>> OpenRemote(const RemoteOptions& options) {
  KVLINK_RETURN_IF_ERROR(Annotate(transport::ParseAddress(options.address).status(), "store"));
  if (options.receive_bytes < 1 || options.sending_bytes < 1) {
    return absl::InvalidArgumentError("store: receive_bytes and sending_bytes must be positive");
  }
  auto remote = std::make_unique<Remote>(options);
  KVLINK_RETURN_IF_ERROR(remote->Open());
  return remote;
}

}  // namespace kvlink::store::client
