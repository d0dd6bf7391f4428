// Whatever ends a request, in whatever phase, ends it alone and once.
#include <map>
#include <thread>

#include "gmock/gmock.h"
#include "tests/worker/infer/scheduler_fixture.h"

namespace kvlink::infer {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kSoon = absl::Milliseconds(50);

class SchedulerEndsTest : public SchedulerTest {};

TEST_P(SchedulerEndsTest, CancelAndDeadlineEndEachPhase) {
  FillStore();
  std::mt19937_64 random(TestSeed());
  for (const bool cancel : {true, false}) {
    SCOPED_TRACE(cancel ? "cancel" : "deadline");
    Gate gate;
    testing::FaultyStore faulty(store_.get());
    faulty.HoldLayer(IdentityOf(2), 0, [&] { gate.Wait(); });
    const auto generator = MakeGenerator(&faulty, Options());
    const Request endless = Endless(*generator, random);
    const auto code = cancel ? absl::StatusCode::kCancelled : absl::StatusCode::kDeadlineExceeded;
    auto scheduler =
        std::make_unique<Scheduler>(generator.get(), Scheduler::Options{.max_running = 1, .landing_threads = 2});
    const absl::Cleanup open = [&] { gate.Open(); };
    const auto limited = [&](std::vector<int> documents, int64_t max_tokens) {
      Scheduler::Job job = JobOf(Short(random, std::move(documents)), max_tokens);
      if (!cancel) job.deadline = SteadyNow() + kSoon;
      return job;
    };
    const auto end = [&](const Submitted& submitted) {
      if (cancel) scheduler->Cancel(submitted.number);
      ExpectEnd(submitted, code);
    };
    // The first lands, alone; the second waits for a thread once a third lands, too.
    const Submitted landing = Submit(*scheduler, limited({2}, 4));
    if (cancel) gate.AwaitReached();
    const Submitted second = Submit(*scheduler, limited({2, 3}, 4));
    const Submitted waiting = Submit(*scheduler, limited({0}, 4));
    end(waiting);
    end(second);
    end(landing);
    EXPECT_EQ(scheduler->stats().waiting, 0);
    gate.Open();
    // One that runs, slowly enough to outlast it, and one that has landed but may not run.
    Gate behind;
    const absl::Cleanup behind_open = [&] { behind.Open(); };
    const Submitted running = Submit(*scheduler, JobOf(endless, kEndless), [&](size_t count) {
      if (count == 2) behind.Wait();
      if (count > 2) absl::SleepFor(kSoon);
      return true;
    });
    const Submitted landed = Submit(*scheduler, limited({0, 1}, 4));
    behind.Open();
    end(landed);
    scheduler->Cancel(running.number);
    ExpectEnd(running, absl::StatusCode::kCancelled);
    // And one that runs.
    Scheduler::Job job = JobOf(endless, kEndless);
    if (!cancel) job.deadline = SteadyNow() + kSoon;
    Submitted self;
    Gate known;
    self = Submit(*scheduler, std::move(job), [&](size_t count) {
      if (count != 3) return true;
      known.Wait();
      if (cancel) scheduler->Cancel(self.number);
      if (!cancel) absl::SleepFor(2 * kSoon);
      return true;
    });
    known.Open();
    ExpectEnd(self, code);
    if (cancel) {
      EXPECT_EQ(self.recorder->Await().tokens.size(), 3);
    }
    scheduler = nullptr;
    EXPECT_EQ(generator->free_pages(), 32 + 1024 / 64);
  }
}

// One runs at a time, and who is next is decided when there is room to land.
TEST_P(SchedulerEndsTest, OwnersTakeTurns) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  Gate gate;
  std::string order;
  Mutex mutex;
  Scheduler scheduler(generator.get(), {.max_running = 1, .landing_threads = 1});
  const absl::Cleanup open = [&] { gate.Open(); };
  std::vector<Submitted> submitted;
  const auto submit = [&](const std::string& owner, bool held) {
    Scheduler::Job job = JobOf(Short(random), 2);
    job.owner = owner;
    submitted.push_back(Submit(scheduler, std::move(job), [&, owner, held](size_t count) {
      if (count > 1) return true;
      {
        MutexLock lock(&mutex);
        order += owner;
      }
      if (held) gate.Wait();
      return true;
    }));
  };
  submit("a", true);
  gate.AwaitReached();
  for (int i = 0; i < 4; ++i) submit("a", false);
  submit("b", false);
  submit("b", false);
  submit("c", false);
  gate.Open();
  for (const Submitted& one : submitted) one.recorder->Await();
  MutexLock lock(&mutex);
  EXPECT_EQ(order, "abacbaaa");
}

