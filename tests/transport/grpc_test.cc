// Behaviour particular to gRPC: peers that speak the protocol wrongly over it, that do not read, that come in crowds,
// and a service on another's server.
#include "transport/grpc/grpc.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/support/sync_stream.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/support/resident_bytes.h"
#include "tests/support/seed.h"
#include "tests/transport/peers.h"
#include "transport/frame.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

constexpr char kFrame = 0, kPayload = 1, kPiece = 2;  // as docs/formats.md says

// A call whose user writes every message by hand.
class RawPeer {
 public:
  explicit RawPeer(const std::string& address)
      : channel_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        stream_(grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
            channel_.get(),
            grpc::internal::RpcMethod("/kvlink.store.v1.Data/Connect", grpc::internal::RpcMethod::BIDI_STREAMING),
            &context_)) {}
  ~RawPeer() {
    context_.TryCancel();
    stream_->Finish();
  }
  // False: the call is over.
  bool Message(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    return stream_->Write(grpc::ByteBuffer(&slice, 1));
  }
  bool Frame(FrameKind kind, const std::string& body) {
    return Message(std::string(1, kFrame) + FrameHeader(kind, sequence_++, token_, body.size()) + body);
  }
  // The frame of a payload behind its mark.
  std::string Payload(uint64_t id, uint64_t said) const {
    const std::string body = GrantBody({{id, said}});
    return std::string(1, kPayload) + FrameHeader(FrameKind::kPayload, 0, token_, body.size()) + body;
  }
  void Hello() {
    Frame(FrameKind::kHello, HelloBody({42, 2000}));
    const std::string answer = Read();
    const auto frame = ParseFrame(absl::string_view(answer).substr(std::min<size_t>(1, answer.size())));
    ASSERT_TRUE(frame.ok()) << frame.status();
    token_ = ParseHello(frame->body).token;
  }
  // The next message; empty at the end.
  std::string Read() {
    grpc::ByteBuffer buffer;
    grpc::Slice slice;
    if (!stream_->Read(&buffer) || !buffer.DumpToSingleSlice(&slice).ok()) return "";
    return std::string(slice.begin(), slice.end());
  }
  void ReadToTheEnd() {
    while (!Read().empty()) {
    }
  }

 private:
  grpc::ClientContext context_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream_;
  uint32_t sequence_ = 0;
  uint64_t token_ = 0;
};

class GrpcTest : public ::testing::Test {
 protected:
  static constexpr int64_t kTarget = 64 << 10;

  GrpcTest() : honest_(Carrier::kGrpc) {
    target_ = *honest_.server_transport->Allocate(kTarget);
    Fill({target_, 0, kTarget}, 5);
  }
  // A raw peer that said hello, and a posted receive for its payload 1.
  void Meet(int64_t bytes = 4096) {
    raw_ = std::make_unique<RawPeer>(honest_.server->address());
    raw_->Hello();
    Server::Accepted taken = honest_.server->Next();
    connection_ = std::move(taken.connection);
    inbox_ = std::move(taken.inbox);
    ASSERT_NE(connection_, nullptr);
    received_ = Completion();
    connection_->PostReceive(1, {target_, 0, bytes}, Patience(), received_.ForReceive());
    raw_->Read();  // the grant
  }
  void ExpectClosedFor(const std::string& reason) {
    EXPECT_EQ(inbox_->Closed().code(), absl::StatusCode::kInvalidArgument) << reason;
    EXPECT_TRUE(absl::IsUnavailable(received_.Wait())) << received_.Wait();
    EXPECT_EQ(honest_.server_transport->Stats().closes[reason], 1) << inbox_->Closed();
    raw_->ReadToTheEnd();
    ExpectServed();
  }
  void ExpectServed() {
    EXPECT_TRUE(honest_.client->SendMessage("honest").ok());
    EXPECT_EQ(honest_.server_inbox->Next(), "honest");
  }
  void ExpectUnharmed() { EXPECT_TRUE(Check({target_, 0, kTarget}, 5)); }

