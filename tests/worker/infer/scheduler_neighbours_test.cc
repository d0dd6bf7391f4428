// No request harms those beside it: not by what it asks for, not by a slow store, not by its hunger for private KV.
#include "tests/worker/infer/scheduler_fixture.h"

namespace kvlink::infer {
namespace {

class SchedulerNeighboursTest : public SchedulerTest {
 protected:
  // Takes private KV until only so many pages are left.
  std::vector<std::unique_ptr<Conversation>> Leave(Generator& generator, int64_t pages) const {
    std::mt19937_64 random(TestSeed());
    std::vector<std::unique_ptr<Conversation>> holding;
    while (generator.free_pages() > pages) holding.push_back(Start(generator, Short(random)));
    return holding;
  }
  static void AwaitThat(const std::function<bool()>& holds) {
    const absl::Time deadline = SteadyNow() + kPatience;
    while (!holds()) {
      ASSERT_LT(SteadyNow(), deadline) << "it never came about";
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
};

TEST_P(SchedulerNeighboursTest, WhatNoPassCouldComputeIsRefused) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  const Request endless = Endless(*generator, random);
  const auto vocab = static_cast<int32_t>(loaded_.model->config().vocab);
  Gate gate;
  Scheduler scheduler(generator.get(), {});
  const absl::Cleanup open = [&] { gate.Open(); };
  const Submitted running = Submit(scheduler, endless, kEndless, [&](size_t count) {
    if (count == 3) gate.Wait();
    return true;
  });
  gate.AwaitReached();
  std::vector<Request> wrong;
  for (const int32_t token : {vocab, -1}) {
    wrong.push_back(Short(random));
    wrong.back().prompt.after[0] = token;
    wrong.push_back(Short(random));
    wrong.back().prompt.before[0] = token;
    wrong.push_back(Short(random, {1}));
    wrong.back().documents[0].tokens[0] = token;
  }
  wrong.push_back(Short(random));
  wrong.back().sampling.temperature = -1;
  wrong.push_back(Short(random));
  wrong.back().sampling.top_p = 1.5;
  wrong.push_back(Short(random));
  wrong.back().rules.repetition_penalty = 0;
  wrong.push_back(Short(random));
  wrong.back().rules.presence_penalty = INFINITY;
  wrong.push_back(Short(random));
  wrong.back().rules.bias[vocab] = 1;
  wrong.push_back(Short(random));
  wrong.back().top_logprobs = kernels::kMaxLikeliest + 1;
  for (const Request& request : wrong) {
    const auto submitted = Offer(scheduler, JobOf(request, 2), std::make_shared<Recorder>());
    EXPECT_EQ(submitted.status().code(), absl::StatusCode::kInvalidArgument) << submitted.status();
  }
  gate.Open();
  EXPECT_TRUE(running.recorder->Await().status.ok()) << running.recorder->Await().status;
}

TEST_P(SchedulerNeighboursTest, SlowLandingsDelayNobodyWhoNeedsNone) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  std::mt19937_64 random(TestSeed());
  for (const bool one_owner : {true, false}) {
    SCOPED_TRACE(one_owner ? "one owner waits" : "all threads wait");
    Gate gate;
    testing::FaultyStore faulty(store_.get());
    faulty.HoldLayer(IdentityOf(2), 0, [&] { gate.Wait(); });
    const auto generator = MakeGenerator(&faulty, Options());
    Scheduler scheduler(generator.get(), {.landing_threads = one_owner ? 4 : 2});
    const absl::Cleanup open = [&] { gate.Open(); };
    EXPECT_TRUE(Submit(scheduler, Short(random, {0}), 2).recorder->Await().status.ok());  // now it is in memory
    const auto submit = [&](const Request& request, const std::string& owner) {
      Scheduler::Job job = JobOf(request, 4);
      job.owner = owner;
      return Submit(scheduler, std::move(job));
    };
    const Request slow = Short(random, {2});
    std::vector<Submitted> held;
    for (int i = 0; i < 4; ++i) held.push_back(submit(slow, one_owner || i < 2 ? "a" : "c"));
    gate.AwaitReached();
    std::vector<Request> requests = {Short(random), Short(random, {0})};
    if (one_owner) requests.push_back(Short(random, {1}));
    std::vector<Submitted> others;
    for (const Request& request : requests) others.push_back(submit(request, "b"));
    others.push_back(submit(requests[0], "a"));
    requests.push_back(requests[0]);
    for (size_t i = 0; i < others.size(); ++i) {
      ExpectSame(others[i].recorder->Await(), Alone(*quiet, requests[i], 4));
    }
    for (const Submitted& one : held) EXPECT_FALSE(one.recorder->ended());
    gate.Open();
    for (const Submitted& one : held) ExpectSame(one.recorder->Await(), Alone(*quiet, slow, 4));
  }
}

TEST_P(SchedulerNeighboursTest, AnEncodingTakenBackDelaysOnlyWhoReadsIt) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  std::mt19937_64 random(TestSeed());
  for (const bool cancel : {true, false}) {
    SCOPED_TRACE(cancel ? "cancelled" : "read again");
    Gate gate;
    testing::FaultyStore faulty(store_.get());
    faulty.TakeBack(IdentityOf(2), 12, 1);
    faulty.HoldLayer(IdentityOf(2), 0, [&] { gate.Wait(); });  // of the next lease
    const auto generator = MakeGenerator(&faulty, Options());
    const Request endless = Endless(*quiet, random);
    Request reads = endless;
    while (Alone(*quiet, reads, 60).end != End::kMaxTokens || reads.documents.empty()) reads = Short(random, {2, 0});
    Scheduler scheduler(generator.get(), {});
    const absl::Cleanup open = [&] { gate.Open(); };
    Gate both;
    const Submitted other = Submit(scheduler, endless, kEndless, [&](size_t count) {
      if (count == 1) both.Wait();
      return true;
    });
    both.AwaitReached();
    const Submitted reader = Submit(scheduler, reads, 60);
    both.Open();
    gate.AwaitReached();
    ExpectSame(other.recorder->Await(), Alone(*quiet, endless, kEndless));
    EXPECT_FALSE(reader.recorder->ended());
    EXPECT_EQ(scheduler.stats().running, 0);
    if (cancel) {
      scheduler.Cancel(reader.number);
      ExpectEnd(reader, absl::StatusCode::kCancelled);
    }
    gate.Open();
    if (!cancel) ExpectSame(reader.recorder->Await(), Alone(*quiet, reads, 60));
    scheduler.Drain(SteadyNow() + kPatience);
    EXPECT_EQ(faulty.taken_back(), 1);
    EXPECT_GT(generator->stats().lapsed, 0);
    EXPECT_EQ(scheduler.stats().preempted, 0);
  }
}

// Its first stage takes one page, its second two.
TEST_P(SchedulerNeighboursTest, AStageThatChoosesCountsWhatItMayChoose) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  Request chooses = Short(random, {0});
  chooses.linker = {link::Linker::kConcat, 0, link::Linker::kProphet, 100};
  const Told alone = Alone(*generator, chooses, 3);
  Request first = Short(random);
  while (Alone(*generator, first, 40).end != End::kMaxTokens) first = Short(random);
  const auto holding = Leave(*generator, 2);
  Gate gate;
  {
    Scheduler scheduler(generator.get(), {});
    const absl::Cleanup open = [&] { gate.Open(); };
    const Submitted running = Submit(scheduler, first, 40, [&](size_t count) {
      if (count == 1) gate.Wait();
      return true;
    });
    gate.AwaitReached();
    const Submitted choosing = Submit(scheduler, chooses, 3);
    gate.Open();
    EXPECT_TRUE(running.recorder->Await().status.ok()) << running.recorder->Await().status;
    ExpectSame(choosing.recorder->Await(), alone);
    EXPECT_LE(scheduler.stats().preempted, 2);
  }
  GeneratorOptions options = Options();
  options.private_tokens = 64;
  const auto small = MakeGenerator(nullptr, options);
  Scheduler scheduler(small.get(), {});
  const auto refused = Offer(scheduler, JobOf(chooses, 1), std::make_shared<Recorder>());
  EXPECT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("private KV"), std::string::npos) << refused.status();
}