TEST_P(SchedulerEndsTest, RefusesWhatCannotBeAnswered) {
  GeneratorOptions options = Options();
  options.private_tokens = 64;
  const auto generator = MakeGenerator(nullptr, options);
  std::mt19937_64 random(TestSeed());
  Gate gate;
  Scheduler scheduler(generator.get(), {.max_running = 1, .max_waiting = 2});
  const absl::Cleanup open = [&] { gate.Open(); };
  const auto refused = [&](const Request& request, int64_t max_tokens = 1) {
    return Offer(scheduler, JobOf(request, max_tokens), std::make_shared<Recorder>()).status();
  };
  EXPECT_EQ(refused(Short(random), 0).code(), absl::StatusCode::kInvalidArgument);
  Request links = Short(random, {0});
  links.linker = link::Linker::kLinks;
  EXPECT_EQ(refused(links).code(), absl::StatusCode::kFailedPrecondition);
  Request long_answer = Short(random);
  long_answer.answer_tokens = 4096;
  EXPECT_EQ(refused(long_answer).code(), absl::StatusCode::kInvalidArgument);
  Request large = Short(random, {0});
  large.linker = link::Linker::kFull;
  EXPECT_EQ(refused(large).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused(large).message(), HasSubstr("private KV"));

  std::vector<Submitted> accepted = {Submit(scheduler, Short(random), 2, [&](size_t) {
    gate.Wait();
    return true;
  })};
  gate.AwaitReached();
  for (int i = 0; i < 2; ++i) accepted.push_back(Submit(scheduler, Short(random), 2));
  EXPECT_EQ(refused(Short(random)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(scheduler.stats().refused, 6);
  gate.Open();
  for (const Submitted& one : accepted) EXPECT_TRUE(one.recorder->Await().status.ok());
}

TEST_P(SchedulerEndsTest, AnOwnerThatFillsTheQueueMakesRoomForOthers) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  Gate gate;
  Scheduler scheduler(generator.get(), {.max_running = 1, .max_waiting = 4});
  const absl::Cleanup open = [&] { gate.Open(); };
  const Submitted running = Submit(scheduler, Short(random), 2, [&](size_t) {
    gate.Wait();
    return true;
  });
  gate.AwaitReached();
  std::map<std::string, std::vector<std::shared_ptr<Recorder>>> recorders;
  const auto submit = [&](const std::string& owner) {
    Scheduler::Job job = JobOf(Short(random), 1);
    job.owner = owner;
    const auto recorder = std::make_shared<Recorder>();
    const absl::Status status = Offer(scheduler, std::move(job), recorder).status();
    if (status.ok()) recorders[owner].push_back(recorder);
    return status.code();
  };
  for (int i = 0; i < 4; ++i) EXPECT_EQ(submit("a"), absl::StatusCode::kOk);
  EXPECT_EQ(submit("a"), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(submit("b"), absl::StatusCode::kOk);
  EXPECT_EQ(submit("b"), absl::StatusCode::kResourceExhausted);  // it has its half
  EXPECT_EQ(submit("a"), absl::StatusCode::kResourceExhausted);
  gate.Open();
  const auto code = [&](const std::string& owner, size_t index) {
    return recorders[owner][index]->Await().status.code();
  };
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(code("b", i), absl::StatusCode::kOk);
  for (size_t i = 0; i < 4; ++i) {  // the newest gave way
    EXPECT_EQ(code("a", i), i < 2 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted) << i;
  }
  EXPECT_TRUE(running.recorder->Await().status.ok());
}

// What they displaced comes back, too.
TEST_P(SchedulerEndsTest, SeveralAreTakenTogetherOrNotAtAll) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  Gate gate;
  Scheduler scheduler(generator.get(), {.max_running = 1, .max_waiting = 4});
  const absl::Cleanup open = [&] { gate.Open(); };
  const Submitted running = Submit(scheduler, Short(random), 2, [&](size_t) {
    gate.Wait();
    return true;
  });
  gate.AwaitReached();
  const auto several = [&](const std::string& owner, int count, std::vector<std::shared_ptr<Recorder>>* recorders) {
    std::vector<Scheduler::Submission> submissions;
    for (int i = 0; i < count; ++i) {
      recorders->push_back(std::make_shared<Recorder>());
      submissions.push_back({JobOf(Short(random), 1), recorders->back()});
      submissions.back().job.owner = owner;
    }
    return scheduler.Submit(std::move(submissions));
  };
  std::vector<std::shared_ptr<Recorder>> taken, refused, displacing;
  const auto numbers = several("a", 4, &taken);
  ASSERT_TRUE(numbers.ok()) << numbers.status();
  EXPECT_EQ(numbers->size(), 4);
  EXPECT_EQ(several("b", 3, &refused).status().code(), absl::StatusCode::kResourceExhausted);  // two have room
  EXPECT_EQ(scheduler.stats().waiting, 4);
  EXPECT_EQ(scheduler.stats().refused, 3);
  EXPECT_EQ(scheduler.stats().submitted, 5);
  EXPECT_TRUE(several("b", 1, &displacing).ok());
  gate.Open();
  EXPECT_TRUE(running.recorder->Await().status.ok());
  for (size_t i = 0; i < taken.size(); ++i) EXPECT_EQ(taken[i]->Await().status.ok(), i < 3) << i;
  EXPECT_TRUE(displacing[0]->Await().status.ok());
  for (const auto& one : refused) EXPECT_FALSE(one->ended());
}

TEST_P(SchedulerEndsTest, AListenerEndsItsAnswer) {
  const auto generator = MakeGenerator(nullptr, Options());
  std::mt19937_64 random(TestSeed());
  Scheduler scheduler(generator.get(), {});
  const Request request = Short(random);
  const Submitted ended = Submit(scheduler, request, 100, [](size_t count) { return count < 3; });
  const Told told = ended.recorder->Await();
  EXPECT_TRUE(told.status.ok()) << told.status;
  EXPECT_EQ(static_cast<int>(told.end), static_cast<int>(End::kListener));
  EXPECT_EQ(told.tokens, Alone(*generator, request, 3).tokens);
}

TEST_P(SchedulerEndsTest, ADrainedSchedulerAnswersWhatItHasAndTakesNoMore) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  std::mt19937_64 random(TestSeed());
  for (const bool patient : {true, false}) {
    Scheduler scheduler(generator.get(), {});
    std::vector<Submitted> submitted;
    for (int i = 0; i < 6; ++i) submitted.push_back(Submit(scheduler, Short(random, {i % 4}), patient ? 4 : 1500));
    scheduler.Drain(SteadyNow() + (patient ? kPatience : absl::ZeroDuration()));
    for (const Submitted& one : submitted) {
      ASSERT_TRUE(one.recorder->ended());
      const Told told = one.recorder->Await();
      EXPECT_TRUE(told.status.ok() || (!patient && absl::IsCancelled(told.status))) << told.status;
      EXPECT_EQ(told.status.ok(), told.end != End::kError);
    }
    const auto late = Offer(scheduler, JobOf(Short(random), 1), std::make_shared<Recorder>());
    EXPECT_EQ(late.status().code(), absl::StatusCode::kUnavailable);
  }
}