  Peers honest_;
  std::shared_ptr<RegisteredBuffer> target_;
  std::unique_ptr<RawPeer> raw_;
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Inbox> inbox_;
  Completion received_;
};

TEST_F(GrpcTest, PayloadsInPieces) {
  Meet();
  raw_->Message(raw_->Payload(1, 300) + std::string(100, 'a'));
  raw_->Frame(FrameKind::kMessage, "between");
  raw_->Message(std::string(1, kPiece) + std::string(199, 'b'));
  EXPECT_EQ(inbox_->Next(), "between");
  EXPECT_FALSE(received_.done());
  raw_->Message(std::string(1, kPiece) + "c");
  ASSERT_TRUE(received_.Wait().ok()) << received_.Wait();
  EXPECT_EQ(received_.bytes(), 300);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(target_->data()), 300),
            std::string(100, 'a') + std::string(199, 'b') + "c");
}

TEST_F(GrpcTest, PayloadsThatCannotBe) {
  const std::string piece(1, kPiece);
  const struct {
    uint64_t id, said;
    size_t bytes;
    const char* reason;
  } payloads[] = {{2, 100, 100, "payload-unreserved"},      {1, 4097, 4097, "payload-oversized"},
                  {1, 100, 101, "payload-malformed"},       {1, 0, 0, "payload-malformed"},
                  {1, UINT64_MAX, 10, "payload-malformed"}, {1, 100, 0, "payload-malformed"}};
  std::map<std::string, int> expected;
  for (const auto& payload : payloads) {
    SCOPED_TRACE(absl::StrCat(payload.id, " ", payload.said, " ", payload.bytes));
    Meet();
    raw_->Message(raw_->Payload(payload.id, payload.said) + std::string(payload.bytes, 'h'));
    EXPECT_EQ(inbox_->Closed().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(received_.Wait().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(honest_.server_transport->Stats().closes[payload.reason], ++expected[payload.reason]);
    ExpectUnharmed();
    ExpectServed();
  }
}

TEST_F(GrpcTest, PieceOfNothing) {
  Meet();
  raw_->Message(std::string(1, kPiece) + "x");
  ExpectClosedFor("payload-malformed");
  ExpectUnharmed();
}
TEST_F(GrpcTest, PiecesLongerThanThePayload) {
  Meet();
  raw_->Message(raw_->Payload(1, 4096) + std::string(4000, 'h'));
  raw_->Message(std::string(1, kPiece) + std::string(97, 'h'));
  ExpectClosedFor("payload-malformed");
  // The receive was begun, and nothing is written beyond it.
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(target_->data()), 4000), std::string(4000, 'h'));
  Fill({target_, 0, 4000}, 5);
  ExpectUnharmed();
}
TEST_F(GrpcTest, PayloadWithinAPayload) {
  Meet();
  raw_->Message(raw_->Payload(1, 4096) + "h");
  raw_->Message(raw_->Payload(1, 4096) + "h");
  ExpectClosedFor("payload-malformed");
}
TEST_F(GrpcTest, PayloadFrameWithoutPayload) {
  Meet();
  raw_->Frame(FrameKind::kPayload, GrantBody({{1, 100}}));
  ExpectClosedFor("frame-malformed");
}
TEST_F(GrpcTest, PayloadForAnotherConnection) {
  Meet();
  const std::string body = GrantBody({{1, 10}});
  raw_->Message(std::string(1, kPayload) + FrameHeader(FrameKind::kPayload, 0, 4711, body.size()) + body +
                "0123456789");
  ExpectClosedFor("frame-token");
  ExpectUnharmed();
}
TEST_F(GrpcTest, MessagesThatAreNothing) {
  int malformed = 0;
  for (const std::string& message : {std::string(), std::string(1, 3), std::string(1, kFrame), std::string("\x01", 1),
                                     std::string(3 << 20, kFrame), std::string(3 << 20, kPayload)}) {
    Meet();
    raw_->Message(message);
    EXPECT_EQ(inbox_->Closed().code(), absl::StatusCode::kInvalidArgument) << message.size();
    EXPECT_EQ(honest_.server_transport->Stats().closes["frame-malformed"], ++malformed);
    ExpectUnharmed();
    ExpectServed();
  }
  // More than gRPC takes.
  Meet();
  raw_->Message(std::string(8 << 20, kFrame));
  EXPECT_FALSE(inbox_->Closed().ok());
  ExpectServed();
}

