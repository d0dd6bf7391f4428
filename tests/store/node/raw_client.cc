#include "tests/store/node/raw_client.h"

#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "base/clock.h"
#include "base/status.h"
#include "gtest/gtest.h"
#include "proto/metadata.h"
#include "proto/part.h"
#include "transport/grpc/status.h"
#include "transport/ucx/ucx.h"

namespace kvlink::testing {

std::string Field(int number, absl::string_view bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  size_t length = bytes.size();
  for (; length >= 0x80; length >>= 7) out.push_back(static_cast<char>(length | 0x80));
  out.push_back(static_cast<char>(length));
  out.append(bytes.data(), bytes.size());
  return out;
}

store::node::LogSink LogLines::Sink() {
  return [state = state_](absl::string_view line) {
    MutexLock lock(&state->mutex);
    state->lines.emplace_back(line);
  };
}

std::vector<std::string> LogLines::lines() const {
  MutexLock lock(&state_->mutex);
  return state_->lines;
}

int LogLines::Count(absl::string_view text) const {
  int count = 0;
  for (const std::string& line : lines()) count += absl::StrContains(line, text) ? 1 : 0;
  return count;
}

void WriteAccessFile(const std::string& path, const std::string& lines) {
  std::ofstream(path) << lines;
  EXPECT_EQ(chmod(path.c_str(), 0600), 0);
}

TestNode::TestNode(Carrier carrier, const Change& change) : carrier_(carrier), change_(change) { Start(); }
TestNode::~TestNode() = default;

void TestNode::Start() {
  node_ = nullptr;
  store::node::NodeOptions options;
  options.directory = directory_.path() + "/store";
  options.engine.dram_bytes = int64_t{64} << 20;
  options.engine.capacity_bytes = int64_t{256} << 20;
  options.engine.segment_bytes = int64_t{32} << 20;
  options.log = log.Sink();
  options.version = "test";
  if (carrier_ == Carrier::kUcx) {
    setenv("UCX_NET_DEVICES", "lo", 0);
    options.data_address = "127.0.0.1:0";
  } else if (carrier_ == Carrier::kLoopback) {
    auto made = transport::NewLoopbackTransport(network_, {});
    options.carriers.push_back({"loopback", *std::move(made), "127.0.0.1:0"});
  }
  if (change_) change_(&options);
  auto node = store::node::Node::Start(std::move(options));
  if (!node.ok()) {
    std::fprintf(stderr, "the node does not start: %s\n", node.status().ToString().c_str());
    std::abort();
  }
  node_ = *std::move(node);
}

std::string TestNode::data_address() const {
  const std::string scheme = CarrierName(carrier_) + "://";
  for (const std::string& address : node_->addresses().data) {
    if (absl::StartsWith(address, scheme)) return address.substr(scheme.size());
  }
  ADD_FAILURE() << "the node does not listen over " << scheme;
  return "";
}

std::unique_ptr<transport::Transport> TestNode::NewClientTransport() const {
  if (carrier_ != Carrier::kLoopback) return NewTransport(carrier_);
  auto made = transport::NewLoopbackTransport(network_, {});
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

RawControl::RawControl(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  stub_ = store::v1::Store::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

absl::StatusOr<store::v1::Session> RawControl::Open(const std::string& key, const std::string& client) {
  store::v1::OpenSessionRequest request;
  request.set_protocol_min(kProtocols.min);
  request.set_protocol_max(kProtocols.max);
  request.set_client(client);
  store::v1::Session session;
  const auto context = Context();
  if (!key.empty()) context->AddMetadata(kKeyMetadata, key);
  KVLINK_RETURN_IF_ERROR(transport::FromGrpc(stub_->OpenSession(context.get(), request, &session)));
  token_ = session.token();
  return session;
}

std::unique_ptr<grpc::ClientContext> RawControl::Context() const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(ToSystemClock(Patience()));
  context->set_wait_for_ready(true);
  if (!token_.empty()) {
    context->AddMetadata(kTokenMetadata, absl::BytesToHexString({token_.data(), token_.size()}));
  }
  return context;
}

absl::StatusOr<store::v1::StatsResponse> RawControl::Stats() const {
  store::v1::StatsResponse response;
  const auto context = Context();
  KVLINK_RETURN_IF_ERROR(transport::FromGrpc(stub_->Stats(context.get(), {}, &response)));
  return response;
}

absl::Status StatusOf(const proto::Answer& answer) {
  return absl::Status(static_cast<absl::StatusCode>(answer.code()), {answer.message().data(), answer.message().size()});
}

RawData::RawData(transport::Transport* transport, const std::string& address, const std::string& token)
    : transport_(transport) {
  auto connected =
      transport->ConnectAs({token.data(), token.size()}, {address.data(), address.size()}, inbox_, Patience());
  EXPECT_TRUE(connected.ok()) << connected.status();
  connection_ = *std::move(connected);
}

RawData::~RawData() { connection_->Close(); }

uint64_t RawData::TakePayloadIds(uint64_t count) {
  const uint64_t first = last_payload_ + 1;
  last_payload_ += count;
  return first;
}

uint64_t RawData::Send(proto::Request request) {
  if (request.id() == 0) request.set_id(++last_id_);
  if (request.remaining_ms() == 0) request.set_remaining_ms(60000);
  const std::string bytes = SerializeRequest(request);
  const absl::Time limit = SteadyNow() + absl::Seconds(60);
  absl::Status sent = SendBytes({bytes.data(), bytes.size()});
  while (absl::IsResourceExhausted(sent) && SteadyNow() < limit) {  // the network has not taken the last ones yet
    absl::SleepFor(absl::Milliseconds(1));
    sent = SendBytes({bytes.data(), bytes.size()});
  }
  EXPECT_TRUE(sent.ok() || absl::IsUnavailable(sent)) << sent;
  return request.id();
}

absl::StatusOr<proto::Answer> RawData::NextOfAny() {
  const auto message = inbox_->Next();
  if (!message.has_value()) return absl::UnavailableError("the connection was closed");
  return ParseAnswer({message->data(), message->size()});
}

absl::StatusOr<proto::Answer> RawData::Next(uint64_t id) {
  if (const auto early = early_.find(id); early != early_.end()) {
    proto::Answer answer = std::move(early->second);
    early_.erase(early);
    return answer;
  }
  while (true) {
    KVLINK_ASSIGN_OR_RETURN(proto::Answer answer, NextOfAny());
    if (answer.id() == id) return answer;
    const uint64_t other = answer.id();
    early_.emplace(other, std::move(answer));
  }
}

absl::StatusOr<proto::Answer> RawData::Ask(proto::Request request) {
  const uint64_t id = Send(std::move(request));
  KVLINK_ASSIGN_OR_RETURN(proto::Answer answer, Next(id));
  KVLINK_RETURN_IF_ERROR(StatusOf(answer));
  return answer;
}

absl::Status RawData::Hello(const std::string& token) {
  proto::Request request;
  request.mutable_hello()->set_token(token);
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, Ask(std::move(request)));
  return answer.has_welcome() ? absl::OkStatus() : absl::InternalError("hello was not answered by welcome");
}

absl::StatusOr<std::vector<FoundRecord>> RawData::Lookup(const std::string& ns, const std::vector<Identity>& identities,
                                                         Codec codec) {
  proto::Request request;
  request.set_ns(ns);
  request.mutable_lookup()->set_codec(static_cast<uint32_t>(codec));
  request.mutable_lookup()->set_identities(PackIdentities(identities));
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, Ask(std::move(request)));
  const std::string& records = answer.found().records();
  EXPECT_EQ(records.size(), identities.size() * kFoundRecordBytes);
  std::vector<FoundRecord> found;
  for (size_t i = 0; i < identities.size(); ++i) {
    found.push_back(FoundRecordAt({records.data(), records.size()}, static_cast<int64_t>(i)));
  }
  return found;
}

absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> RawData::Registered(absl::Span<const std::byte> bytes) {
  KVLINK_ASSIGN_OR_RETURN(auto buffer, transport_->Allocate(static_cast<int64_t>(bytes.size())));
  std::memcpy(buffer->data(), bytes.data(), bytes.size());
  return buffer;
}

proto::Request RawData::PushBegin(const std::string& ns, const Synthetic& encoding) {
  proto::Request request;
  request.set_ns(ns);
  request.mutable_push_begin()->set_identity(std::string(BytesOf(encoding.manifest.identity)));
  request.mutable_push_begin()->set_codec(static_cast<uint32_t>(encoding.manifest.codec));
  for (const LayerManifest& layer : encoding.manifest.layers) request.mutable_push_begin()->add_lengths(layer.length);
  return request;
}

proto::Request RawData::PushCommit(const std::string& ns, uint64_t id, const Manifest& manifest) {
  proto::Request request;
  request.set_id(id);
  request.set_ns(ns);
  request.mutable_push_commit()->set_manifest(SerializeManifest(manifest));
  return request;
}

proto::Request RawData::PullOf(const std::string& ns, const Manifest& manifest, uint64_t first_payload,
                               uint32_t receives) {
  proto::Request request;
  request.set_ns(ns);
  proto::Pull* const pull = request.mutable_pull();
  pull->mutable_name()->set_identity(std::string(BytesOf(manifest.identity)));
  pull->mutable_name()->set_codec(static_cast<uint32_t>(manifest.codec));
  pull->mutable_name()->set_etag(std::string(BytesOf(manifest.etag)));
  pull->set_first_payload(first_payload);
  pull->set_payloads(receives);
  return request;
}