TEST_P(SchedulerEndsTest, TheDestructorEndsRequestsInAllPhases) {
  FillStore();
  std::mt19937_64 random(TestSeed());
  Gate gate;
  testing::FaultyStore faulty(store_.get());
  faulty.HoldLayer(IdentityOf(2), 1, [&] { gate.Wait(); });
  const auto generator = MakeGenerator(&faulty, Options());
  std::vector<Submitted> submitted;
  {
    Scheduler scheduler(generator.get(), {.max_running = 2, .landing_threads = 2});
    const absl::Cleanup open = [&] { gate.Open(); };
    submitted.push_back(Submit(scheduler, Short(random, {2}), 4));
    gate.AwaitReached();
    for (int i = 0; i < 5; ++i) submitted.push_back(Submit(scheduler, Short(random, {i % 2}), 1500));
    submitted.push_back(Submit(scheduler, Short(random, {2, 0}), 4));
    // All of them end while a store still holds a landing thread.
    std::thread opener([&] {
      for (const Submitted& one : submitted) {
        const Told told = one.recorder->Await();
        EXPECT_TRUE(absl::IsCancelled(told.status) || told.end == End::kModel) << told.status;
      }
      gate.Open();
    });
    const absl::Cleanup join = [&] { opener.join(); };
    std::thread destroyer([&] { scheduler.Drain(absl::InfinitePast()); });
    destroyer.join();
  }
  EXPECT_EQ(generator->free_pages(), 32 + 1024 / 64);
  // Without a drain before.
  Submitted last;
  {
    Scheduler scheduler(generator.get(), {});
    last = Submit(scheduler, Short(random, {0}), 1500);
  }
  EXPECT_TRUE(last.recorder->ended());
}

INSTANTIATE_TEST_SUITE_P(Backends, SchedulerEndsTest, SchedulerBackends(),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