// A posted receive that was given up while its payload came: the rest of it is dropped, and the connection goes on.
TEST_F(GrpcTest, TheRestOfAWithdrawnPayloadIsDropped) {
  Meet();
  connection_->CancelReceive(1);
  EXPECT_EQ(received_.Wait().code(), absl::StatusCode::kCancelled);
  raw_->Message(raw_->Payload(1, 300) + std::string(100, 'a'));
  raw_->Message(std::string(1, kPiece) + std::string(200, 'b'));
  raw_->Frame(FrameKind::kMessage, "alive");
  EXPECT_EQ(inbox_->Next(), "alive");
  ExpectUnharmed();
  EXPECT_EQ(honest_.server_transport->Stats().payloads_late, 1);
}

TEST_F(GrpcTest, Garbage) {
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < (Soak() ? 5000 : 60); ++i) {
    Meet();
    for (int j = 0; j < 4; ++j) {
      std::string message = random() % 2 == 0
                                ? raw_->Payload(random() % 3, random() % 5000)
                                : std::string(1, static_cast<char>(random() % 4)) +
                                      FrameHeader(static_cast<FrameKind>(random() % 8), 1, 0, random() % 9);
      message.resize(random() % 100, static_cast<char>(random()));
      if (!message.empty() && random() % 3 == 0)
        message[random() % message.size()] ^= static_cast<char>(1 + random() % 255);
      if (!raw_->Message(message)) break;
    }
    connection_ = nullptr;
  }
  ExpectServed();
}