absl::StatusOr<RawData::Pushed> RawData::Push(const std::string& ns, const Synthetic& encoding) {
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer ready, Ask(PushBegin(ns, encoding)));
  return FinishPush(ns, encoding, ready);
}

absl::StatusOr<RawData::Pushed> RawData::FinishPush(const std::string& ns, const Synthetic& encoding,
                                                    const proto::Answer& ready) {
  if (!ready.push_ready().etag().empty()) {
    return Pushed{ToEtag({ready.push_ready().etag().data(), ready.push_ready().etag().size()}), false};
  }
  std::vector<Completion> sent(encoding.slabs.size());
  for (size_t layer = 0; layer < encoding.slabs.size(); ++layer) {
    KVLINK_ASSIGN_OR_RETURN(auto buffer, Registered(absl::MakeConstSpan(encoding.slabs[layer])));
    const int64_t length = static_cast<int64_t>(encoding.slabs[layer].size());
    connection_->Send(ready.push_ready().first_payload() + layer, {buffer, 0, length}, Patience(),
                      sent[layer].ForSend());
  }
  // The commit may overtake the slabs.
  Send(PushCommit(ns, ready.id(), encoding.manifest));
  for (const Completion& slab : sent) KVLINK_RETURN_IF_ERROR(slab.Wait());
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer done, Next(ready.id()));
  KVLINK_RETURN_IF_ERROR(StatusOf(done));
  return Pushed{ToEtag({done.push_done().etag().data(), done.push_done().etag().size()}), done.push_done().written()};
}

absl::StatusOr<RawData::Pulled> RawData::Pull(const std::string& ns, const Manifest& of, const proto::Part& part) {
  const uint32_t receives = 4096;
  const uint64_t first = TakePayloadIds(receives);
  proto::Request request = PullOf(ns, of, first, receives);
  *request.mutable_pull()->mutable_part() = part;
  const uint64_t id = Send(std::move(request));
  Pulled pulled;
  std::string manifest;
  while (true) {
    KVLINK_ASSIGN_OR_RETURN(const proto::Answer started, Next(id));
    KVLINK_RETURN_IF_ERROR(StatusOf(started));
    if (!started.has_pull_started()) return absl::InternalError("a pull was not answered by its manifest");
    manifest += started.pull_started().manifest();
    pulled.tier = started.pull_started().tier();
    if (!started.pull_started().more()) break;
  }
  KVLINK_ASSIGN_OR_RETURN(pulled.manifest, ParseManifest({manifest.data(), manifest.size()}));
  KVLINK_ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PiecesOf(pulled.manifest, part));
  std::vector<Completion> arrived(pieces.size());
  std::vector<std::shared_ptr<transport::RegisteredBuffer>> buffers;
  for (size_t i = 0; i < pieces.size(); ++i) {
    KVLINK_ASSIGN_OR_RETURN(auto buffer, transport_->Allocate(pieces[i].length));
    buffers.push_back(buffer);
    connection_->PostReceive(first + i, {buffer, 0, pieces[i].length}, Patience(), arrived[i].ForReceive());
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    KVLINK_RETURN_IF_ERROR(arrived[i].Wait());
    if (arrived[i].bytes() != pieces[i].length) return absl::InternalError("a piece of another length");
    pulled.pieces.emplace_back(reinterpret_cast<const char*>(buffers[i]->data()),
                               static_cast<size_t>(pieces[i].length));
  }
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer done, Next(id));
  KVLINK_RETURN_IF_ERROR(StatusOf(done));
  if (!done.has_pull_done()) return absl::InternalError("a pull did not end with PullDone");
  return pulled;
}

absl::StatusOr<std::string> RawData::Act(const std::string& ns, proto::EncodingAction::Action act,
                                         const std::vector<Identity>& identities, Codec codec) {
  proto::Request request;
  request.set_ns(ns);
  request.mutable_action()->set_action(act);
  request.mutable_action()->set_codec(static_cast<uint32_t>(codec));
  request.mutable_action()->set_identities(PackIdentities(identities));
  KVLINK_ASSIGN_OR_RETURN(const proto::Answer answer, Ask(std::move(request)));
  return answer.action_done().codes();
}

}  // namespace kvlink::testing
