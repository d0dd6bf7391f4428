// Very many idle clients: gRPC connections that send little or nothing, and data sessions. The node keeps serving, its
// memory stays bounded, and it releases everything when they leave.
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "base/descriptor_limit.h"
#include "proto/data.h"
#include "proto/metadata.h"
#include "proto/store.grpc.pb.h"
#include "tests/integration/node_clients.h"
#include "tests/integration/node_process.h"
#include "tests/support/seed.h"
#include "tests/transport/peers.h"
#include "transport/local/local.h"

namespace kvlink::testing {
namespace {

// Opens a connection that begins HTTP/2, if `speaks`, and then does nothing.
Descriptor ConnectIdle(const std::string& address, bool speaks) {
  const size_t colon = address.rfind(':');
  int port = 0;
  sockaddr_in to{};
  to.sin_family = AF_INET;
  EXPECT_TRUE(absl::SimpleAtoi(address.substr(colon + 1), &port));
  to.sin_port = htons(static_cast<uint16_t>(port));
  EXPECT_EQ(inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr), 1);
  Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) {
    ADD_FAILURE() << "connect: " << std::strerror(errno);
    return Descriptor();
  }
  if (speaks) {
    // The preface and an empty SETTINGS frame.
    const std::string hello = absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", std::string("\0\0\0\4\0\0\0\0\0", 9));
    EXPECT_EQ(send(socket.get(), hello.data(), hello.size(), MSG_NOSIGNAL), static_cast<ssize_t>(hello.size()));
  }
  return socket;
}

// Sessions with a data connection each, alternately over UCX and the local socket.
class Sessions {
 public:
  explicit Sessions(const NodeProcess& node)
      : stub_(store::v1::Store::NewStub(grpc::CreateChannel(node.address(), grpc::InsecureChannelCredentials()))),
        ucx_(NewTransport(Carrier::kUcx)) {
    auto local = transport::NewLocalTransport({});
    EXPECT_TRUE(local.ok()) << local.status();
    local_ = *std::move(local);
  }
  ~Sessions() {
    for (const Open& open : open_) {
      if (open.connection != nullptr) open.connection->Close();
    }
  }

  bool Add() {
    store::v1::OpenSessionRequest request;
    request.set_client("crowd");
    request.set_protocol_min(kProtocols.min);
    request.set_protocol_max(kProtocols.max);
    store::v1::Session session;
    grpc::ClientContext context;
    const grpc::Status opened = stub_->OpenSession(&context, request, &session);
    if (!opened.ok()) {
      ADD_FAILURE() << "session " << open_.size() << ": " << opened.error_message();
      return false;
    }
    Open open{.token = session.token(), .inbox = std::make_shared<LocalInbox>()};
    if (open_.size() % 2 == 0) {
      auto connected = local_->ConnectLocal(session.local_socket(), open.inbox, Patience());
      EXPECT_TRUE(connected.ok()) << connected.status();
      if (connected.ok()) open.connection = *connected;
    } else {
      std::string address;
      for (const std::string& data : session.data()) {
        if (data.rfind("ucx://", 0) == 0) address = data.substr(6);
      }
      auto connected = ucx_->Connect(address, open.inbox, Patience());
      EXPECT_TRUE(connected.ok()) << address << ": " << connected.status();
      if (connected.ok()) open.connection = *connected;
    }
    if (open.connection == nullptr) return false;
    proto::Request hello;
    hello.set_id(1);
    hello.mutable_hello()->set_token(open.token);
    const std::string bytes = SerializeRequest(hello);
    EXPECT_TRUE(open.connection->SendMessage({bytes.data(), bytes.size()}).ok());
    open_.push_back(std::move(open));
    return true;
  }
  // Whether the node has welcomed all sessions.
  bool AllWelcome() {
    for (Open& open : open_) {
      const auto message = open.inbox->Next();
      if (!message.has_value()) return false;
      const auto answer = ParseAnswer({message->data(), message->size()});
      if (!answer.ok() || !answer->has_welcome()) return false;
    }
    return true;
  }
  void CloseSessions() {
    for (const Open& open : open_) {
      grpc::ClientContext context;
      context.AddMetadata(kTokenMetadata, absl::BytesToHexString({open.token.data(), open.token.size()}));
      store::v1::CloseSessionResponse response;
      EXPECT_TRUE(stub_->CloseSession(&context, {}, &response).ok());
    }
  }