TEST_P(SchedulerNeighboursTest, OneThatComputesAloneKeepsItsPages) {
  FillStore();
  std::mt19937_64 random(TestSeed());
  Request large = Short(random, {2});
  large.prompt.after = RandomTokens(random, 205, loaded_.model->config().vocab);  // four pages
  enum { kFree, kGrows, kLacks };
  for (const int what : {kFree, kGrows, kLacks}) {
    SCOPED_TRACE(what);
    Gate gate, held;
    testing::FaultyStore faulty(store_.get());
    faulty.HoldLayer(IdentityOf(2), 1, [&] { gate.Wait(); });
    GeneratorOptions options = Options();
    if (what != kFree) options.prefill_chunk = 64;
    const auto generator = MakeGenerator(&faulty, options);
    const auto quiet = MakeGenerator(store_.get(), options);
    Request grows = Short(random);
    while (Alone(*quiet, grows, 80).end != End::kMaxTokens) grows = Short(random);
    const auto holding = Leave(*generator, 5);
    {
      Scheduler scheduler(generator.get(), {});
      const absl::Cleanup open = [&] {
        gate.Open();
        held.Open();
      };
      const Submitted alone = Submit(scheduler, large, 4);
      gate.AwaitReached();
      const Submitted other = Submit(scheduler, grows, what == kFree ? 10 : 80, [&](size_t count) {
        if (what == kLacks && count == 3) held.Wait();
        return what != kLacks || count < 3;
      });
      if (what == kFree) {
        // The one page that it has left is there for others, while it waits with its own.
        ExpectSame(other.recorder->Await(), Alone(*quiet, grows, 10));
      } else if (what == kGrows) {
        AwaitThat([&] { return scheduler.stats().preempted > 0 || other.recorder->ended(); });
        EXPECT_FALSE(other.recorder->ended());
      } else {
        held.AwaitReached();
        const auto taken = Start(*generator, Short(random));
        gate.Open();
        AwaitThat([&] { return generator->free_pages() == 0; });
        absl::SleepFor(absl::Milliseconds(20));  // it lacks one
      }
      held.Open();
      gate.Open();
      ExpectSame(alone.recorder->Await(), Alone(*quiet, large, 4));
      if (what == kGrows) ExpectSame(other.recorder->Await(), Alone(*quiet, grows, 80));
    }
  }
}