// A peer that reads nothing: messages are refused in the end, and payloads stay where they are.
TEST_F(GrpcTest, ASlowReaderDoesNotGrowMemory) {
  raw_ = std::make_unique<RawPeer>(honest_.server->address());
  raw_->Hello();
  Server::Accepted taken = honest_.server->Next();
  constexpr int64_t kSlab = 4 << 20, kSlabs = 64;
  auto source = *honest_.server_transport->Allocate(kSlab * kSlabs);
  const int64_t before = ResidentBytes();
  std::vector<Completion> sent(kSlabs);
  std::vector<Grant> grants;
  for (uint64_t i = 0; i < kSlabs; ++i) grants.push_back({i, kSlab});
  raw_->Frame(FrameKind::kGrant, GrantBody(grants));
  for (int64_t i = 0; i < kSlabs; ++i) {
    taken.connection->Send(uint64_t(i), {source, i * kSlab, kSlab}, SteadyNow() + absl::Seconds(2), sent[i].ForSend());
  }
  int messages = 0;
  for (int refused = 0; refused < 20; ++refused) {
    for (; taken.connection->SendMessage(std::string(kMaxMessageBytes, 'm')).ok(); ++messages) refused = 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_LE(messages, 2 * kMaxQueuedMessageBytes / kMaxMessageBytes);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LE(ResidentBytes() - before, int64_t{96} << 20);
#endif
  ExpectServed();
  int late = 0;
  for (const Completion& completion : sent) late += !completion.Wait().ok();
  EXPECT_GT(late, 0);
  raw_ = nullptr;
  EXPECT_FALSE(taken.inbox->Closed().ok());
  while (honest_.server_transport->Stats().quarantined_bytes > 0) absl::SleepFor(absl::Milliseconds(1));
}

// A peer that says too much is held back: what was read of it is bounded, and the others are served.
TEST_F(GrpcTest, AFloodLeavesOthersTheirTurn) {
  Meet();
  std::atomic<bool> stop{false};
  std::thread flood([&] {
    while (!stop && raw_->Frame(FrameKind::kHeartbeat, "")) {
    }
  });
  for (int i = 0; i < 50; ++i) ExpectServed();
  stop = true;
  flood.join();
  EXPECT_FALSE(inbox_->closed());
}

TEST_F(GrpcTest, ManyConnections) {
  const int count = Soak() ? 1000 : 50;
  const int64_t before = ResidentBytes();
  std::vector<std::shared_ptr<Connection>> clients;
  std::vector<std::shared_ptr<Inbox>> inboxes;
  std::vector<Server::Accepted> accepted;
  for (int i = 0; i < count; ++i) {
    inboxes.push_back(std::make_shared<Inbox>());
    auto connected = honest_.client_transport->Connect(honest_.server->address(), inboxes.back(), Patience());
    ASSERT_TRUE(connected.ok()) << i << connected.status();
    clients.push_back(*connected);
    accepted.push_back(honest_.server->Next());
  }
  for (int i = 0; i < count; ++i) ASSERT_TRUE(clients[i]->SendMessage(absl::StrCat("request ", i)).ok());
  for (int i = 0; i < count; ++i) ASSERT_EQ(accepted[i].inbox->Next(), absl::StrCat("request ", i));
  std::printf("%lld KiB for each connection, both ends\n",
              static_cast<long long>((ResidentBytes() - before) / count >> 10));
  clients.clear();
  for (int i = 0; i < count; ++i) ASSERT_EQ(accepted[i].inbox->Closed().code(), absl::StatusCode::kUnavailable);
}

// As a node does it: one server for all services.
TEST(GrpcService, OnAServerOfSomebodyElses) {
  auto transport = *NewGrpcTransport({});
  auto client_transport = *NewGrpcTransport({});
  Mutex mutex;
  std::vector<std::shared_ptr<Connection>> accepted;
  const auto inbox = std::make_shared<Inbox>();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  const auto accept = [&](std::shared_ptr<Connection> connection) {
    MutexLock lock(&mutex);
    accepted.push_back(std::move(connection));
    return inbox;
  };
  const std::string known("frie\0nd", 7);
  auto listener = transport->Register(&builder, accept, [&](absl::string_view caller) {
    return caller == known ? absl::OkStatus() : absl::UnauthenticatedError("nobody knows you");
  });
  auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const std::string address = absl::StrCat("127.0.0.1:", port);
  const auto events = std::make_shared<Inbox>();
  for (const absl::string_view nobody : {"", "friend"}) {
    const auto refused = client_transport->ConnectAs(nobody, address, std::make_shared<Inbox>(), Patience());
    EXPECT_TRUE(absl::IsUnauthenticated(refused.status())) << refused.status();
  }
  EXPECT_EQ(transport->Stats().closes["stranger"], 2);
  auto client = client_transport->ConnectAs(known, address, events, Patience());
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE((*client)->SendMessage("hello").ok());
  EXPECT_EQ(inbox->Next(), "hello");
  listener = nullptr;
  EXPECT_EQ(client_transport->ConnectAs(known, address, std::make_shared<Inbox>(), Patience()).status().code(),
            absl::StatusCode::kUnavailable);
  ASSERT_TRUE((*client)->SendMessage("still").ok());
  EXPECT_EQ(inbox->Next(), "still");
  server->Shutdown(std::chrono::system_clock::now());
  EXPECT_FALSE(events->Closed().ok());
  EXPECT_FALSE(inbox->Closed().ok());
  server = nullptr;
  accepted.clear();
}

}  // namespace
}  // namespace kvlink::transport
