#include "store/client/data/mapped.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "store/client/data/mapped_lease.h"

namespace kvlink::store::client {
namespace {

constexpr int kSeals = F_SEAL_SHRINK;  // without it, a truncation by the node would end this process
constexpr int kRenewsPerLease = 4;
constexpr absl::Duration kMinRenewal = absl::Milliseconds(10);
constexpr size_t kMaxLeasesAsked = 256;  // that are not answered yet

}  // namespace

absl::StatusOr<std::shared_ptr<const Mapping>> Mapping::Map(const Descriptor& descriptor, int64_t bytes) {
  struct stat info;
  const int seals = fcntl(descriptor.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return absl::FailedPreconditionError("the node's memory is not sealed against shrinking, so it is not mapped");
  }
  if (bytes < 1 || fstat(descriptor.get(), &info) != 0 || info.st_size < bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the node's memory is smaller than the ", bytes, " bytes it names"));
  }
  void* const data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor.get(), 0);
  if (data == MAP_FAILED) {
    return absl::UnavailableError(absl::StrCat("the node's memory cannot be mapped: ", std::strerror(errno)));
  }
  madvise(data, bytes, MADV_DONTFORK);
  return std::shared_ptr<const Mapping>(new Mapping(static_cast<const std::byte*>(data), bytes));
}

Mapping::~Mapping() { munmap(const_cast<std::byte*>(data_), size_); }

bool VerifiedLayers::Has(uint64_t residency, int64_t layer) const {
  MutexLock lock(&mutex_);
  const auto found = layers_.find(residency);
  return found != layers_.end() && layer < static_cast<int64_t>(found->second.size()) && found->second[layer];
}

void VerifiedLayers::Add(uint64_t residency, int64_t layer, int64_t layers) {
  MutexLock lock(&mutex_);
  const auto [it, is_new] = layers_.try_emplace(residency);
  if (is_new) {
    order_.push_back(residency);
    it->second.resize(layers);
  }
  if (layer < static_cast<int64_t>(it->second.size())) it->second[layer] = true;
  if (order_.size() <= kMaxResidencies) return;
  layers_.erase(order_.front());
  order_.pop_front();
}

absl::StatusOr<std::unique_ptr<MappedReader>> MappedReader::Create(Control* control, ClientCounters* counters,
                                                                   RequestSource* source,
                                                                   absl::Duration connect_timeout) {
  KVLINK_ASSIGN_OR_RETURN(auto transport, transport::NewLocalTransport({}));
  return std::unique_ptr<MappedReader>(
      new MappedReader(control, counters, source, connect_timeout, std::move(transport)));
}

MappedReader::MappedReader(Control* control, ClientCounters* counters, RequestSource* source,
                           absl::Duration connect_timeout, std::unique_ptr<transport::LocalTransport> transport)
    : counters_(counters),
      source_(source),
      transport_(std::move(transport)),
      channel_(std::make_unique<NodeChannel>(
          control, counters, connect_timeout,
          [this](const OpenedSession& session, absl::Time deadline) { return Dial(session, deadline); })),
      renewer_("lease-renew", [this] { Renew(); }) {}

MappedReader::~MappedReader() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.SignalAll();
  }
  renewer_.Join();
  channel_ = nullptr;
}

absl::StatusOr<std::shared_ptr<NodeConnection>> MappedReader::Dial(const OpenedSession& session, absl::Time deadline) {
  if (session.local_socket.empty()) return absl::UnavailableError("the node has no local socket");
  std::shared_ptr<VerifiedLayers> verified;
  {
    MutexLock lock(&mutex_);
    const std::pair<std::string, uint64_t> node = {session.node_id, session.incarnation};
    if (verified_ == nullptr || node_ != node) {
      node_ = node;
      verified_ = std::make_shared<VerifiedLayers>();
    }
    verified = verified_;
  }
  auto connection = std::make_shared<NodeConnection>(source_, std::make_shared<SharedTier>(verified, held_, counters_));
  KVLINK_ASSIGN_OR_RETURN(auto carrier, transport_->ConnectLocal(session.local_socket, connection, deadline));
  connection->Bind(std::move(carrier));
  return connection;
}

absl::Status MappedReader::Try(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto connection, Acquire(deadline));
  KVLINK_RETURN_IF_ERROR(static_cast<SharedTier*>(connection->unsolicited().get())->WaitReady(deadline));
  MutexLock lock(&mutex_);
  renew_every_ = std::max(kMinRenewal, connection->lease() / kRenewsPerLease);
  return absl::OkStatus();
}

absl::Status MappedReader::Flush(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto connection, Acquire(deadline));
  proto::Request request = connection->NewRequest("", deadline);
  request.mutable_renew();  // a node handles releases and renewals in their order
  return connection->Call(request, deadline).status();
}

absl::StatusOr<std::unique_ptr<Lease>> MappedReader::Read(const EncodingAddress& address, absl::Time deadline) {
  return std::move(ReadMany({&address, 1}, deadline)[0]);
}

std::vector<absl::StatusOr<std::unique_ptr<Lease>>> MappedReader::ReadMany(absl::Span<const EncodingAddress> addresses,
                                                                           absl::Time deadline) {
  std::vector<absl::StatusOr<std::unique_ptr<Lease>>> leases;
  std::deque<absl::StatusOr<std::unique_ptr<MappedLease>>> asked;  // those behind `leases`
  const auto finish = [&] {
    auto lease = std::move(asked.front());
    asked.pop_front();
    absl::Status status = lease.status();
    if (status.ok()) status = (*lease)->Start(addresses[leases.size()], deadline);
    if (!status.ok()) {
      leases.emplace_back(std::move(status));
      return;
    }
    ++counters_->mapped_leases;
    leases.emplace_back(*std::move(lease));
  };
  const auto connection = Acquire(deadline);
  for (const EncodingAddress& address : addresses) {
    if (asked.size() >= kMaxLeasesAsked) finish();
    if (connection.ok()) {
      asked.push_back(MappedLease::Ask(*connection, address, deadline));
    } else {
      asked.emplace_back(connection.status());
    }
  }
  while (!asked.empty()) finish();
  return leases;
}

void MappedReader::Renew() {
  while (true) {
    absl::Duration every;
    {
      MutexLock lock(&mutex_);
      const absl::Time next = SteadyNow() + renew_every_;
      while (!stop_ && SteadyNow() < next) changed_.WaitUntil(&mutex_, next);
      if (stop_) return;
      every = renew_every_;
    }
    if (held_->load() == 0) continue;
    // A connection that is gone has no leases left to be renewed.
    const absl::Time deadline = SteadyNow() + every;
    const auto connection = channel_->Acquire(deadline);
    if (!connection.ok()) continue;
    proto::Request request = (*connection)->NewRequest("", deadline);
    request.mutable_renew();
    (*connection)->Tell(request);
  }
}

}  // namespace kvlink::store::client