TEST_P(SchedulerNeighboursTest, StatisticsDoNotDependOnPreemption) {
  std::mt19937_64 random(TestSeed());
  const auto generator = MakeGenerator(nullptr, Options());
  const auto quiet = MakeGenerator(nullptr, Options());
  Request first = Short(random), second = first;
  while (Alone(*quiet, first, 100).end != End::kMaxTokens) first = Short(random);
  second.linker = {link::Linker::kConcat, 4};
  while (second.documents.empty() || Alone(*quiet, second, 100).end != End::kMaxTokens) {
    second = Short(random, {3, 0, 1});
    second.linker = {link::Linker::kConcat, 4};
  }
  quiet->pool().Clear();
  const Told alone = Alone(*quiet, second, 100);
  const auto holding = Leave(*generator, 3);
  Gate gate;
  Scheduler scheduler(generator.get(), {});
  const absl::Cleanup open = [&] { gate.Open(); };
  const Submitted running = Submit(scheduler, first, 100, [&](size_t count) {
    if (count == 1) gate.Wait();
    if (generator->stats().encoded < 3) absl::SleepFor(absl::Milliseconds(20));  // the other one is to join soon
    return true;
  });
  gate.AwaitReached();
  const Submitted preempted = Submit(scheduler, second, 100);
  gate.Open();
  EXPECT_TRUE(running.recorder->Await().status.ok());
  const Told told = preempted.recorder->Await();
  ExpectSame(told, alone);
  EXPECT_GT(scheduler.stats().preempted, 0);
  EXPECT_GT(told.stats.repeated_tokens, 0);
  EXPECT_EQ(alone.stats.repeated_tokens, 0);
  EXPECT_EQ(told.stats.fresh_tokens, alone.stats.fresh_tokens);
  EXPECT_EQ(told.stats.recomputed_tokens, alone.stats.recomputed_tokens);
  EXPECT_EQ(told.stats.documents_encoded, alone.stats.documents_encoded);
  EXPECT_EQ(told.stats.documents_resident, alone.stats.documents_resident);
  EXPECT_EQ(told.stats.read_tokens, alone.stats.read_tokens);
  EXPECT_EQ(told.stats.stored_tokens, alone.stats.stored_tokens);
}