 private:
  // The node sends descriptors over the local socket.
  class LocalInbox : public transport::LocalEvents {
   public:
    void OnMessage(absl::string_view message) override { inbox_.OnMessage(message); }
    void OnMessageWithDescriptors(absl::string_view, std::vector<Descriptor>) override {}
    void OnClosed(const absl::Status& why) override { inbox_.OnClosed(why); }
    std::optional<std::string> Next() { return inbox_.Next(); }

   private:
    Inbox inbox_;
  };
  struct Open {
    std::string token;
    std::shared_ptr<LocalInbox> inbox;
    std::shared_ptr<transport::Connection> connection;
  };

  const std::unique_ptr<store::v1::Store::Stub> stub_;
  const std::unique_ptr<transport::Transport> ucx_;
  std::unique_ptr<transport::LocalTransport> local_;
  std::vector<Open> open_;
};

class CrowdTest : public ::testing::Test {
 protected:
  // Few descriptors, as under a shell: the node raises the limit itself.
  explicit CrowdTest(const SubprocessOptions& options = {.descriptor_limit = 256})
      : scratch_(/*in_memory=*/true),
        node_(scratch_.path() + "/store", {"--capacity", "1G", "--memory", "64M", "--scrub", "0"}, options) {}

  void SetUp() override {
    descriptors_allowed_ = RaiseDescriptorLimit();
    ASSERT_TRUE(node_.Start());
    journal_ = std::make_unique<Journal>(scratch_.path() + "/journal");
    figures_ = std::make_unique<NodeFigures>(node_.address());
    Serves();
    resident_ = Resident();
    descriptors_ = Descriptors();
  }
  // A new client of each carrier is served as if it were alone.
  void Serves() {
    for (const std::string carrier : {"ucx", "grpc", "mapped"}) {
      auto store = store::client::OpenRemote(ClientOptions(node_.address(), carrier, kHangGuard));
      ASSERT_TRUE(store.ok()) << carrier << ": " << store.status();
      TrafficOptions options;
      options.deadline = kHangGuard;
      TrafficCounts counts;
      Traffic traffic(store->get(), journal_.get(), &counts, options);
      for (int i = 0; i < 4; ++i) {
        absl::Status kept = traffic.Write(written_);
        EXPECT_TRUE(kept.ok()) << kept;
        kept = traffic.Read(written_++);
        EXPECT_TRUE(kept.ok()) << kept;
      }
      EXPECT_EQ(counts.failed(), 0) << carrier << ": " << counts.Text();
    }
  }
  // The cost of an idle crowd. Printed, not asserted: it is a time.
  void PrintIdle(int count, const char* what) {
    const int64_t bytes = Resident() - resident_;
    const absl::Duration idle = absl::Seconds(Soak() ? 10 : 1);
    const double before = ProcessorSeconds(node_.process().pid());
    absl::SleepFor(idle);
    const double used = ProcessorSeconds(node_.process().pid()) - before;
    std::printf("%d %s: %.1f KiB resident for each, %.2f%% of one processor while idle\n", count, what,
                static_cast<double>(bytes) / count / 1024, 100 * used / absl::ToDoubleSeconds(idle));
  }
  int64_t Resident() { return ResidentBytes(node_.process().pid()); }
  int64_t Descriptors() { return OpenDescriptors(node_.process().pid()); }
  void ExpectGone(const char* what) {
    ASSERT_TRUE(figures_->WaitForAtMost(kNothingHeld));
    const absl::Time deadline = SteadyNow() + 3 * kHangGuard;
    while (Descriptors() > descriptors_ + 8 && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(20));
    EXPECT_LE(Descriptors(), descriptors_ + 8) << what;
    ASSERT_NO_FATAL_FAILURE(Serves());
  }

