// The faulty decorator: each fault strikes as told, and under a mix of them every operation still completes once.
#include "tests/support/transport/faulty/faulty.h"

#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "tests/support/seed.h"
#include "tests/transport/peers.h"

namespace kvlink::transport {
namespace {

using namespace kvlink::testing;

// A clean server and a client whose traffic is harmed.
struct Harmed {
  Harmed(Carrier carrier, FaultOptions options)
      : server_transport(NewTransport(carrier)), server(server_transport.get()) {
    auto made = NewFaultyTransport(NewTransport(carrier), std::move(options));
    EXPECT_TRUE(made.ok()) << made.status();
    faulty = *std::move(made);
    Connect();
  }
  void Connect() {
    client_inbox = std::make_shared<Inbox>();
    auto connected = faulty->Connect(server.address(), client_inbox, Patience());
    ASSERT_TRUE(connected.ok()) << connected.status();
    client = *std::move(connected);
    Server::Accepted taken = server.Next();
    accepted = std::move(taken.connection);
    server_inbox = std::move(taken.inbox);
  }
  std::unique_ptr<Transport> server_transport;
  std::unique_ptr<FaultyTransport> faulty;
  Server server;
  std::shared_ptr<Inbox> client_inbox, server_inbox;
  std::shared_ptr<Connection> client, accepted;
};

// The faults of the first messages or payloads, then none.
FaultOptions Told(bool payload, std::vector<Fault> faults) {
  FaultOptions options;
  options.schedule = [payload, faults](bool is_payload, int64_t n) -> absl::optional<Fault> {
    if (is_payload != payload || n >= static_cast<int64_t>(faults.size())) return Fault::kNone;
    return faults[n];
  };
  return options;
}

class FaultyTest : public ::testing::TestWithParam<Carrier> {
 protected:
  // The messages that arrive of "0", "1", ..., then "end".
  std::vector<std::string> Messages(std::vector<Fault> faults, int count) {
    FaultOptions options = Told(false, std::move(faults));
    options.delay = absl::Milliseconds(200);
    Harmed harmed(GetParam(), std::move(options));
    for (int i = 0; i < count; ++i) EXPECT_TRUE(harmed.client->SendMessage(absl::StrCat(i)).ok());
    std::vector<std::string> got;
    for (int i = 0; i < count; ++i) {
      const auto message = harmed.server_inbox->Next();
      if (!message) break;
      got.push_back(*message);
      if (static_cast<int>(got.size()) == count - static_cast<int>(harmed.faulty->struck()[Fault::kDrop])) break;
    }
    return got;
  }
};

using Strings = std::vector<std::string>;

TEST_P(FaultyTest, MessagesWithoutFaults) { EXPECT_EQ(Messages({}, 3), (Strings{"0", "1", "2"})); }
TEST_P(FaultyTest, DroppedMessage) { EXPECT_EQ(Messages({Fault::kNone, Fault::kDrop}, 3), (Strings{"0", "2"})); }
TEST_P(FaultyTest, ReorderedMessage) { EXPECT_EQ(Messages({Fault::kReorder}, 3), (Strings{"1", "0", "2"})); }
TEST_P(FaultyTest, DelayedMessage) { EXPECT_EQ(Messages({Fault::kDelay}, 3), (Strings{"1", "2", "0"})); }
TEST_P(FaultyTest, FrozenMessagesKeepTheirOrder) {
  EXPECT_EQ(Messages({Fault::kNone, Fault::kFreeze}, 4), (Strings{"0", "1", "2", "3"}));
}
TEST_P(FaultyTest, CorruptMessage) {
  const Strings got = Messages({Fault::kCorrupt}, 2);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_EQ(__builtin_popcount(static_cast<unsigned char>(got[0][0] ^ '0')), 1);
  EXPECT_EQ(got[1], "1");
}
TEST_P(FaultyTest, CutConnection) {
  Harmed harmed(GetParam(), Told(false, {Fault::kNone, Fault::kCut}));
  EXPECT_TRUE(harmed.client->SendMessage("0").ok());
  EXPECT_EQ(harmed.server_inbox->Next(), "0");
  EXPECT_TRUE(harmed.client->SendMessage("1").ok());
  EXPECT_EQ(harmed.server_inbox->Next(), std::nullopt);
  EXPECT_EQ(harmed.server_inbox->Closed().code(), absl::StatusCode::kUnavailable);
  harmed.client_inbox->Closed().IgnoreError();
  EXPECT_EQ(harmed.client_inbox->closings(), 1);
  EXPECT_EQ(harmed.client->SendMessage("2").code(), absl::StatusCode::kUnavailable);
}

constexpr int64_t kSlab = 100000;

struct Outcome {
  absl::Status sent, arrived;
  int wrong_bits = 0;
};

// One payload under a fault.
Outcome OnePayload(Carrier carrier, Fault fault, absl::Duration delay, absl::Duration patience) {
  FaultOptions options = Told(true, {fault});
  options.delay = delay;
  Harmed harmed(carrier, std::move(options));
  auto source = harmed.faulty->Allocate(kSlab), target = harmed.server_transport->Allocate(kSlab);
  const Slice slice{*source, 0, kSlab};
  Fill(slice, 3);
  WatchedSlice from(*source, 0, kSlab), into(*target, 0, kSlab);
  Completion sent, arrived;
  harmed.accepted->PostReceive(1, into.Take(), SteadyNow() + patience, arrived.ForReceive());
  harmed.client->Send(1, from.Take(), SteadyNow() + patience, sent.ForSend());
  Outcome outcome{sent.Wait(), arrived.Wait()};
  EXPECT_TRUE(from.WaitFree());
  EXPECT_TRUE(into.WaitFree());
  EXPECT_TRUE(Check(slice, 3));
  for (int64_t i = 0; outcome.arrived.ok() && i < kSlab; ++i) {
    outcome.wrong_bits += __builtin_popcount(static_cast<unsigned>((*source)->data()[i] ^ (*target)->data()[i]));
  }
  return outcome;
}

TEST_P(FaultyTest, OnePayloadUnderEachFault) {
  const absl::Duration little = absl::Milliseconds(20), short_time = absl::Milliseconds(200), ever = absl::Seconds(60);
  for (const Fault fault : {Fault::kNone, Fault::kDelay, Fault::kReorder, Fault::kFreeze, Fault::kCorrupt}) {
    const Outcome outcome = OnePayload(GetParam(), fault, little, ever);
    EXPECT_TRUE(outcome.sent.ok()) << outcome.sent;
    EXPECT_TRUE(outcome.arrived.ok()) << outcome.arrived;
    EXPECT_EQ(outcome.wrong_bits, fault == Fault::kCorrupt ? 1 : 0);
  }
  const Outcome dropped = OnePayload(GetParam(), Fault::kDrop, little, short_time);
  EXPECT_TRUE(dropped.sent.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(dropped.arrived)) << dropped.arrived;
  const Outcome late = OnePayload(GetParam(), Fault::kDelay, ever, short_time);
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.sent)) << late.sent;
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.arrived)) << late.arrived;
  const Outcome cut = OnePayload(GetParam(), Fault::kCut, little, ever);
  EXPECT_TRUE(absl::IsUnavailable(cut.sent)) << cut.sent;
  EXPECT_TRUE(absl::IsUnavailable(cut.arrived)) << cut.arrived;
}

