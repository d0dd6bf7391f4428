// The parts of a node on their own: access lists, sessions, quotas, credit for pushes, the log.
#include <unistd.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/node/access.h"
#include "store/node/core.h"
#include "store/node/data/client_connection.h"
#include "store/node/data/context.h"
#include "store/node/data/memory_map.h"
#include "store/node/data/pull_credit.h"
#include "store/node/data/push_credit.h"
#include "store/node/quota.h"
#include "store/node/sessions.h"
#include "store/node/watch/log.h"

namespace kvlink::store::node {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kFile[] =
    "# comment\n"
    "ingest 0123456789abcdef write news,wiki\n"
    "\n"
    "ask\t fedcba9876543210  read *   # all of them\r\n";

TEST(Access, AFileGrantsWhatItSays) {
  const auto list = AccessList::Parse(kFile);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_TRUE(list->guarded());
  const auto ingest = list->Find("0123456789abcdef"), ask = list->Find("fedcba9876543210");
  ASSERT_TRUE(ingest.ok() && ask.ok());
  EXPECT_EQ(ingest->name, "ingest");
  EXPECT_TRUE(ingest->Allows(Right::kRead, "news").ok());
  EXPECT_TRUE(ingest->Allows(Right::kWrite, "wiki").ok());
  EXPECT_EQ(ingest->Allows(Right::kAdmin, "wiki").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ingest->Allows(Right::kRead, "new").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(ask->Allows(Right::kRead, "anything").ok());
  EXPECT_EQ(ask->Allows(Right::kWrite, "anything").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ask->AllowsAll(Right::kAdmin).code(), absl::StatusCode::kPermissionDenied);
  for (const char* key : {"", "0123456789abcde", "0123456789abcdef ", "ingest", "#"}) {
    EXPECT_EQ(list->Find(key).status().code(), absl::StatusCode::kUnauthenticated) << key;
  }
}

TEST(Access, RepairReadsAndNeitherWritesNorAdministers) {
  const auto list = AccessList::Parse("peer 0123456789abcdef repair *\nwriter 1123456789abcdef write *\n");
  ASSERT_TRUE(list.ok()) << list.status();
  const auto peer = list->Find("0123456789abcdef"), writer = list->Find("1123456789abcdef");
  ASSERT_TRUE(peer.ok() && writer.ok());
  EXPECT_TRUE(peer->Allows(Right::kRead, "ns").ok());
  EXPECT_TRUE(peer->AllowsAll(Right::kRepair).ok());
  for (const Right right : {Right::kWrite, Right::kAdmin}) EXPECT_FALSE(peer->Allows(right, "ns").ok());
  EXPECT_FALSE(writer->AllowsAll(Right::kRepair).ok());
}

TEST(Access, WithoutAFileEverybodyMayDoEverything) {
  const auto anybody = AccessList().Find("");
  ASSERT_TRUE(anybody.ok());
  EXPECT_TRUE(anybody->Allows(Right::kAdmin, "x").ok());
  EXPECT_TRUE(anybody->AllowsAll(Right::kAdmin).ok());
}

TEST(Access, MistakesAreNamedByTheirLineAndNeverTheKey) {
  const std::string key = "0123456789abcdef";
  const std::vector<std::string> lines = {
      "ask " + key + " read",           "ask short read *",          "ask " + key + " root *",
      "ask " + key + " read ,",         "ask " + key + " read a,*",  "ask " + key + " read * more",
      "ingest 1123456789abcdef read *", "ask " + key + " read \x01", "other " + key + " read *",
      "ask " + key + "\xc3\xa9 read *",
  };
  for (const std::string& line : lines) {
    const auto list = AccessList::Parse(absl::StrCat("ingest 0123456789abcdef write *\n", line, "\n"));
    EXPECT_EQ(list.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(list.status().message()), HasSubstr("line 2")) << line;
    EXPECT_THAT(std::string(list.status().message()), Not(HasSubstr(key)));
  }
  EXPECT_FALSE(AccessList::Parse("").ok());
  EXPECT_FALSE(AccessList::Parse("# nobody\n").ok());
  EXPECT_EQ(AccessList::Load("/nonexistent/access").status().code(), absl::StatusCode::kNotFound);
}

Grant Everything() { return *AccessList().Find(""); }

TEST(SessionsTest, PinsComeBackHoweverASessionEnds) {
  std::vector<std::string> unpinned;
  Sessions sessions({.sessions = 10}, absl::Milliseconds(200), [&](const engine::EncodingKey& key, uint64_t sequence) {
    unpinned.push_back(absl::StrCat(key.ns, sequence));
  });
  const auto closed = *sessions.Open(Everything(), "closed"), expires = *sessions.Open(Everything(), "expires");
  EXPECT_NE(closed->token(), expires->token());
  EXPECT_TRUE(closed->AddPin({"a", {}, Codec::kRawBf16}, 1));
  EXPECT_TRUE(closed->AddPin({"a", {}, Codec::kRawBf16}, 1));
  EXPECT_TRUE(closed->AddPin({"b", {}, Codec::kRawBf16}, 1));
  EXPECT_EQ(closed->TakePin({"b", {}, Codec::kRawBf16}), 1);
  EXPECT_EQ(closed->TakePin({"b", {}, Codec::kRawBf16}), std::nullopt);
  // Those of an encoding that is gone do not come back as pins of the next that has its name.
  EXPECT_TRUE(closed->AddPin({"d", {}, Codec::kRawBf16}, 2));
  EXPECT_TRUE(closed->AddPin({"d", {}, Codec::kRawBf16}, 3));
  EXPECT_TRUE(expires->AddPin({"c", {}, Codec::kRawBf16}, 7));
  sessions.Close(closed.get());
  EXPECT_THAT(unpinned, ElementsAre("a1", "a1", "d3"));
  EXPECT_FALSE(closed->AddPin({"a", {}, Codec::kRawBf16}, 1));
  EXPECT_EQ(closed->Check(Right::kRead, "a").code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(sessions.Find(closed->token()).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(sessions.Sweep(SteadyNow()), 0);
  EXPECT_EQ(sessions.Sweep(SteadyNow() + absl::Seconds(1)), 1);
  EXPECT_THAT(unpinned, ElementsAre("a1", "a1", "d3", "c7"));
  EXPECT_EQ(sessions.size(), 0);
  EXPECT_EQ(sessions.Renew(expires.get()).code(), absl::StatusCode::kUnauthenticated);
}

TEST(SessionsTest, AnswersAreRememberedWithinABound) {
  ReplyCache memory;
  std::string answer;
  EXPECT_EQ(memory.Begin(1, &answer), ReplyCache::State::kNew);
  EXPECT_EQ(memory.Begin(1, &answer), ReplyCache::State::kUnderWay);
  memory.Finish(1, "first");
  EXPECT_EQ(memory.Begin(1, &answer), ReplyCache::State::kAnswered);
  EXPECT_EQ(answer, "first");
  EXPECT_EQ(memory.Begin(2, &answer), ReplyCache::State::kNew);
  memory.Forget(2);
  EXPECT_EQ(memory.Begin(2, &answer), ReplyCache::State::kNew);
  for (uint64_t id = 10; id < 1000; ++id) memory.Finish(id, "x");
  EXPECT_EQ(memory.Begin(999, &answer), ReplyCache::State::kAnswered);
  EXPECT_EQ(memory.Begin(1, &answer), ReplyCache::State::kNew);       // forgotten
  EXPECT_EQ(memory.Begin(2, &answer), ReplyCache::State::kUnderWay);  // what is under way is not
  for (uint64_t id = 2000; id < 2100; ++id) memory.Finish(id, std::string(8192, 'x'));
  EXPECT_EQ(memory.Begin(2099, &answer), ReplyCache::State::kAnswered);
  EXPECT_EQ(memory.Begin(2050, &answer), ReplyCache::State::kNew);
}

Grant GrantOf(const std::string& name, Right right = Right::kRead) {
  Grant grant;
  grant.name = name;
  grant.right = right;
  grant.every_namespace = true;
  return grant;
}

TEST(QuotaTest, LeavesSomethingToWhoeverComesNext) {
  Quota quota("things", 1000, 100);
  std::vector<int64_t> held;
  for (int holder = 0; holder < 4; ++holder) {
    const Grant grant = GrantOf(absl::StrCat("key-", holder));
    absl::Status status;
    while ((status = quota.Take(grant)).ok()) {
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr(grant.name));
    held.push_back(quota.taken(grant));
  }
  EXPECT_EQ(held[0], 450);  // half of what is not for administrators
  EXPECT_EQ(held[1], 225);
  for (const int64_t one : held) EXPECT_GT(one, 50);
  // An administrator takes what is left, and what is kept for it.
  const Grant admin = GrantOf("admin", Right::kAdmin);
  int64_t got = 0;
  while (quota.Take(admin).ok()) ++got;
  EXPECT_GE(got, 100);
  EXPECT_EQ(quota.taken(), 1000);
  EXPECT_FALSE(quota.Take(GrantOf("late")).ok());
  quota.Return(admin, got);
  quota.Return(GrantOf("key-0"), held[0]);
  EXPECT_EQ(quota.taken(GrantOf("key-0")), 0);
  EXPECT_TRUE(quota.Take(GrantOf("late")).ok());
}

TEST(QuotaTest, OneIsAlwaysLetIn) {
  Quota quota("things", 2, 0);
  EXPECT_TRUE(quota.Take(GrantOf("a")).ok());
  EXPECT_FALSE(quota.Take(GrantOf("a")).ok());
  EXPECT_TRUE(quota.Take(GrantOf("b")).ok());
}

// A network that is told of memory: it goes on using the pages that were there then.
class PinningTransport : public transport::Transport {
 public:
  class Buffer : public transport::RegisteredBuffer {
   public:
    Buffer(std::byte* data, int64_t bytes, std::multiset<std::pair<std::byte*, int64_t>>* pinned)
        : RegisteredBuffer(data, bytes, {}), pinned_(pinned) {
      pinned_->insert({data, bytes});
    }
    ~Buffer() override { pinned_->erase(pinned_->find({data(), size()})); }

   private:
    std::multiset<std::pair<std::byte*, int64_t>>* const pinned_;
  };
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Allocate(int64_t) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<std::shared_ptr<transport::RegisteredBuffer>> Register(std::byte* data, int64_t bytes,
                                                                        const transport::MemoryPlace&,
                                                                        std::shared_ptr<void>) override {
    return std::make_shared<Buffer>(data, bytes, &pinned);
  }
  absl::StatusOr<std::unique_ptr<transport::Listener>> Listen(absl::string_view, transport::Accept) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<std::shared_ptr<transport::Connection>> Connect(absl::string_view,
                                                                 std::shared_ptr<transport::ConnectionEvents>,
                                                                 absl::Time) override {
    return absl::UnimplementedError("");
  }
  transport::TransportStats Stats() const override { return {}; }

  std::multiset<std::pair<std::byte*, int64_t>> pinned;
};

TEST(MemoryMapTest, RegistrationsFollowThePages) {
  constexpr int64_t kChunk = 4096;
  std::vector<std::byte> memory(4 * kChunk);
  PinningTransport network, late;
  MemoryMap map;
  const size_t number = map.AddTransport(&network);
  engine::TierMemory tier;
  tier.number = 7;
  tier.bytes = static_cast<int64_t>(memory.size());
  map.AddMemory(tier);
  EXPECT_TRUE(network.pinned.empty());  // no page is there
  const auto chunk = [&](int index) {
    return engine::TierChunk{index, 7, index * kChunk, memory.data() + index * kChunk, kChunk};
  };
  for (const int index : {0, 1, 3}) map.AddChunk(chunk(index));
  EXPECT_EQ(network.pinned.size(), 3u);
  const auto slice = map.Find(number, {7, kChunk + 100}, 200);
  ASSERT_TRUE(slice.ok()) << slice.status();
  EXPECT_EQ(slice->data(), memory.data() + kChunk + 100);
  EXPECT_EQ(slice->buffer->size(), kChunk);
  // Over two chunks; over a hole; outside.
  EXPECT_EQ(map.Find(number, {7, kChunk - 8}, 16)->data(), memory.data() + kChunk - 8);
  EXPECT_EQ(network.pinned.size(), 4u);
  EXPECT_EQ(map.Find(number, {7, 2 * kChunk - 8}, 16).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(map.Find(number, {7, 2 * kChunk}, 16).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(map.Find(number, {8, 0}, 16).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(map.Find(number + 1, {7, 0}, 16).status().code(), absl::StatusCode::kUnavailable);
  // A transport added later is told of the chunks that are there.
  EXPECT_EQ(map.AddTransport(&late), number + 1);
  EXPECT_EQ(late.pinned.size(), 3u);
  // The pages of a chunk go: nobody holds any of them, and what comes in their place is registered anew.
  map.RemoveChunk(chunk(0));
  EXPECT_EQ(network.pinned, (std::multiset<std::pair<std::byte*, int64_t>>{{memory.data() + kChunk, kChunk},
                                                                           {memory.data() + 3 * kChunk, kChunk}}));
  EXPECT_EQ(map.Find(number, {7, 0}, 16).status().code(), absl::StatusCode::kUnavailable);
  map.AddChunk(chunk(0));
  EXPECT_TRUE(map.Find(number, {7, 0}, 16).ok());
  map.Clear();
  EXPECT_EQ(network.pinned.size(), 1u);  // the slice's
}

// Notes which of those that wait are asked.
struct Asked {
  std::function<void()> As(int who) {
    return [this, who] { order.push_back(who); };
  }
  std::vector<int> order;
};

TEST(PullCreditTest, TheKeyThatWasSentTheLeastGoesFirst) {
  PullCredit credit(1000, 100, absl::Hours(1));
  Asked asked;
  const PullCredit::Pull greedy{"greedy", 1, Tier::kDram}, modest{"modest", 2, Tier::kDram};
  credit.Began(greedy);
  EXPECT_TRUE(credit.Take(greedy, 500, asked.As(0)));
  EXPECT_TRUE(credit.Take(greedy, 500, asked.As(0)));  // nobody else pulls
  EXPECT_FALSE(credit.Take(greedy, 1, asked.As(1)));
  credit.Began(modest);
  EXPECT_TRUE(credit.Take(modest, 300, asked.As(0)));
  EXPECT_TRUE(credit.Take(modest, 300, asked.As(0)));
  credit.Return(greedy, 500);
  EXPECT_THAT(asked.order, ElementsAre());  // 500 are in flight
  credit.Return(greedy, 450);
  EXPECT_THAT(asked.order, ElementsAre(1));
  EXPECT_FALSE(credit.Take(greedy, 60, asked.As(2)));
  credit.Return(modest, 600);
  credit.Ended(modest);
  credit.Return(greedy, 50);
  EXPECT_THAT(asked.order, ElementsAre(1, 2));
}

TEST(PullCreditTest, MemoryGoesBeforeDisk) {
  PullCredit credit(1000, 100, absl::Hours(1));
  const PullCredit::Pull memory{"a", 1, Tier::kDram}, disk{"b", 2, Tier::kDisk}, memory_too{"b", 2, Tier::kDram};
  for (const PullCredit::Pull* pull : {&memory, &disk}) credit.Began(*pull);
  EXPECT_TRUE(credit.Take(memory, 500, [] {}));
  EXPECT_TRUE(credit.Take(memory, 500, [] {}));
  EXPECT_TRUE(credit.Take(disk, 100, [] {}));
  EXPECT_FALSE(credit.Take(disk, 1, [] {}));
  credit.Began(memory_too);
  EXPECT_TRUE(credit.Take(memory_too, 500, [] {}));  // its key was sent less
}

TEST(PullCreditTest, AConnectionWaitsForItselfAlone) {
  PullCredit credit(100, 10, absl::Hours(1));
  Asked asked;
  const PullCredit::Pull stuck{"a", 1, Tier::kDram}, ends{"a", 1, Tier::kDram}, waits{"a", 1, Tier::kDram},
      moves{"a", 2, Tier::kDram};
  for (const PullCredit::Pull* pull : {&stuck, &ends, &waits, &moves}) credit.Began(*pull);
  EXPECT_TRUE(credit.Take(stuck, 1000, asked.As(0)));  // one piece always
  EXPECT_FALSE(credit.Take(ends, 10, asked.As(1)));
  EXPECT_FALSE(credit.Take(waits, 10, asked.As(2)));
  EXPECT_TRUE(credit.Take(moves, 100, asked.As(0)));
  EXPECT_FALSE(credit.Take(moves, 10, asked.As(3)));
  credit.Return(moves, 100);
  EXPECT_THAT(asked.order, ElementsAre(3));
  credit.Ended(ends);  // is asked no more
  credit.Return(stuck, 1000);
  EXPECT_THAT(asked.order, ElementsAre(3, 2));
}

TEST(PullCreditTest, WhatWasSentLongAgoDoesNotCount) {
  PullCredit credit(1000, 1, absl::Nanoseconds(1));
  const PullCredit::Pull a{"a", 1, Tier::kDram}, b{"b", 2, Tier::kDram};
  for (const PullCredit::Pull* pull : {&a, &b}) credit.Began(*pull);
  EXPECT_TRUE(credit.Take(a, 10, [] {}));
  absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(credit.Take(b, 1, [] {}));
  absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(credit.Take(a, 10, [] {}));
}

TEST(PushCreditTest, AWriterThatSendsNothingDoesNotStopOthers) {
  PushCredit credit(100, 10, absl::ZeroDuration());
  std::vector<int> asked;
  const auto waiter = [&](int who) { return [&asked, who] { asked.push_back(who); }; };
  EXPECT_TRUE(credit.Take("stuck", 60, waiter(0)));
  credit.PullBegan();
  EXPECT_TRUE(credit.Take("b", 10, waiter(1)));  // nothing of it is on its way
  EXPECT_FALSE(credit.Take("stuck", 10, waiter(3)));
  EXPECT_FALSE(credit.Take("b", 10, waiter(2)));  // pulls are served
  credit.Return("b", 10);
  EXPECT_THAT(asked, ElementsAre(2));  // "stuck" came first, and is passed over
  credit.Return("stuck", 60);
  EXPECT_THAT(asked, ElementsAre(2, 3));
  credit.PullEnded();
}

TEST(PushCreditTest, ShrinksWhilePullsAreServed) {
  PushCredit credit(100, 20, absl::ZeroDuration());
  std::vector<int> asked;
  const auto waiter = [&](int who) { return [&asked, who] { asked.push_back(who); }; };
  EXPECT_TRUE(credit.Take("a", 60, waiter(1)));
  EXPECT_TRUE(credit.Take("a", 40, waiter(2)));
  EXPECT_FALSE(credit.Take("a", 1, waiter(3)));
  credit.Return("a", 60);
  EXPECT_THAT(asked, ElementsAre(3));
  credit.PullBegan();
  EXPECT_FALSE(credit.Take("a", 10, waiter(4)));  // 40 are on their way
  credit.Return("a", 40);
  EXPECT_THAT(asked, ElementsAre(3, 4));
  EXPECT_TRUE(credit.Take("a", 60, waiter(5)));  // one is always let in
  EXPECT_FALSE(credit.Take("a", 10, waiter(6)));
  credit.PullEnded();
  EXPECT_THAT(asked, ElementsAre(3, 4, 6));
  EXPECT_EQ(credit.taken(), 60);
}

TEST(PushCreditTest, StaysSmallShortlyAfterAPull) {
  PushCredit credit(100, 20, absl::Hours(1));
  credit.PullBegan();
  credit.PullEnded();
  EXPECT_TRUE(credit.Take("a", 15, [] {}));
  bool asked = false;
  EXPECT_FALSE(credit.Take("a", 15, [&] { asked = true; }));
  credit.Return("a", 15);
  EXPECT_TRUE(asked);
}

TEST(PushCreditTest, ThoseThatAreGoneDoNotHoldUpOthers) {
  PushCredit credit(10, 10, absl::ZeroDuration());
  EXPECT_TRUE(credit.Take("a", 10, [] {}));
  EXPECT_FALSE(credit.Take("a", 10, [] {}));  // takes nothing when asked
  bool asked = false;
  EXPECT_FALSE(credit.Take("a", 10, [&] { asked = true; }));
  credit.Return("a", 10);
  EXPECT_TRUE(asked);
}

TEST(LogTest, LinesAreJsonAndRepeatedEventsAreCounted) {
  std::vector<std::string> lines;
  Log log([&](absl::string_view line) { lines.emplace_back(line); });
  log.Info("event",
           {{"number", int64_t{-3}}, {"real", 0.5}, {"flag", true}, {"text", std::string("\u00e9\"b\\\n\xff")}});
  log.Flush();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("\"level\":\"info\",\"event\":\"event\",\"number\":-3,\"real\":0.5,\"flag\":true,"
                                  "\"text\":\"\u00e9\\\"b\\\\\\n\ufffd\"}"));
  EXPECT_THAT(lines[0], ::testing::StartsWith("{\"time\":\"2"));
  for (int i = 0; i < 1000; ++i) log.Warning("often");
  log.Flush();
  EXPECT_LT(lines.size(), 100u);
  log.Error("seldom");
  log.Flush();
  EXPECT_THAT(lines.back(), HasSubstr("seldom"));
  absl::SleepFor(absl::Milliseconds(400));
  log.Warning("often");
  log.Flush();
  EXPECT_THAT(lines.back(), HasSubstr("\"suppressed\":9"));
}

// Lets work wait until it is opened.
class Gate {
 public:
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.SignalAll();
  }
  void Pass() {
    MutexLock lock(&mutex_);
    while (!open_) changed_.Wait(&mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

TEST(LogTest, NobodyWaitsForWhoeverReadsIt) {
  Gate gate;
  std::vector<std::string> lines;
  Log log([&](absl::string_view line) {
    gate.Pass();
    lines.emplace_back(line);
  });
  // Each of its own event, so that none is suppressed: twice what may queue.
  const std::string text(64 << 10, 'x');
  for (int i = 0; i < 32; ++i) log.Info(absl::StrCat("event", i), {{"text", text}});
  EXPECT_GE(log.dropped(), 14);
  gate.Open();
  log.Flush();
  EXPECT_THAT(lines,
              ::testing::Contains(HasSubstr(absl::StrCat("\"event\":\"log_dropped\",\"lines\":", log.dropped()))));
  EXPECT_EQ(static_cast<int64_t>(lines.size()), 32 - log.dropped() + 1);
}

// Standard error is a pipe that is full: logging goes on, and so does the end.
TEST(LogTest, AFullStandardErrorHoldsUpNobody) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const int kept = dup(STDERR_FILENO);
  ASSERT_GE(dup2(ends[1], STDERR_FILENO), 0);
  {
    Log log(nullptr);
    const std::string text(64 << 10, 'x');
    for (int i = 0; i < 64; ++i) log.Info(absl::StrCat("event", i), {{"text", text}});
    EXPECT_GT(log.dropped(), 0);
  }
  dup2(kept, STDERR_FILENO);
  for (const int end : {ends[0], ends[1], kept}) close(end);
}

// An channel ends by telling its transport, and the node lets its transports go once all connections are gone.
TEST(ClientConnections, AreGoneOnceTheirChannelsAre) {
  class SlowToEnd : public ClientChannel {
   public:
    explicit SlowToEnd(std::atomic<bool>* ended) : ended_(ended) {}
    ~SlowToEnd() override {
      absl::SleepFor(absl::Milliseconds(50));
      ended_->store(true);
    }
    absl::Status Send(absl::string_view) override { return absl::OkStatus(); }
    void Close() override {}
    std::string peer() const override { return "nobody"; }

   private:
    std::atomic<bool>* const ended_;
  };
  Core core(
      NodeLimits(), AccessList(), [](absl::string_view) {}, nullptr);
  DataContext context(&core);
  std::atomic<bool> ended{false};
  auto connection = std::make_shared<ClientConnection>(&context, std::make_unique<SlowToEnd>(&ended), "test");
  EXPECT_FALSE(context.connections.WaitGone(SteadyNow()));
  std::thread releases([&] { connection = nullptr; });
  EXPECT_TRUE(context.connections.WaitGone(SteadyNow() + absl::Seconds(60)));
  EXPECT_TRUE(ended.load());
  releases.join();
}

}  // namespace
}  // namespace kvlink::store::node