  const ScratchDirectory scratch_;
  NodeProcess node_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<NodeFigures> figures_;
  uint64_t written_ = 0;
  int64_t descriptors_allowed_ = 0, resident_ = 0, descriptors_ = 0;
};

TEST_F(CrowdTest, IdleConnectionsOfGrpc) {
  const int count = Soak() ? 10000 : 500;
  if (descriptors_allowed_ < count + 1000) GTEST_SKIP() << descriptors_allowed_ << " descriptors are too few";
  int64_t resident_after_first = 0;
  for (int round = 0; round < 2; ++round) {
    std::vector<Descriptor> sockets;
    for (int i = 0; i < count && !HasFailure(); ++i) sockets.push_back(ConnectIdle(node_.address(), i % 4 != 0));
    ASSERT_FALSE(HasFailure());
    ASSERT_NO_FATAL_FAILURE(Serves());
    const int64_t grown = Resident() - resident_;
    PrintIdle(count, "idle connections");
    // The number of unidentified connections the node keeps is limited, whichever of them wait or are cut.
    EXPECT_LE(Descriptors(), descriptors_ + 1024 + 2 * 256 + 64);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LT(grown, int64_t{96} << 20);
#endif
    sockets.clear();
    ASSERT_NO_FATAL_FAILURE(ExpectGone("connections"));
    if (round == 0) resident_after_first = Resident();
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // The allocator keeps some free pages per connection, and more after a second crowd; a third adds little.
  EXPECT_LT(Resident(), resident_after_first + (int64_t{32} << 20) + count * (int64_t{16} << 10))
      << "a second crowd needs what the first gave back";
#endif
  EXPECT_EQ(node_.Stop(), 0) << node_.process().errors();
}

class FewDescriptorsTest : public CrowdTest {
 protected:
  FewDescriptorsTest() : CrowdTest({.descriptor_limit = 256, .descriptor_limit_is_hard = true}) {}
};

// A crowd as large as the node's limit on descriptors leaves enough of them for identified clients.
TEST_F(FewDescriptorsTest, ACrowdTakesAPartOfThem) {
  std::vector<Descriptor> sockets;
  for (int i = 0; i < 256 && !HasFailure(); ++i) sockets.push_back(ConnectIdle(node_.address(), i % 4 != 0));
  ASSERT_FALSE(HasFailure());
  ASSERT_NO_FATAL_FAILURE(Serves());
  EXPECT_LT(Descriptors(), 256);
  sockets.clear();
  ASSERT_NO_FATAL_FAILURE(ExpectGone("connections"));
  EXPECT_EQ(node_.Stop(), 0) << node_.process().errors();
}

TEST_F(CrowdTest, DataSessions) {
  const int count = Soak() ? 1000 : 100;
  int64_t resident_after_first = 0;
  for (int round = 0; round < 2; ++round) {
    {
      Sessions sessions(node_);
      for (int i = 0; i < count; ++i) ASSERT_TRUE(sessions.Add());
      ASSERT_TRUE(sessions.AllWelcome());
      EXPECT_GE(figures_->Get("connections"), count);
      EXPECT_GE(figures_->Get("sessions"), count);
      ASSERT_NO_FATAL_FAILURE(Serves());
      const int64_t grown = Resident() - resident_;
      PrintIdle(count, "data sessions");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
      EXPECT_LT(grown, (int64_t{64} << 20) + count * (int64_t{256} << 10));
#endif
      sessions.CloseSessions();
    }
    EXPECT_TRUE(figures_->WaitForAtMost({{"connections", 0}, {"sessions", 8}}));
    ASSERT_NO_FATAL_FAILURE(ExpectGone("sessions"));
    if (round == 0) resident_after_first = Resident();
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(Resident(), resident_after_first + (int64_t{32} << 20)) << "a second crowd needs what the first gave back";
#endif
  EXPECT_EQ(node_.Stop(), 0) << node_.process().errors();
}

}  // namespace
}  // namespace kvlink::testing
