// One client serves all that a process does with a cluster, so that the first caller to find it unusable renews it for
// all of them.
#include "store/cluster/members/connection.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "store/cluster/members/records.h"
#include "transport/address.h"

namespace kvlink::store::cluster {
namespace {

absl::StatusOr<std::shared_ptr<etcd::Client>> OpenClient(const ClusterAddress& address) {
  etcd::ClientOptions options = address.etcd;
  options.prefix = kKeyPrefix;
  KVLINK_ASSIGN_OR_RETURN(auto client, etcd::Client::Open(options));
  return std::shared_ptr<etcd::Client>(std::move(client));
}

}  // namespace

absl::StatusOr<ClusterAddress> ParseClusterAddress(absl::string_view text) {
  const auto refuse = [text](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "': ", why,
                     "; write HOST:PORT[,HOST:PORT...][/NAME]: the members of etcd, and the name of the cluster"));
  };
  ClusterAddress address;
  const size_t slash = text.find('/');
  if (slash != absl::string_view::npos) {
    address.name = std::string(text.substr(slash + 1));
    if (const absl::Status valid = ValidateClusterName(address.name); !valid.ok()) return refuse(valid.message());
  }
  address.etcd.endpoints = std::string(text.substr(0, slash));
  for (const absl::string_view endpoint : absl::StrSplit(address.etcd.endpoints, ',')) {
    const auto parsed = transport::ParseAddress(endpoint);
    if (!parsed.ok()) return refuse(parsed.status().message());
    if (parsed->port == 0) return refuse("port 0 cannot be connected to");
  }
  return address;
}

Connection::Connection(ClusterAddress address, std::shared_ptr<etcd::Client> client)
    : address_(std::move(address)), client_(std::move(client)) {}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const ClusterAddress& address) {
  KVLINK_RETURN_IF_ERROR(ValidateClusterName(address.name));
  KVLINK_ASSIGN_OR_RETURN(auto client, OpenClient(address));
  return std::unique_ptr<Connection>(new Connection(address, std::move(client)));
}

std::string Connection::ToString() const { return absl::StrCat(address_.etcd.endpoints, "/", address_.name); }

std::shared_ptr<etcd::Client> Connection::client() const {
  MutexLock lock(&mutex_);
  return client_;
}

absl::Status Connection::Renew(const std::shared_ptr<etcd::Client>& used) {
  {
    MutexLock lock(&mutex_);
    if (client_ != used) return absl::OkStatus();
  }
  KVLINK_ASSIGN_OR_RETURN(auto client, OpenClient(address_));
  MutexLock lock(&mutex_);
  if (client_ == used) client_ = std::move(client);
  return absl::OkStatus();
}

bool NeedsAnotherClient(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsFailedPrecondition(status);
}

}  // namespace kvlink::store::cluster
