// The promises of transport.h, over each carrier.
#include <random>
#include <thread>

#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/support/seed.h"
#include "tests/transport/peers.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

class ContractTest : public ::testing::TestWithParam<Carrier> {};
// Tests for carriers without payloads too.
class MessagesTest : public ::testing::TestWithParam<Carrier> {};

std::shared_ptr<RegisteredBuffer> Buffer(Transport* transport, int64_t bytes) {
  auto buffer = transport->Allocate(bytes);
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  return *std::move(buffer);
}

TEST_P(MessagesTest, MessagesArriveInOrderBothWays) {
  Peers peers(GetParam());
  std::mt19937_64 random(TestSeed());
  std::vector<std::string> sent;
  for (int i = 0; i < 300; ++i) {
    const size_t bytes = i == 7 ? kMaxMessageBytes : 1 + random() % (random() % 8 == 0 ? 60000 : 200);
    sent.push_back(std::string(bytes, static_cast<char>('a' + i % 26)) + std::to_string(i));
    sent.back().resize(std::min<size_t>(sent.back().size(), kMaxMessageBytes));
  }
  for (const auto& message : sent) {
    ASSERT_TRUE(peers.client->SendMessage(message).ok());
    ASSERT_TRUE(peers.accepted->SendMessage(message).ok());
  }
  for (const auto& message : sent) {
    ASSERT_EQ(peers.server_inbox->Next(), message);
    ASSERT_EQ(peers.client_inbox->Next(), message);
  }
  EXPECT_EQ(peers.client->SendMessage("").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(peers.client->SendMessage(std::string(kMaxMessageBytes + 1, 'x')).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(MessagesTest, MessagesBeforeCloseArrive) {
  Peers peers(GetParam());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(peers.client->SendMessage(std::string(1000, 'x') + std::to_string(i)).ok());
  peers.client->Close();
  for (int i = 0; i < 100; ++i) ASSERT_EQ(peers.server_inbox->Next(), std::string(1000, 'x') + std::to_string(i));
  EXPECT_TRUE(peers.client_inbox->Closed().ok());
  EXPECT_EQ(peers.server_inbox->Closed().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(peers.client->SendMessage("late").code(), absl::StatusCode::kUnavailable);
}

// Slabs of a ring larger than the caches, both ways at once, with many receives open.
TEST_P(ContractTest, RingOfSlabsBothWays) {
  const int64_t ring = Soak() ? int64_t{1} << 30 : int64_t{64} << 20;
  constexpr int64_t kSlab = 400 << 10;  // not a multiple of what the network likes
  constexpr int kDepth = 24;
  Peers peers(GetParam());
  struct Side {
    std::shared_ptr<RegisteredBuffer> source, target;
    Connection* connection;
  };
  Side sides[2] = {
      {Buffer(peers.client_transport.get(), ring), Buffer(peers.client_transport.get(), ring), peers.client.get()},
      {Buffer(peers.server_transport.get(), ring), Buffer(peers.server_transport.get(), ring), peers.accepted.get()}};
  const int64_t count = ring / kSlab;
  for (int s = 0; s < 2; ++s) {
    for (int64_t i = 0; i < count; ++i) Fill({sides[s].source, i * kSlab, kSlab - i % 7}, i * 2 + s);
  }
  std::vector<std::thread> threads;
  for (int s = 0; s < 2; ++s) {
    threads.emplace_back([&, s] {  // receives
      std::deque<Completion> open;
      int64_t checked = 0;
      const auto check = [&] {
        ASSERT_TRUE(open.front().Wait().ok()) << open.front().Wait();
        const int64_t bytes = kSlab - checked % 7;
        ASSERT_EQ(open.front().bytes(), bytes);
        ASSERT_TRUE(Check({sides[s].target, checked * kSlab, bytes}, checked * 2 + 1 - s)) << checked;
        open.pop_front();
        ++checked;
      };
      for (int64_t i = 0; i < count; ++i) {
        if (open.size() == kDepth) check();
        open.emplace_back();
        sides[s].connection->PostReceive(static_cast<uint64_t>(i), {sides[s].target, i * kSlab, kSlab}, Patience(),
                                         open.back().ForReceive());
      }
      while (!open.empty()) check();
    });
    threads.emplace_back([&, s] {  // sends, faster than there are receives
      std::deque<Completion> open;
      for (int64_t i = 0; i < count; ++i) {
        open.emplace_back();
        sides[s].connection->Send(static_cast<uint64_t>(i), {sides[s].source, i * kSlab, kSlab - i % 7}, Patience(),
                                  open.back().ForSend());
        if (open.size() > 1000) {
          ASSERT_TRUE(open.front().Wait().ok()) << open.front().Wait();
          open.pop_front();
        }
      }
      for (auto& completion : open) ASSERT_TRUE(completion.Wait().ok()) << completion.Wait();
    });
  }
  for (auto& thread : threads) thread.join();
  const TransportStats stats = peers.client_transport->Stats();
  EXPECT_EQ(stats.payloads_received, count);
  EXPECT_EQ(stats.payloads_sent, count);
  EXPECT_EQ(stats.quarantined_bytes, 0);
}

TEST_P(ContractTest, SmallestPayloads) {
  Peers peers(GetParam());
  auto source = Buffer(peers.client_transport.get(), 4096), target = Buffer(peers.server_transport.get(), 4096);
  for (const int64_t bytes : {1, 2, 7, 64, 4096}) {
    Completion sent, arrived;
    Fill({source, 0, bytes}, bytes);
    peers.accepted->PostReceive(uint64_t(bytes), {target, 0, 4096}, Patience(), arrived.ForReceive());
    peers.client->Send(uint64_t(bytes), {source, 0, bytes}, Patience(), sent.ForSend());
    ASSERT_TRUE(arrived.Wait().ok()) << arrived.Wait();
    ASSERT_TRUE(sent.Wait().ok()) << sent.Wait();
    EXPECT_EQ(arrived.bytes(), bytes);
    EXPECT_TRUE(Check({target, 0, bytes}, bytes));
  }
}

TEST_P(ContractTest, DeadlineOfWhatNeverBegan) {
  Peers peers(GetParam());
  auto buffer = Buffer(peers.client_transport.get(), 4096);
  WatchedSlice into(buffer, 0, 2048), from(buffer, 2048, 2048);
  Completion receive, sending;
  peers.client->PostReceive(1, into.Take(), SteadyNow() + absl::Milliseconds(30), receive.ForReceive());
  peers.client->Send(2, from.Take(), SteadyNow() + absl::Milliseconds(30), sending.ForSend());
  EXPECT_EQ(receive.Wait().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(sending.Wait().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(into.WaitFree());
  EXPECT_TRUE(from.WaitFree());
  // Past already.
  Completion past;
  peers.client->PostReceive(3, {buffer, 0, 1}, SteadyNow() - absl::Seconds(1), past.ForReceive());
  EXPECT_EQ(past.Wait().code(), absl::StatusCode::kDeadlineExceeded);
  // The connection lives.
  ASSERT_TRUE(peers.client->SendMessage("still here").ok());
  EXPECT_EQ(peers.server_inbox->Next(), "still here");
}

TEST_P(ContractTest, TheSenderOfAWithdrawnReceiveIsTold) {
  Peers peers(GetParam());
  auto source = Buffer(peers.client_transport.get(), 4096), target = Buffer(peers.server_transport.get(), 4096);
  Completion arrived, early, late;
  peers.client->Send(5, {source, 0, 10}, Patience(), early.ForSend());
  peers.accepted->PostReceive(5, {target, 0, 4096}, Patience(), arrived.ForReceive());
  peers.accepted->CancelReceive(5);
  const absl::Status receive = arrived.Wait();
  EXPECT_TRUE(receive.ok() || absl::IsCancelled(receive)) << receive;
  // OK says that the source is free, not that the payload arrived.
  const absl::Status sent = early.Wait();
  EXPECT_TRUE(sent.ok() || absl::IsCancelled(sent)) << sent;
  Completion second;
  peers.accepted->PostReceive(6, {target, 0, 4096}, Patience(), second.ForReceive());
  ASSERT_TRUE(peers.accepted->SendMessage("granted").ok());
  EXPECT_EQ(peers.client_inbox->Next(), "granted");
  peers.accepted->CancelReceive(6);
  ASSERT_TRUE(peers.accepted->SendMessage("withdrawn").ok());
  EXPECT_EQ(peers.client_inbox->Next(), "withdrawn");
  peers.client->Send(6, {source, 0, 10}, Patience(), late.ForSend());
  EXPECT_EQ(late.Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(peers.server_inbox->closed());
}

TEST_P(ContractTest, CancelledSend) {
  Peers peers(GetParam());
  auto source = Buffer(peers.client_transport.get(), 4096);
  WatchedSlice from(source, 0, 100);
  Completion sending;
  peers.client->Send(1, from.Take(), Patience(), sending.ForSend());
  peers.client->CancelSend(1);
  peers.client->CancelSend(77);
  EXPECT_EQ(sending.Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(from.WaitFree());
}

// Receives and sends cancelled at random moments: each completes once, what arrived is right, the connection stays.
TEST_P(ContractTest, CancellationsAtRandomMoments) {
  Peers peers(GetParam());
  constexpr int64_t kSlab = 1 << 20;
  constexpr int kSlabs = 8;
  auto source = Buffer(peers.client_transport.get(), kSlabs * kSlab),
       target = Buffer(peers.server_transport.get(), kSlabs * kSlab);
  std::mt19937_64 random(TestSeed());
  for (int i = 0; i < kSlabs; ++i) Fill({source, i * kSlab, kSlab}, i);
  int received_count = 0;
  for (uint64_t round = 0; round < (Soak() ? 2000 : 50); ++round) {
    std::vector<Completion> sent(kSlabs), arrived(kSlabs);
    std::vector<WatchedSlice> into;
    for (int i = 0; i < kSlabs; ++i) into.emplace_back(target, i * kSlab, kSlab);
    for (int i = 0; i < kSlabs; ++i) {
      peers.accepted->PostReceive(round * kSlabs + i, into[i].Take(), Patience(), arrived[i].ForReceive());
      peers.client->Send(round * kSlabs + i, {source, i * kSlab, kSlab}, Patience(), sent[i].ForSend());
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    for (int i = 0; i < kSlabs; ++i) {
      if (random() % 2 == 0) peers.accepted->CancelReceive(round * kSlabs + i);
      if (random() % 2 == 0) peers.client->CancelSend(round * kSlabs + i);
    }
    for (int i = 0; i < kSlabs; ++i) {
      const absl::Status send = sent[i].Wait();
      ASSERT_TRUE(send.ok() || absl::IsCancelled(send)) << send;
      if (!send.ok()) peers.accepted->CancelReceive(round * kSlabs + i);  // as the sides would tell each other
    }
    for (int i = 0; i < kSlabs; ++i) {
      const absl::Status receive = arrived[i].Wait();
      ASSERT_TRUE(receive.ok() || absl::IsCancelled(receive)) << receive;
      ASSERT_TRUE(into[i].WaitFree());
      ASSERT_TRUE(!receive.ok() || Check({target, i * kSlab, kSlab}, i));
      received_count += receive.ok();
    }
  }
  EXPECT_GT(received_count, 0);
  EXPECT_FALSE(peers.client_inbox->closed());
  EXPECT_FALSE(peers.server_inbox->closed());
  EXPECT_EQ(peers.server_transport->Stats().quarantined_bytes, 0);
}

TEST_P(ContractTest, CloseCompletesEverythingOnce) {
  Peers peers(GetParam());
  constexpr int64_t kSlab = 4 << 20;
  constexpr int kSlabs = 16;
  auto source = Buffer(peers.client_transport.get(), kSlabs * kSlab),
       target = Buffer(peers.server_transport.get(), kSlabs * kSlab);
  std::vector<Completion> sent(kSlabs), arrived(kSlabs);
  std::vector<WatchedSlice> from, into;
  for (int i = 0; i < kSlabs; ++i) {
    from.emplace_back(source, i * kSlab, kSlab);
    into.emplace_back(target, i * kSlab, kSlab);
    peers.accepted->PostReceive(uint64_t(i), into[i].Take(), Patience(), arrived[i].ForReceive());
    peers.client->Send(uint64_t(i), from[i].Take(), Patience(), sent[i].ForSend());
  }
  ASSERT_TRUE(arrived[0].Wait().ok());
  peers.client = nullptr;
  for (int i = 0; i < kSlabs; ++i) {
    const absl::Status send = sent[i].Wait(), receive = arrived[i].Wait();
    EXPECT_TRUE(send.ok() || absl::IsUnavailable(send)) << send;
    EXPECT_TRUE(receive.ok() || absl::IsUnavailable(receive)) << receive;
    EXPECT_TRUE(from[i].WaitFree());
    EXPECT_TRUE(into[i].WaitFree());
  }
  EXPECT_TRUE(peers.client_inbox->Closed().ok());
  EXPECT_EQ(peers.server_inbox->Closed().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(peers.server_inbox->closings(), 1);
  Completion after;
  peers.accepted->PostReceive(99, {target, 0, kSlab}, Patience(), after.ForReceive());
  EXPECT_EQ(after.Wait().code(), absl::StatusCode::kUnavailable);
}

TEST_P(ContractTest, OperationsThatCannotBe) {
  Peers peers(GetParam());
  auto mine = Buffer(peers.client_transport.get(), 4096);
  const auto code = [&](Slice slice) {
    Completion receive;
    peers.client->PostReceive(1, std::move(slice), Patience(), receive.ForReceive());
    return receive.Wait().code();
  };
  EXPECT_EQ(code({nullptr, 0, 10}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine, 0, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine, -1, 10}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine, 4090, 10}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine, INT64_MAX, 10}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine, 10, INT64_MAX}), absl::StatusCode::kInvalidArgument);
  auto other = NewTransport(GetParam() == Carrier::kUcx ? Carrier::kLoopback : Carrier::kUcx);
  EXPECT_EQ(code({Buffer(other.get(), 4096), 0, 10}), absl::StatusCode::kInvalidArgument);
  // An id in use, and a payload that is longer than its receive.
  Completion first, second, longer;
  peers.client->PostReceive(1, {mine, 0, 10}, Patience(), first.ForReceive());
  peers.client->PostReceive(1, {mine, 10, 10}, Patience(), second.ForReceive());
  EXPECT_EQ(second.Wait().code(), absl::StatusCode::kInvalidArgument);
  auto theirs = Buffer(peers.server_transport.get(), 4096);
  peers.accepted->Send(1, {theirs, 0, 11}, Patience(), longer.ForSend());
  EXPECT_EQ(longer.Wait().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(first.done());
  EXPECT_EQ(peers.client_transport->Register(mine->data(), 10, {MemoryKind::kCuda, 0}, nullptr).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(peers.client_transport->Allocate(0).status().code(), absl::StatusCode::kInvalidArgument);
  peers.client->Close();
  EXPECT_EQ(first.Wait().code(), absl::StatusCode::kUnavailable);
}

TEST_P(ContractTest, ThereIsALimitOnOpenOperations) {
  Peers peers(GetParam());
  auto buffer = Buffer(peers.client_transport.get(), 4096);
  std::vector<Completion> receives(kMaxOperations + 1);
  for (int i = 0; i <= kMaxOperations; ++i) {
    peers.client->PostReceive(uint64_t(i), {buffer, 0, 1}, Patience(), receives[i].ForReceive());
  }
  EXPECT_EQ(receives[kMaxOperations].Wait().code(), absl::StatusCode::kResourceExhausted);
  peers.client->Close();
  for (int i = 0; i < kMaxOperations; ++i) ASSERT_EQ(receives[i].Wait().code(), absl::StatusCode::kUnavailable);
}

TEST_P(MessagesTest, ConnectingToNobody) {
  auto transport = NewTransport(GetParam());
  std::string gone;
  {
    auto other = NewTransport(GetParam());
    gone = Server(other.get(), NewAddress(GetParam())).address();
  }
  auto inbox = std::make_shared<Inbox>();
  EXPECT_EQ(transport->Connect(gone, inbox, Patience()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(inbox->closings(), 0);
  if (GetParam() == Carrier::kLocal) return;  // almost any text is a path
  for (const char* address : {"", "host", ":1", "host:", "host:70000", "a:b:1"}) {
    EXPECT_EQ(transport->Connect(address, inbox, Patience()).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

TEST_P(MessagesTest, RefusedConnection) {
  auto server = NewTransport(GetParam()), client = NewTransport(GetParam());
  auto listener = server->Listen(NewAddress(GetParam()), [](std::shared_ptr<Connection>) { return nullptr; });
  ASSERT_TRUE(listener.ok());
  EXPECT_EQ(client->Connect((*listener)->address(), std::make_shared<Inbox>(), Patience()).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_P(MessagesTest, TooManyConnections) {
  TransportOptions options;
  options.max_connections = 2;
  auto server_transport = NewTransport(GetParam(), options), client = NewTransport(GetParam());
  Server server(server_transport.get(), NewAddress(GetParam()));
  std::vector<std::shared_ptr<Connection>> open;
  for (int i = 0; i < 2; ++i) {
    auto connection = client->Connect(server.address(), std::make_shared<Inbox>(), Patience());
    ASSERT_TRUE(connection.ok()) << connection.status();
    open.push_back(*connection);
  }
  EXPECT_EQ(client->Connect(server.address(), std::make_shared<Inbox>(), Patience()).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(server_transport->Stats().closes["excess"], 1);
}

// An idle process sleeps: wakeups are counted, because time says nothing on a busy machine.
TEST_P(MessagesTest, IdleConnectionsSleep) {
  Peers peers(GetParam());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // what connecting still had to do
  const int64_t before = peers.client_transport->Stats().wakeups;
  std::this_thread::sleep_for(std::chrono::seconds(2));
  EXPECT_LE(peers.client_transport->Stats().wakeups - before, 20);
}

INSTANTIATE_TEST_SUITE_P(Carriers, MessagesTest,
                         ::testing::Values(Carrier::kLoopback, Carrier::kUcx, Carrier::kGrpc, Carrier::kLocal),
                         [](const auto& info) { return CarrierName(info.param); });
INSTANTIATE_TEST_SUITE_P(Carriers, ContractTest, ::testing::Values(Carrier::kLoopback, Carrier::kUcx, Carrier::kGrpc),
                         [](const auto& info) { return CarrierName(info.param); });

}  // namespace
}  // namespace kvlink::transport
