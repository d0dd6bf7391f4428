// The queue of a transport's thread, and a thread that does not come to it.
#include "transport/progress.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/transport/peers.h"
#include "transport/frame.h"
#include "transport/session.h"
#include "transport/session_host.h"
#include "transport/transport.h"
#include "transport/wire.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

TEST(Progress, TheQueueHasALimit) {
  auto thread = *ProgressThread::Start(nullptr);
  const Completion blocked, go_on;
  thread->Post([&] {
    blocked.ForSend()(absl::OkStatus());
    (void)go_on.Wait();
  });
  (void)blocked.Wait();
  std::atomic<int64_t> ran{0};
  const int64_t limit = static_cast<int64_t>(ProgressThread::kMaxPosted);
  for (int64_t i = 0; i < limit; ++i) ASSERT_TRUE(thread->TryPost([&] { ++ran; }).ok()) << i;
  const absl::Status refused = thread->TryPost([&] { ran += 1000000; });
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  // Work that ends operations under way finds room.
  EXPECT_TRUE(thread->Post([&] { ++ran; }));
  go_on.ForSend()(absl::OkStatus());
  thread->Run([] {});
  EXPECT_EQ(ran, limit + 1);
  EXPECT_TRUE(thread->TryPost([&] { ++ran; }).ok());
  thread->Stop();
  EXPECT_EQ(ran, limit + 2);
  EXPECT_TRUE(absl::IsUnavailable(thread->TryPost([] {})));
  EXPECT_FALSE(thread->Post([] {}));
}

// Takes the thread of its transport until it is let go.
class Occupant : public ConnectionEvents {
 public:
  void OnMessage(absl::string_view message) override {
    if (message == "stay") {
      occupied.ForSend()(absl::OkStatus());
      (void)go.Wait();
    } else {
      ++others;
    }
  }
  void OnClosed(const absl::Status& why) override {}
  const Completion occupied, go;
  std::atomic<int64_t> others{0};
};

