// Clients that mean harm, or are broken: the node answers with errors, stays within its bounds, and serves the others.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/descriptor_limit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/envelope.h"
#include "tests/store/node/one_node.h"
#include "tests/store/node/raw_client.h"
#include "tests/support/resident_bytes.h"
#include "tests/support/seed.h"
#include "tests/support/stuck_io.h"
#include "transport/address.h"

namespace kvlink::testing {
namespace {

constexpr EnvelopeKind kRequestKind{0x524C564B, 1, 0, "request"};

class HostileTest : public ::testing::TestWithParam<Carrier> {
 protected:
  void SetUp() override {
    transport_ = node_.NewClientTransport();
    control_ = std::make_unique<RawControl>(node_->addresses().control);
    ASSERT_TRUE(control_->Open().ok());
    ASSERT_TRUE(Client()->Push("a", encoding_).ok());
  }
  std::unique_ptr<RawData> Client() {
    auto data = std::make_unique<RawData>(transport_.get(), node_.data_address(), control_->token());
    EXPECT_TRUE(data->Hello(control_->token()).ok());
    return data;
  }
  // Somebody else is served all the same.
  void ExpectServes() {
    const auto pulled = Client()->Pull("a", encoding_.manifest);
    ASSERT_TRUE(pulled.ok()) << pulled.status();
    EXPECT_TRUE(
        pulled->manifest
            .VerifyLayer(0, {reinterpret_cast<const std::byte*>(pulled->pieces[0].data()), pulled->pieces[0].size()})
            .ok());
  }
  void ExpectNothingIsLeft() {
    const absl::Time limit = Patience();
    while (!node_->idle() && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(20));
    EXPECT_TRUE(node_->idle());
  }