TEST_P(FaultyTest, HeldSendsAreCancelledAndClosed) {
  FaultOptions options = Told(true, {Fault::kDelay, Fault::kDelay});
  options.delay = absl::Seconds(60);
  Harmed harmed(GetParam(), std::move(options));
  auto source = harmed.faulty->Allocate(kSlab);
  WatchedSlice first(*source, 0, 10), second(*source, 10, 10);
  Completion cancelled, closed;
  harmed.client->Send(1, first.Take(), Patience(), cancelled.ForSend());
  harmed.client->Send(2, second.Take(), Patience(), closed.ForSend());
  harmed.client->CancelSend(1);
  EXPECT_TRUE(absl::IsCancelled(cancelled.Wait()));
  EXPECT_TRUE(first.WaitFree());
  harmed.client->Close();
  EXPECT_TRUE(absl::IsUnavailable(closed.Wait()));
  EXPECT_TRUE(second.WaitFree());
  EXPECT_TRUE(harmed.client_inbox->Closed().ok());
}

// A mix of all faults on both payloads and messages: every operation completes once, every byte that arrives is right
// except the bits that were flipped, all memory comes back, and the next connection without faults is sound.
void RunMix(Carrier carrier, uint64_t seed) {
  SCOPED_TRACE(absl::StrCat("KVLINK_SEED=", seed));
  constexpr int kPayloads = 60;
  std::mt19937_64 random(seed);
  FaultOptions options;
  options.seed = seed;
  options.delay = absl::Milliseconds(random() % 20);
  options.freeze = absl::Milliseconds(random() % 50);
  options.payloads = {
      .drop = 0.03, .delay = 0.1, .reorder = 0.1, .corrupt = 0.1, .cut = seed % 3 == 0 ? 0.02 : 0, .freeze = 0.02};
  options.messages = options.payloads;
  Harmed harmed(carrier, options);
  auto source = harmed.faulty->Allocate(kPayloads * kSlab),
       target = harmed.server_transport->Allocate(kPayloads * kSlab);
  std::vector<WatchedSlice> from, into;
  std::vector<Completion> sent(kPayloads), arrived(kPayloads);
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(500);
  std::set<std::string> messages;
  for (int i = 0; i < kPayloads; ++i) {
    Fill({*source, i * kSlab, kSlab}, i);
    from.emplace_back(*source, i * kSlab, kSlab);
    into.emplace_back(*target, i * kSlab, kSlab);
  }
  for (int i = 0; i < kPayloads; ++i) {
    harmed.accepted->PostReceive(i, into[i].Take(), deadline, arrived[i].ForReceive());
    harmed.client->Send(i, from[i].Take(), deadline, sent[i].ForSend());
    harmed.client->SendMessage(absl::StrCat("message ", i)).IgnoreError();
    if (random() % 10 == 0) harmed.client->CancelSend(random() % kPayloads);
    if (random() % 10 == 0) harmed.accepted->CancelReceive(random() % kPayloads);
  }
  int wrong = 0;
  for (int i = 0; i < kPayloads; ++i) {
    const absl::Status send = sent[i].Wait(), receive = arrived[i].Wait();
    for (const absl::Status& status : {send, receive}) {
      ASSERT_TRUE(status.ok() || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status) ||
                  absl::IsUnavailable(status))
          << status;
    }
    ASSERT_TRUE(from[i].WaitFree());
    ASSERT_TRUE(into[i].WaitFree());
    ASSERT_TRUE(Check({*source, i * kSlab, kSlab}, i));
    wrong += receive.ok() && !Check({*target, i * kSlab, kSlab}, i);
  }
  auto struck = harmed.faulty->struck();
  EXPECT_LE(wrong, struck[Fault::kCorrupt]);
  EXPECT_TRUE(struck[Fault::kCut] > 0 || !harmed.client_inbox->closed());
  harmed.faulty->Enable(false);
  harmed.Connect();
  Completion last;
  harmed.accepted->PostReceive(1, {*target, 0, kSlab}, Patience(), last.ForReceive());
  harmed.client->Send(1, {*source, kSlab, kSlab}, Patience(), [](const absl::Status&) {});
  ASSERT_TRUE(last.Wait().ok()) << last.Wait();
  EXPECT_TRUE(Check({*target, 0, kSlab}, 1));
}

TEST_P(FaultyTest, MixOfFaults) {
  const uint64_t seeds = Soak() ? 120 : 6;
  for (uint64_t i = 0; i < seeds && !HasFailure(); ++i) RunMix(GetParam(), TestSeed() + i);
}

INSTANTIATE_TEST_SUITE_P(Carriers, FaultyTest, ::testing::Values(Carrier::kLoopback, Carrier::kUcx),
                         [](const auto& info) { return CarrierName(info.param); });

}  // namespace
}  // namespace kvlink::transport