// Every operation is told once, also when the queue has no room for it, and not within the call.
TEST(Progress, OperationsThatFindNoRoomAreTold) {
  auto server_transport = NewTransport(Carrier::kGrpc), client_transport = NewTransport(Carrier::kGrpc);
  Server server(server_transport.get());
  const auto events = std::make_shared<Occupant>();
  const auto client = *client_transport->Connect(server.address(), events, Patience());
  const auto accepted = server.Next();
  ASSERT_TRUE(accepted.connection->SendMessage("stay").ok());
  (void)events->occupied.Wait();
  const auto buffer = *client_transport->Allocate(4096);
  const int64_t count = static_cast<int64_t>(ProgressThread::kMaxPosted) + 1000;
  std::atomic<int64_t> told{0}, refused{0};
  for (int64_t i = 0; i < count; ++i) {
    client->PostReceive(static_cast<uint64_t>(i), {buffer, 0, 4096}, Patience(),
                        [&](const absl::Status& status, int64_t) {
                          ++told;
                          refused += absl::IsResourceExhausted(status) ? 1 : 0;
                        });
  }
  EXPECT_EQ(told, 0);
  EXPECT_TRUE(absl::IsResourceExhausted(client->SendMessage("no room")));
  EXPECT_TRUE(absl::IsResourceExhausted(
      client_transport->Connect(server.address(), std::make_shared<Inbox>(), Patience()).status()));
  events->go.ForSend()(absl::OkStatus());
  const absl::Time limit = Patience();
  while (refused < count - kMaxOperations && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(refused, count - kMaxOperations);
  client->Close();
  while (told < count && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(told, count);
}

// A network that answers a hello, and nothing else.
class QuietWire : public Wire {
 public:
  void Attach(std::weak_ptr<Session> session) override { session_ = std::move(session); }
  void SendFrame(std::string frame, std::function<void()> taken) override {
    taken();
    const auto session = session_.lock();
    if (session == nullptr || std::exchange(greeted_, true)) return;
    session->thread()->Defer([session] {
      const std::string body = HelloBody({7, 2000});
      session->OnFrame(FrameHeader(FrameKind::kHello, 0, session->token(), body.size()) + body);
    });
  }
  void SendPayload(std::string, const Slice&, std::function<void(const absl::Status&)>) override {}
  void Close(bool, std::function<void()> closed) override { closed(); }
  bool Owns(const RegisteredBuffer&) const override { return true; }
  std::string peer() const override { return "quiet"; }

 private:
  std::weak_ptr<Session> session_;
  bool greeted_ = false;
};

// Between its end and its destruction a transport has no thread, and still tells everybody.
TEST(Progress, OperationsAfterTheEndAreTold) {
  auto memory = NewTransport(Carrier::kGrpc);
  const auto buffer = *memory->Allocate(4096);
  auto host = *SessionHost::Start({}, nullptr);
  const auto inbox = std::make_shared<Inbox>();
  const auto dial = []() -> absl::StatusOr<std::unique_ptr<Wire>> { return std::make_unique<QuietWire>(); };
  const auto connection = host->Connect(dial, inbox, Patience());
  ASSERT_TRUE(connection.ok()) << connection.status();
  const Completion open, sent, arrived;
  (*connection)->PostReceive(1, {buffer, 0, 4096}, Patience(), open.ForReceive());
  host->End();
  EXPECT_TRUE(absl::IsUnavailable(open.Wait()));
  EXPECT_TRUE(inbox->Closed().ok());
  (*connection)->PostReceive(2, {buffer, 0, 4096}, Patience(), arrived.ForReceive());
  (*connection)->Send(3, {buffer, 0, 4096}, Patience(), sent.ForSend());
  EXPECT_TRUE(absl::IsUnavailable(arrived.Wait()));
  EXPECT_TRUE(absl::IsUnavailable(sent.Wait()));
  EXPECT_TRUE(absl::IsUnavailable((*connection)->SendMessage("late")));
  EXPECT_TRUE(absl::IsUnavailable(host->Connect(dial, std::make_shared<Inbox>(), Patience()).status()));
}

// A server that does not read from a client, because that one is slow to take answers, does not hear it either.
TEST(Progress, APeerThatIsNotReadFromIsNotSilent) {
  TransportOptions options;
  options.heartbeat = absl::Milliseconds(500);
  options.pause_at_bytes = 64 << 10;
  auto server_transport = NewTransport(Carrier::kGrpc, options), client_transport = NewTransport(Carrier::kGrpc);
  Server server(server_transport.get());
  const auto events = std::make_shared<Occupant>();
  const auto client = *client_transport->Connect(server.address(), events, Patience());
  const auto accepted = server.Next();
  // With a payload agreed, silence is told soon.
  const auto buffer = *server_transport->Allocate(4096);
  const Completion arrived;
  accepted.connection->PostReceive(1, {buffer, 0, 4096}, Patience(), arrived.ForReceive());
  ASSERT_TRUE(accepted.connection->SendMessage("stay").ok());
  (void)events->occupied.Wait();
  const std::string answer(kMaxMessageBytes, 'a');
  const int count = 48;  // more than the client's side takes ahead
  for (int i = 0; i < count; ++i) ASSERT_TRUE(accepted.connection->SendMessage(answer).ok()) << i;
  absl::SleepFor(4 * options.heartbeat);
  EXPECT_FALSE(arrived.done());
  events->go.ForSend()(absl::OkStatus());
  const absl::Time limit = Patience();
  while (events->others < count && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(events->others, count);
  EXPECT_EQ(server_transport->Stats().closes["heartbeat"], 0);
  ASSERT_TRUE(client->SendMessage("here").ok());
  EXPECT_EQ(accepted.inbox->Next(), "here");
}

}  // namespace
}  // namespace kvlink::transport