  TestNode node_{GetParam()};
  const Synthetic encoding_ = MakeSynthetic(1);
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<RawControl> control_;
};

INSTANTIATE_TEST_SUITE_P(Carriers, HostileTest, ::testing::Values(Carrier::kLoopback, Carrier::kUcx, Carrier::kGrpc),
                         [](const auto& info) { return CarrierName(info.param); });

// Requests of every kind with bits flipped, fields of nonsense and random bytes, some under a sound envelope.
TEST_P(HostileTest, RandomRequests) {
  std::mt19937_64 random(TestSeed());
  const auto bytes = [&](size_t most) {
    std::string text(random() % (most + 1), '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
  };
  const auto number = [&]() -> uint64_t {
    switch (random() % 4) {
      case 0:
        return random() % 4;
      case 1:
        return std::numeric_limits<uint64_t>::max() - random() % 3;
      case 2:
        return uint64_t{1} << (random() % 64);
      default:
        return random();
    }
  };
  const auto identity = [&] {
    return random() % 2 == 0 ? std::string(BytesOf(encoding_.manifest.identity)) : bytes(40);
  };
  std::unique_ptr<RawData> data;
  for (int i = 0; i < (Soak() ? 20000 : 500); ++i) {
    if (data == nullptr || data->inbox()->closed()) data = Client();
    proto::Request request;
    request.set_id(random() % 3 == 0 ? random() % 8 : 100 + i);
    request.set_ns(random() % 4 == 0 ? bytes(300) : "a");
    request.set_remaining_ms(static_cast<uint32_t>(random() % 50 + 1));
    if (random() % 8 == 0) request.set_incarnation(random());
    if (random() % 8 == 0) request.set_placement(random());
    switch (random() % 9) {
      case 0:
        request.mutable_hello()->set_token(random() % 2 == 0 ? bytes(20) : control_->token());
        break;
      case 1:
        request.mutable_lookup()->set_codec(static_cast<uint32_t>(random() % 6));
        request.mutable_lookup()->set_identities(bytes(2000));
        break;
      case 2: {
        proto::Pull* const pull = request.mutable_pull();
        pull->mutable_name()->set_identity(identity());
        pull->mutable_name()->set_codec(static_cast<uint32_t>(random() % 3));
        pull->mutable_name()->set_etag(random() % 4 == 0 ? bytes(20) : std::string(BytesOf(encoding_.manifest.etag)));
        pull->set_first_payload(number());
        pull->set_payloads(static_cast<uint32_t>(number()));
        if (random() % 2 == 0) pull->mutable_part()->set_layers(static_cast<uint32_t>(number()));
        if (random() % 2 == 0) pull->mutable_part()->set_heads(static_cast<uint32_t>(number()));
        if (random() % 2 == 0) pull->mutable_part()->set_tokens(static_cast<int64_t>(number()));
        break;
      }
      case 3:
        request.mutable_push_begin()->set_identity(identity());
        request.mutable_push_begin()->set_codec(static_cast<uint32_t>(random() % 3));
        for (uint64_t l = random() % 5; l > 0; --l) {
          request.mutable_push_begin()->add_lengths(random() % 2 == 0 ? static_cast<int64_t>(random() % 8) * 4096
                                                                      : static_cast<int64_t>(number()));
        }
        break;
      case 4:
        request.mutable_push_commit()->set_manifest(bytes(1000));
        request.mutable_push_commit()->set_more(random() % 2 == 0);
        break;
      case 5:
        request.mutable_action()->set_action(
            static_cast<proto::EncodingAction::Action>(random() % 8 == 5 ? 1 : random() % 8));
        request.mutable_action()->set_codec(static_cast<uint32_t>(random() % 3));
        request.mutable_action()->set_identities(std::string(32 * (random() % 3), 'x') +
                                                 (random() % 8 == 0 ? "y" : ""));
        break;
      case 6:
        request.mutable_release()->add_leases(number());
        break;
      case 7:
        request.mutable_cancel()->set_request(random() % 8);
        break;
      default:
        request.mutable_lease()->mutable_name()->set_identity(identity());
        break;
    }
    // The others' encoding stays.
    if (request.action().action() == proto::EncodingAction::REMOVE) request.clear_action();
    std::string message = SerializeRequest(request);
    if (random() % 6 == 0) message[random() % message.size()] ^= static_cast<char>(1 << (random() % 8));
    if (random() % 12 == 0) message = WrapEnvelope(kRequestKind, bytes(200));
    if (random() % 12 == 0) message = bytes(200) + "x";
    (void)data->SendBytes({message.data(), message.size()});
  }
  data = nullptr;
  ExpectServes();
  ExpectNothingIsLeft();
}

// Calls of the control service whose messages are random bytes, or hold lists that are too long.
TEST_P(HostileTest, RandomCalls) {
  std::mt19937_64 random(TestSeed());
  grpc::GenericStub stub(grpc::CreateChannel(node_->addresses().control, grpc::InsecureChannelCredentials()));
  const std::vector<std::string> methods = {"OpenSession",     "RenewSession",  "PutDocuments", "GetDocuments",
                                            "DeleteDocuments", "ListDocuments", "PutNamespace", "ListNamespaces",
                                            "Stats",           "ListEncodings", "DropDramTier", "NoSuchMethod"};
  for (int i = 0; i < (Soak() ? 5000 : 120); ++i) {
    std::string bytes(random() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 4 == 0 ? random() : random() % 32);
    if (random() % 20 == 0) bytes = std::string(3 << 20, '\x0a');
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    const auto context = control_->Context();
    Mutex mutex;
    CondVar ended;
    bool done = false;
    stub.UnaryCall(context.get(), "/kvlink.store.v1.Store/" + methods[random() % methods.size()], grpc::StubOptions(),
                   &request, &response, [&](const grpc::Status&) {
                     MutexLock lock(&mutex);
                     done = true;
                     ended.SignalAll();
                   });
    MutexLock lock(&mutex);
    while (!done) ended.Wait(&mutex);
  }
  ExpectServes();
}

TEST_P(HostileTest, AbsurdPushes) {
  const auto data = Client();
  const auto begin = [&](const std::vector<int64_t>& lengths, char name) {
    proto::Request request;
    request.set_ns("a");
    request.mutable_push_begin()->set_identity(std::string(32, name));
    request.mutable_push_begin()->set_codec(1);
    for (const int64_t length : lengths) request.mutable_push_begin()->add_lengths(length);
    return data->Ask(request).status().code();
  };
  // More than the tier, in one slab and in many.
  EXPECT_NE(begin({int64_t{1} << 30}, 'p'), absl::StatusCode::kOk);
  EXPECT_NE(begin(std::vector<int64_t>(1024, int64_t{1} << 30), 'q'), absl::StatusCode::kOk);
  // As much as the tier holds, again and again, and none of it is sent: refused when it is full.
  absl::StatusCode code = absl::StatusCode::kOk;
  for (int i = 0; i < 32 && code == absl::StatusCode::kOk; ++i) {
    code = begin({int64_t{16} << 20}, static_cast<char>(i));
  }
  EXPECT_EQ(code, absl::StatusCode::kResourceExhausted);
  // A payload larger than was announced ends the connection, before it is written.
  const auto other = Client();
  const Synthetic small = MakeSynthetic(7);
  const auto unannounced = *transport_->Allocate(1 << 20);
  Completion sent;
  other->connection()->Send(12345, {unannounced, 0, 1 << 20}, SteadyNow() + absl::Milliseconds(200), sent.ForSend());
  EXPECT_EQ(sent.Wait().code(), absl::StatusCode::kDeadlineExceeded);
  data->connection()->Close();
  ExpectNothingIsLeft();
  EXPECT_TRUE(other->Push("a", small).ok());
  ExpectServes();
}

TEST_P(HostileTest, ManifestsOfPushesAreBounded) {
  const auto data = Client();
  const uint64_t id = data->Send(RawData::PushBegin("a", MakeSynthetic(2)));
  ASSERT_TRUE(data->Next(id)->has_push_ready());
  proto::Request piece;
  piece.set_id(id);
  piece.set_ns("a");
  piece.mutable_push_commit()->set_manifest(std::string(kManifestPiece, 'm'));
  piece.mutable_push_commit()->set_more(true);
  for (int64_t sent = 0; sent <= kMaxManifest; sent += kManifestPiece) data->Send(piece);
  EXPECT_EQ(StatusOf(*data->Next(id)).code(), absl::StatusCode::kInvalidArgument);
  ExpectNothingIsLeft();
}

TEST_P(HostileTest, AThousandSessions) {
  const int count = 1000;
  const int64_t before = ResidentBytes();
  std::vector<std::unique_ptr<RawControl>> controls;
  std::vector<std::unique_ptr<RawData>> connections;
  for (int i = 0; i < count; ++i) {
    if (i % 100 == 0) controls.push_back(std::make_unique<RawControl>(node_->addresses().control));
    RawControl& control = *controls.back();
    control.set_token("");
    ASSERT_TRUE(control.Open().ok());
    connections.push_back(std::make_unique<RawData>(transport_.get(), node_.data_address(), control.token()));
    ASSERT_TRUE(connections.back()->Hello(control.token()).ok());
  }
  const int64_t after = ResidentBytes();
  std::printf("%d sessions with a connection each: %.1f KiB each, both ends\n", count,
              static_cast<double>(after - before) / 1024 / count);
  for (const auto& connection : connections) {
    EXPECT_NE((*connection->Lookup("a", {encoding_.manifest.identity}))[0].tier, 0);
  }
  ExpectServes();
}

// A reader that asks and makes no room holds nothing until its deadline.
TEST_P(HostileTest, APullThatNobodyMakesRoomForEnds) {
  if (GetParam() == Carrier::kLoopback) GTEST_SKIP() << "a transport of the test's own, without the node's limits";
  const auto data = Client();
  proto::Request pull = RawData::PullOf("a", encoding_.manifest, data->TakePayloadIds(2), 2);
  pull.set_remaining_ms(600000);
  const uint64_t id = data->Send(std::move(pull));
  auto answer = data->Next(id);
  ASSERT_TRUE(answer.ok() && answer->has_pull_started());
  answer = data->Next(id);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(StatusOf(*answer).code(), absl::StatusCode::kDeadlineExceeded);
  ExpectNothingIsLeft();
}

// Connections that do not say whose they are go for those who come after them.
TEST_P(HostileTest, NobodiesOnTheDataPath) {
  const int64_t room = RaiseDescriptorLimit() / 8 - 500;  // both ends are this process
  const int count = static_cast<int>(std::min<int64_t>(Soak() ? 10000 : 400, room));
  const auto before = Client();
  const int64_t resident = ResidentBytes();
  std::vector<std::unique_ptr<RawData>> crowd;
  absl::Duration slowest;
  for (int i = 0; i < count; ++i) {
    crowd.push_back(std::make_unique<RawData>(transport_.get(), node_.data_address(), control_->token()));
    if (i % 50 != 0) continue;
    const absl::Time begun = SteadyNow();
    EXPECT_TRUE(before->Lookup("a", {encoding_.manifest.identity}).ok());
    ExpectServes();
    slowest = std::max(slowest, SteadyNow() - begun);
  }
  std::printf("%d connections of nobody: the slowest lookup, connection and pull %lld ms; %lld KiB, both ends\n", count,
              static_cast<long long>(absl::ToInt64Milliseconds(slowest)),
              static_cast<long long>((ResidentBytes() - resident) >> 10));
  RawControl other(node_->addresses().control);
  EXPECT_TRUE(other.Open().ok());
}

TEST_P(HostileTest, IdleConnectionsToTheControlService) {
  // As many as the limit on open files lets this process have at both ends.
  const int64_t room = RaiseDescriptorLimit() / 2 - 500;
  const int count = static_cast<int>(std::min<int64_t>(Soak() ? 10000 : 500, room));
  const auto address = transport::Resolve(*transport::ParseAddress(node_->addresses().control));
  ASSERT_TRUE(address.ok());
  const int64_t before = ResidentBytes();
  std::vector<int> sockets;
  for (int i = 0; i < count; ++i) {
    const int socket_ = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_GE(socket_, 0);
    ASSERT_EQ(connect(socket_, address->get(), address->length), 0) << i;
    // Half of them begin to speak HTTP/2, some speak nonsense.
    if (i % 2 == 0) {
      const std::string hello("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
      (void)!write(socket_, hello.data(), hello.size());
    } else if (i % 7 == 0) {
      (void)!write(socket_, "GET / HTTP/1.1\r\n\r\n", 18);
    }
    sockets.push_back(socket_);
  }
  RawControl other(node_->addresses().control);
  EXPECT_TRUE(other.Open().ok());
  EXPECT_TRUE(other.Stats().ok());
  ExpectServes();
  std::printf("%d idle connections to the control service: %.1f KiB each\n", count,
              static_cast<double>(ResidentBytes() - before) / 1024 / count);
  for (const int socket_ : sockets) close(socket_);
}

// What waits, waits for its owner: a key and a namespace.
class OwnersTest : public OneNodeTest {
 protected:
  void TearDown() override {
    disk_.LetGo();
    transport_ = nullptr;
    node_ = nullptr;
  }
  StuckIo disk_;
};

TEST_F(OwnersTest, ARequestWaitsForNoQueueOfAnotherOwner) {
  StartNode([&](store::node::NodeOptions* options) {
    options->engine.observer = &disk_;
    options->limits.indexing_threads = 1;
  });
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(Connect()->Push("a", encoding).ok());
  // Another start has nothing in memory: the first prefetch reads.
  node_->Start();
  transport_ = node_->NewClientTransport();
  control_ = std::make_unique<RawControl>((*node_)->addresses().control);
  const auto data = Connect();
  const auto prefetch = [&](const std::string& ns) {
    proto::Request request;
    request.set_ns(ns);
    request.mutable_action()->set_action(proto::EncodingAction::PREFETCH);
    request.mutable_action()->set_codec(static_cast<uint32_t>(Codec::kRawBf16));
    request.mutable_action()->set_identities(std::string(BytesOf(encoding.manifest.identity)));
    return data->Send(std::move(request));
  };
  disk_.Hang();
  for (int i = 0; i < 8; ++i) prefetch("a");
  const uint64_t other = prefetch("b");
  // This needs no turn: with its answer, all of them wait.
  ASSERT_TRUE(data->Lookup("a", {encoding.manifest.identity}).ok());
  disk_.LetGo();
  int before = 0;
  for (;; ++before) {
    const auto answer = data->NextOfAny();
    ASSERT_TRUE(answer.ok()) << answer.status();
    if (answer->id() == other) break;
  }
  EXPECT_LE(before, 1) << "of the 8 that another owner sent first";
}

TEST_F(OwnersTest, AWriterThatSendsNothingHoldsUpNoOtherOwner) {
  StartNode([](store::node::NodeOptions* options) {
    options->limits.push_bytes_beside_pulls = 1;
    options->limits.push_yields = absl::Hours(1);
    options->limits.push_progress = absl::Hours(1);
  });
  const auto stuck = Connect(), other = Connect();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(stuck->Push("a", encoding).ok());
  ASSERT_TRUE(stuck->Pull("a", encoding.manifest).ok());  // for an hour, pushes give way
  ASSERT_TRUE(stuck->Ask(RawData::PushBegin("a", MakeSynthetic(2))).ok());
  const auto pushed = other->Push("b", MakeSynthetic(3));
  EXPECT_TRUE(pushed.ok()) << pushed.status();
}

}  // namespace
}  // namespace kvlink::testing