// Not even while its documents land again.
TEST_P(SchedulerNeighboursTest, NoNewcomerOvertakesWhoGaveUpItsPrivateKv) {
  FillStore();
  std::mt19937_64 random(TestSeed());
  const auto quiet = MakeGenerator(store_.get(), Options());
  Gate gate, both, again;
  testing::FaultyStore faulty(store_.get());
  faulty.TakeBack(IdentityOf(2), 1 << 30, 1);  // the first lease is left alone
  faulty.HoldLayer(IdentityOf(2), 0, [&] { again.Wait(); });
  GeneratorOptions options = Options();
  options.resident_budget_bytes = 0;
  const auto generator = MakeGenerator(&faulty, options);
  Request large = Short(random), gives = Short(random, {2});
  while (Alone(*quiet, large, 100).end != End::kMaxTokens) large = Short(random);
  while (Alone(*quiet, gives, 100).end != End::kMaxTokens) gives = Short(random, {2});
  const auto holding = Leave(*generator, 3);
  std::atomic<bool> joined{false}, before{false};
  Scheduler scheduler(generator.get(), {});
  const absl::Cleanup open = [&] {
    for (Gate* one : {&gate, &both, &again}) one->Open();
  };
  const Submitted first = Submit(scheduler, large, 100, [&](size_t count) {
    if (count == 1) both.Wait();
    if (!joined) absl::SleepFor(absl::Milliseconds(20));
    if (scheduler.stats().preempted > 0) gate.Wait();
    return true;
  });
  both.AwaitReached();
  const Submitted second = Submit(scheduler, gives, 100, [&](size_t) { return joined = true; });
  both.Open();
  gate.AwaitReached();
  again.AwaitReached();
  const Submitted newcomer = Submit(scheduler, Short(random), 2, [&](size_t) {
    before = before || !first.recorder->ended();
    return true;
  });
  gate.Open();
  EXPECT_TRUE(first.recorder->Await().status.ok()) << first.recorder->Await().status;
  again.Open();
  for (const Submitted& one : {second, newcomer}) {
    EXPECT_TRUE(one.recorder->Await().status.ok()) << one.recorder->Await().status;
  }
  EXPECT_FALSE(before);
  EXPECT_EQ(scheduler.stats().preempted, 1);
}

TEST_P(SchedulerNeighboursTest, ALongPromptDoesNotDelayAShortOne) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  Request large = Short(random);
  large.prompt.after = RandomTokens(random, 400, loaded_.model->config().vocab);
  Gate gate;
  std::string order;  // of the scheduler's thread
  Scheduler scheduler(generator.get(), {.pass_tokens = 40});
  const absl::Cleanup open = [&] { gate.Open(); };
  const Submitted running = Submit(scheduler, Short(random), 2, [&](size_t) {
    gate.Wait();
    return true;
  });
  gate.AwaitReached();
  const Submitted long_one = Submit(scheduler, large, 1, [&](size_t) {
    order += "long";
    return true;
  });
  const Submitted short_one = Submit(scheduler, Short(random), 1, [&](size_t) {
    order += "short";
    return true;
  });
  gate.Open();
  for (const Submitted& one : {running, long_one, short_one}) one.recorder->Await();
  EXPECT_EQ(order, "shortlong");
}

TEST_P(SchedulerNeighboursTest, OptionsAreAtLeastOne) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  const Request request = Short(random, {1});
  Scheduler scheduler(generator.get(), {.max_running = 0, .pass_tokens = 0, .landing_threads = 0});
  std::vector<Submitted> submitted;
  for (int i = 0; i < 3; ++i) submitted.push_back(Submit(scheduler, request, 3));
  for (const Submitted& one : submitted) ExpectSame(one.recorder->Await(), Alone(*generator, request, 3));
}

// Its sums would be rounded in another way, and so choose other tokens.
TEST_P(SchedulerNeighboursTest, AQuestionThatIsObservedIsNotSplit) {
  const auto generator = MakeGenerator(nullptr, Options());
  Request request = Ask({0, 3});
  request.linker = {link::Linker::kConcat, 0, link::Linker::kProphet, 20};
  auto conversation = generator->Admit(request);
  ASSERT_TRUE(conversation.ok()) << conversation.status();
  for (const int64_t fed : {4, 1, 9}) {
    Work work{conversation->get(), 4};
    generator->Pass(absl::MakeSpan(&work, 1), {});
    ASSERT_TRUE(work.status.ok()) << work.status;
    EXPECT_EQ(work.tokens, fed);
  }
  EXPECT_GT((*conversation)->prompt_left(), 9);  // of the next stage
}

INSTANTIATE_TEST_SUITE_P(Backends, SchedulerNeighboursTest, SchedulerBackends(),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
