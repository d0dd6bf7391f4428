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

constexpr int kSeals = F_SEAL_SHRINK;  // without it, a truncation by the node would kill this process
constexpr int kRenewsPerLease = 4;
constexpr absl::Duration kMinRenewal = absl::Milliseconds(10);

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

MappedReader::MappedReader(transport::LocalTransport* transport, Timer* timer, Control* control,
                           ClientCounters* counters, RequestSource* source, absl::Duration connect_timeout)
    : transport_(transport),
      counters_(counters),
      source_(source),
      channel_(std::make_unique<NodeChannel>(
          control, counters, connect_timeout,
          [this](const OpenedSession& session, absl::Time deadline) { return Dial(session, deadline); })),
      renewal_(std::make_unique<Alarm>(timer, [this] { return Renew(); })) {
  renewal_->Set(SteadyNow());
}

MappedReader::~MappedReader() {
  renewal_ = nullptr;
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
  KVLINK_ASSIGN_OR_RETURN(const auto connection, channel_->Acquire(deadline));
  KVLINK_RETURN_IF_ERROR(static_cast<SharedTier*>(connection->unsolicited().get())->WaitReady(deadline));
  MutexLock lock(&mutex_);
  renew_every_ = std::max(kMinRenewal, connection->lease() / kRenewsPerLease);
  renewal_->Set(SteadyNow() + renew_every_);
  return absl::OkStatus();
}

absl::Status MappedReader::Flush(absl::Time deadline) {
  KVLINK_ASSIGN_OR_RETURN(const auto connection, channel_->Acquire(deadline));
  proto::Request request = connection->NewRequest("", deadline);
  request.mutable_renew();  // a node handles releases and renewals in order
  return connection->Call(request, deadline).status();
}

absl::Time MappedReader::Renew() {
  absl::Duration every;
  {
    MutexLock lock(&mutex_);
    every = renew_every_;
  }
  const absl::Time next = SteadyNow() + every;
  // A closed connection has no leases left to renew.
  const auto connection = held_->load() == 0 ? nullptr : channel_->Present();
  if (connection == nullptr) return next;
  proto::Request request = connection->NewRequest("", next);
  request.mutable_renew();
  connection->Tell(request);
  return next;
}

}  // namespace kvlink::store::client
