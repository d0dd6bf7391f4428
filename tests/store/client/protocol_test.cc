// Who is what: nodes of another protocol, and data addresses that lead to another node.
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/data.h"
#include "proto/store.grpc.pb.h"
#include "store/client/data/node_connection.h"
#include "store/client/remote.h"
#include "tests/store/client/silent_connection.h"
#include "tests/store/node/raw_client.h"

namespace kvlink::testing {
namespace {

using store::client::NodeConnection;
using store::client::OpenedSession;
using ::testing::HasSubstr;

std::string Bytes(absl::string_view hex) { return absl::HexStringToBytes(hex); }

// Opens sessions as a node of protocol 1 did.
class Node1 : public store::v1::Store::Service {
 public:
  grpc::Status OpenSession(grpc::ServerContext*, const store::v1::OpenSessionRequest*,
                           store::v1::Session* session) override {
    // token, lifetime, 16 bytes of the start, an address, the build's version.
    const std::string bytes = Bytes(
        "0a1001010101010101010101010101010101"
        "1090bf05"
        "1a1002020202020202020202020202020202"
        "22147563783a2f2f3132372e302e302e313a37303030"
        "3205312e302e30");
    return session->ParseFromString(bytes) ? grpc::Status::OK : grpc::Status(grpc::StatusCode::INTERNAL, "golden");
  }
};

TEST(ProtocolTest, ANodeOfProtocol1IsRefusedWhereItsSessionIsOpened) {
  Node1 service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  store::client::RemoteOptions options;
  options.address = "127.0.0.1:" + std::to_string(port);
  const absl::Status status = store::client::OpenRemote(options).status();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_EQ(status.message(),
            options.address + ": the client speaks protocol 2, and the node protocol 1: upgrade the node");
}

TEST(ProtocolTest, AClientOfProtocol1IsToldToBeUpgraded) {
  TestNode node(Carrier::kLoopback);
  const auto stub =
      store::v1::Store::NewStub(grpc::CreateChannel(node->addresses().control, grpc::InsecureChannelCredentials()));
  store::v1::OpenSessionRequest request;
  ASSERT_TRUE(request.ParseFromString(Bytes("1208696e676573742f31")));  // client: "ingest/1"
  store::v1::Session session;
  grpc::ClientContext context;
  const grpc::Status refused = stub->OpenSession(&context, request, &session);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  const std::string words = "the client speaks protocol 1, and the node protocol 2: upgrade the client";
  EXPECT_EQ(refused.error_message(), words);
  // Without a session, too.
  const auto transport = node.NewClientTransport();
  RawData data(transport.get(), node.data_address());
  ASSERT_TRUE(data.SendBytes(Bytes("4b564c52010000000a000000f1778db30807120161c201020803")).ok());
  const auto answer = data.NextOfAny();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->id(), 0u);
  EXPECT_TRUE(absl::IsUnimplemented(StatusOf(*answer)));
  EXPECT_THAT(answer->message(), HasSubstr(words));
  EXPECT_TRUE(absl::IsUnavailable(data.NextOfAny().status())) << "the connection ends";
  const absl::Time limit = Patience();
  while (node.log.Count(words) < 2 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(node.log.Count(words), 2);
}

// Answers each message by `answer`, within the call that sends it.
class Answering : public SilentConnection {
 public:
  explicit Answering(std::function<void(absl::string_view)> answer) : answer_(std::move(answer)) {}
  absl::Status SendMessage(absl::string_view message) override {
    answer_(message);
    return absl::OkStatus();
  }
  std::string peer() const override { return "10.0.0.1:7001"; }

 private:
  const std::function<void(absl::string_view)> answer_;
};

OpenedSession SessionWith(char id, uint64_t incarnation) {
  OpenedSession session;
  session.number = 1;
  session.token = std::string(16, 't');
  session.node_id.fill(static_cast<uint8_t>(id));
  session.incarnation = incarnation;
  session.protocol = kProtocols.max;
  return session;
}

TEST(ProtocolTest, ADataAddressThatLeadsToAnotherNodeIsRefused) {
  store::client::RequestSource source;
  const auto connection = std::make_shared<NodeConnection>(&source, nullptr);
  connection->Bind(std::make_shared<Answering>([&](absl::string_view message) {
    proto::Answer answer;
    answer.set_id(ParseRequest(message)->id());
    answer.mutable_welcome()->set_node_id(std::string(16, '\x0b'));
    answer.mutable_welcome()->set_incarnation(5);
    answer.mutable_welcome()->set_max_pulls(1);
    answer.mutable_welcome()->set_max_pushes(1);
    connection->OnMessage(SerializeAnswer(answer));
  }));
  const absl::Status other = connection->Hello(SessionWith('\x0a', 5), Patience());
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  EXPECT_THAT(std::string(other.message()),
              AllOf(HasSubstr("10.0.0.1:7001 is node 0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b, incarnation 5"),
                    HasSubstr("the session is with node 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a, incarnation 5")));
  const absl::Status earlier = connection->Hello(SessionWith('\x0b', 4), Patience());
  EXPECT_TRUE(absl::IsFailedPrecondition(earlier)) << earlier;
  EXPECT_EQ(connection->Hello(SessionWith('\x0b', 5), Patience()), absl::OkStatus());
  // From here on requests name whom they are for.
  EXPECT_EQ(connection->NewRequest("ns", Patience()).incarnation(), 5u);
  connection->OnClosed(absl::OkStatus());
}

TEST(ProtocolTest, AnswersOfProtocol1EndTheConnectionAndSayWhy) {
  store::client::RequestSource source;
  const auto connection = std::make_shared<NodeConnection>(&source, nullptr);
  connection->Bind(std::make_shared<Answering>([&](absl::string_view) {
    connection->OnMessage(Bytes("4b564c410100000005000000a2c53e4c08079a0100"));
    connection->OnClosed(absl::OkStatus());
  }));
  const absl::Status status = connection->Hello(SessionWith('a', 1), Patience());
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("answer: the client speaks protocol 2, and the node protocol 1: upgrade the node"));
}

}  // namespace
}  // namespace kvlink::testing
