// Translates between our types and etcd's messages, and classifies each call by how it may be retried. Failures on the
// way are handled in cluster_channel.cc.
#include "etcd/client.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "base/clock.h"
#include "base/status.h"
#include "etcd/cluster_channel.h"

namespace kvlink::etcd {
namespace {

namespace pb = etcdserverpb;

// The end of the range of keys that begin with `key`, in etcd's notation.
std::string PrefixEnd(std::string key) {
  while (!key.empty() && static_cast<uint8_t>(key.back()) == 0xFF) key.pop_back();
  if (key.empty()) return std::string(1, '\0');
  key.back() = static_cast<char>(static_cast<uint8_t>(key.back()) + 1);
  return key;
}

std::string FullKey(const ClientOptions& options, absl::string_view key, bool prefix) {
  std::string full = options.prefix;
  full.append(key.data(), key.size());
  // etcd has no empty key; this is the first possible one.
  if (full.empty() && prefix) full.push_back('\0');
  return full;
}

std::string RangeEnd(const ClientOptions& options, absl::string_view key, bool prefix) {
  return prefix ? PrefixEnd(FullKey(options, key, false)) : "";
}

// Sets both fields of a range in any message that has them.
template <typename Message>
void SetRange(const ClientOptions& options, absl::string_view key, bool prefix, Message* message) {
  message->set_key(FullKey(options, key, prefix));
  message->set_range_end(RangeEnd(options, key, prefix));
}

template <typename Response>
std::vector<KeyValue> Found(const ClientOptions& options, const Response& response) {
  std::vector<KeyValue> found;
  for (const pb::KeyValue& one : response.kvs()) {
    found.push_back(
        {one.key().substr(options.prefix.size()), one.value(), one.create_revision(), one.mod_revision(), one.lease()});
  }
  return found;
}

void SetCompare(const ClientOptions& options, const Compare& from, pb::Compare* to) {
  to->set_key(FullKey(options, from.key, false));
  switch (from.relation) {
    case Compare::Relation::kEqual:
      to->set_result(pb::Compare::EQUAL);
      break;
    case Compare::Relation::kNotEqual:
      to->set_result(pb::Compare::NOT_EQUAL);
      break;
    case Compare::Relation::kGreater:
      to->set_result(pb::Compare::GREATER);
      break;
    case Compare::Relation::kLess:
      to->set_result(pb::Compare::LESS);
      break;
  }
  switch (from.target) {
    case Compare::Target::kCreateRevision:
      to->set_target(pb::Compare::CREATE);
      to->set_create_revision(from.number);
      break;
    case Compare::Target::kModRevision:
      to->set_target(pb::Compare::MOD);
      to->set_mod_revision(from.number);
      break;
    case Compare::Target::kValue:
      to->set_target(pb::Compare::VALUE);
      to->set_value(from.value);
      break;
    case Compare::Target::kLease:
      to->set_target(pb::Compare::LEASE);
      to->set_lease(from.number);
      break;
  }
}

void SetOp(const ClientOptions& options, const Op& from, pb::RequestOp* to) {
  if (const auto* get = std::get_if<GetOp>(&from)) {
    SetRange(options, get->key, get->prefix, to->mutable_request_range());
  } else if (const auto* put = std::get_if<PutOp>(&from)) {
    pb::PutRequest* const request = to->mutable_request_put();
    request->set_key(FullKey(options, put->key, false));
    request->set_value(put->value);
    request->set_lease(put->lease);
  } else if (const auto* deletion = std::get_if<DeleteOp>(&from)) {
    SetRange(options, deletion->key, deletion->prefix, to->mutable_request_delete_range());
  }
}

bool Writes(const std::vector<Op>& ops) {
  return std::any_of(ops.begin(), ops.end(), [](const Op& op) { return !std::holds_alternative<GetOp>(op); });
}

// Returns an Rpc that calls `method` of the stub `stub` and fills in `response`.
template <typename Stub, typename Request, typename Response>
ClusterChannel::Rpc Unary(std::unique_ptr<Stub> Endpoint::*stub,
                          grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                          const Request& request, Response* response) {
  return [=, &request](const Endpoint& endpoint, grpc::ClientContext* context, pb::ResponseHeader* header) {
    response->Clear();
    const grpc::Status status = ((endpoint.*stub).get()->*method)(context, request, response);
    *header = response->header();
    return status;
  };
}

}  // namespace

Client::Client(std::unique_ptr<ClusterChannel> cluster) : cluster_(std::move(cluster)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Open(const ClientOptions& options) {
  KVLINK_ASSIGN_OR_RETURN(auto cluster, ClusterChannel::Open(options));
  return std::unique_ptr<Client>(new Client(std::move(cluster)));
}

absl::StatusOr<GetResult> Client::Get(absl::string_view key, const GetOptions& options, absl::Time deadline) {
  pb::RangeRequest request;
  SetRange(cluster_->options(), key, options.prefix, &request);
  request.set_revision(options.revision);
  request.set_limit(options.limit);
  request.set_serializable(options.serializable);
  pb::RangeResponse response;
  KVLINK_RETURN_IF_ERROR(cluster_->Call(options.serializable ? CallKind::kSerializable : CallKind::kRead, deadline,
                                        nullptr, Unary(&Endpoint::kv, &pb::KV::Stub::Range, request, &response)));
  return GetResult{Found(cluster_->options(), response), response.more(), response.header().revision()};
}

absl::StatusOr<int64_t> Client::Put(absl::string_view key, absl::string_view value, LeaseId lease,
                                    absl::Time deadline) {
  pb::PutRequest request;
  request.set_key(FullKey(cluster_->options(), key, false));
  request.set_value(std::string(value));
  request.set_lease(lease);
  pb::PutResponse response;
  KVLINK_RETURN_IF_ERROR(cluster_->Call(CallKind::kWrite, deadline, nullptr,
                                        Unary(&Endpoint::kv, &pb::KV::Stub::Put, request, &response)));
  return response.header().revision();
}

absl::StatusOr<DeleteResult> Client::Delete(absl::string_view key, bool prefix, absl::Time deadline) {
  pb::DeleteRangeRequest request;
  SetRange(cluster_->options(), key, prefix, &request);
  pb::DeleteRangeResponse response;
  KVLINK_RETURN_IF_ERROR(cluster_->Call(CallKind::kWrite, deadline, nullptr,
                                        Unary(&Endpoint::kv, &pb::KV::Stub::DeleteRange, request, &response)));
  return DeleteResult{response.deleted(), response.header().revision()};
}

absl::StatusOr<TransactionResult> Client::Commit(const Transaction& transaction, absl::Time deadline) {
  const ClientOptions& options = cluster_->options();
  pb::TxnRequest request;
  for (const Compare& one : transaction.conditions) SetCompare(options, one, request.add_compare());
  for (const Op& op : transaction.then) SetOp(options, op, request.add_success());
  for (const Op& op : transaction.otherwise) SetOp(options, op, request.add_failure());
  const bool writes = Writes(transaction.then) || Writes(transaction.otherwise);
  pb::TxnResponse response;
  KVLINK_RETURN_IF_ERROR(cluster_->Call(writes ? CallKind::kWrite : CallKind::kRead, deadline, nullptr,
                                        Unary(&Endpoint::kv, &pb::KV::Stub::Txn, request, &response)));
  TransactionResult result{response.succeeded(), response.header().revision(), {}};
  for (const pb::ResponseOp& one : response.responses()) {
    result.results.push_back({Found(options, one.response_range()), one.response_delete_range().deleted()});
  }
  return result;
}

absl::StatusOr<Lease> Client::Grant(absl::Duration ttl, absl::Time deadline) {
  pb::LeaseGrantRequest request;
  request.set_ttl(absl::ToInt64Seconds(absl::Ceil(ttl, absl::Seconds(1))));
  pb::LeaseGrantResponse response;
  absl::Time sent;
  const auto grant = Unary(&Endpoint::lease, &pb::Lease::Stub::LeaseGrant, request, &response);
  KVLINK_RETURN_IF_ERROR(
      cluster_->Call(CallKind::kRepeatable, deadline, nullptr,
                     [&](const Endpoint& endpoint, grpc::ClientContext* context, pb::ResponseHeader* header) {
                       sent = SteadyNow();
                       return grant(endpoint, context, header);
                     }));
  const absl::Duration granted = absl::Seconds(response.ttl());
  return Lease{response.id(), granted, sent + granted};
}

absl::Status Client::Revoke(LeaseId lease, absl::Time deadline) {
  pb::LeaseRevokeRequest request;
  request.set_id(lease);
  pb::LeaseRevokeResponse response;
  const absl::Status status =
      cluster_->Call(CallKind::kRepeatable, deadline, nullptr,
                     Unary(&Endpoint::lease, &pb::Lease::Stub::LeaseRevoke, request, &response));
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

std::unique_ptr<KeepAlive> Client::Keep(const Lease& lease, KeepAlive::Lost lost) {
  return std::make_unique<KeepAlive>(cluster_.get(), lease, std::move(lost));
}

std::unique_ptr<Watch> Client::WatchFrom(absl::string_view key, bool prefix, int64_t revision) {
  const ClientOptions& options = cluster_->options();
  return std::make_unique<Watch>(cluster_.get(), FullKey(options, key, prefix), RangeEnd(options, key, prefix),
                                 revision);
}

}  // namespace kvlink::etcd
