// Shared by the tests of the scheduler: who listens, what holds a thread, and what a request answers alone.
#ifndef KVLINK_TESTS_WORKER_INFER_SCHEDULER_FIXTURE_H_
#define KVLINK_TESTS_WORKER_INFER_SCHEDULER_FIXTURE_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "tests/worker/infer/faulty_store.h"
#include "tests/worker/infer/fixture.h"
#include "worker/infer/scheduler.h"

namespace kvlink::infer {

using End = Scheduler::End;
inline constexpr absl::Duration kPatience = absl::Minutes(2);  // for what must happen

// What holds a thread until it is opened.
class Gate {
 public:
  void Wait() {
    MutexLock lock(&mutex_);
    reached_ = true;
    changed_.SignalAll();
    while (!open_) changed_.Wait(&mutex_);
  }
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.SignalAll();
  }
  void AwaitReached() {
    const absl::Time deadline = SteadyNow() + kPatience;
    MutexLock lock(&mutex_);
    while (!reached_) ASSERT_TRUE(changed_.WaitUntil(&mutex_, deadline)) << "nobody came";
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool reached_ ABSL_GUARDED_BY(mutex_) = false;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

struct Told {
  std::vector<int32_t> tokens;
  absl::Status status;
  End end = End::kError;
  RequestStats stats;
};

class Recorder final : public Scheduler::Listener {
 public:
  // Answers OnToken, given the number of tokens so far.
  explicit Recorder(std::function<bool(size_t)> on_token = nullptr) : on_token_(std::move(on_token)) {}
  bool OnToken(int32_t token) override {
    size_t count = 0;
    {
      MutexLock lock(&mutex_);
      EXPECT_EQ(ends_, 0);
      told_.tokens.push_back(token);
      count = told_.tokens.size();
    }
    return on_token_ == nullptr || on_token_(count);
  }
  void OnEnd(const absl::Status& status, End end, const RequestStats& stats) override {
    MutexLock lock(&mutex_);
    EXPECT_EQ(++ends_, 1);
    told_.status = status;
    told_.end = end;
    told_.stats = stats;
    changed_.SignalAll();
  }
  bool ended() const {
    MutexLock lock(&mutex_);
    return ends_ > 0;
  }
  Told Await() const {
    const absl::Time deadline = SteadyNow() + kPatience;
    MutexLock lock(&mutex_);
    while (ends_ == 0) {
      if (changed_.WaitUntil(&mutex_, deadline)) continue;
      ADD_FAILURE() << "it never ended";
      break;
    }
    return told_;
  }

 private:
  const std::function<bool(size_t)> on_token_;
  mutable Mutex mutex_;
  mutable CondVar changed_;
  int ends_ ABSL_GUARDED_BY(mutex_) = 0;
  Told told_ ABSL_GUARDED_BY(mutex_);
};

class SchedulerTest : public GeneratorTest {
 protected:
  struct Submitted {
    uint64_t number = 0;
    std::shared_ptr<Recorder> recorder;
  };
  static Scheduler::Job JobOf(const Request& request, int64_t max_tokens) {
    Scheduler::Job job;
    job.request = request;
    job.max_tokens = max_tokens;
    return job;
  }
  static Submitted Submit(Scheduler& scheduler, Scheduler::Job job, std::function<bool(size_t)> on_token = nullptr) {
    Submitted submitted{0, std::make_shared<Recorder>(std::move(on_token))};
    const auto number = scheduler.Submit(std::move(job), submitted.recorder);
    EXPECT_TRUE(number.ok()) << number.status();
    submitted.number = number.value_or(0);
    return submitted;
  }
  static Submitted Submit(Scheduler& scheduler, const Request& request, int64_t max_tokens,
                          std::function<bool(size_t)> on_token = nullptr) {
    return Submit(scheduler, JobOf(request, max_tokens), std::move(on_token));
  }
  Request Short(std::mt19937_64& random, std::vector<int> documents = {}) const {
    Request request = Ask(std::move(documents));
    request.prompt.after = RandomTokens(random, 9, loaded_.model->config().vocab);
    request.keep_logits = false;
    return request;
  }
  // The same by Start and Step.
  static Told Alone(Generator& generator, const Request& request, int64_t max_tokens) {
    Told told;
    const auto conversation = Start(generator, request);
    if (conversation == nullptr) return told;
    told.end = End::kModel;
    while (!generator.IsEnd(conversation->next())) {
      told.tokens.push_back(conversation->next());
      if (static_cast<int64_t>(told.tokens.size()) == max_tokens) {
        told.end = End::kMaxTokens;
        break;
      }
      EXPECT_TRUE(generator.Step(*conversation, {}).ok());
    }
    told.stats = conversation->stats();
    return told;
  }
  // One whose answer goes on.
  static constexpr int64_t kEndless = testing::kSanitized ? 100 : 400;
  Request Endless(Generator& generator, std::mt19937_64& random) const {
    while (true) {
      const Request request = Short(random);
      if (Alone(generator, request, kEndless).end == End::kMaxTokens) return request;
    }
  }
  static void ExpectSame(const Told& told, const Told& alone) {
    EXPECT_TRUE(told.status.ok()) << told.status;
    EXPECT_EQ(told.tokens, alone.tokens);
    EXPECT_EQ(static_cast<int>(told.end), static_cast<int>(alone.end));
    EXPECT_EQ(told.stats.prompt_tokens, alone.stats.prompt_tokens);
    EXPECT_GT(told.stats.time_to_first_token, absl::ZeroDuration());
  }
  static void ExpectEnd(const Submitted& submitted, absl::StatusCode code) {
    const Told told = submitted.recorder->Await();
    EXPECT_EQ(told.status.code(), code) << told.status;
    EXPECT_EQ(static_cast<int>(told.end), static_cast<int>(End::kError));
  }
  Identity IdentityOf(int document) const {
    return ComputeIdentity({loaded_.fingerprint, "", documents_[document].tokens}, "");
  }
  // With a wrapper, so that every linker can be asked for.
  GeneratorOptions Wrapped() const {
    GeneratorOptions options = Options();
    std::vector<float> rows(5 * loaded_.model->config().hidden);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(static_cast<float>(i));
    options.profile.wrapper = {"", 3, 2};
    options.wrapper = encode::MakeWrapper(3, 2, rows);
    options.private_tokens = 2048;
    return options;
  }
  Request Mixed(std::mt19937_64& random, int which) const {
    const link::Linker linkers[] = {link::Linker::kConcat,      {link::Linker::kConcat, 0, link::Linker::kProphet, 20},
                                    link::Linker::kFull,        {link::Linker::kConcat, 4, link::Linker::kBlend, 20},
                                    {link::Linker::kConcat, 2}, link::Linker::kConcat};
    std::vector<int> documents = {which % 4, (which + 1 + which / 4 % 3) % 4};
    if (which % 6 == 2) documents = {1, 3};  // the shortest: all of it is computed
    Request request = Short(random, documents);
    request.linker = linkers[which % 6];
    request.linker.packet = which % 6 == 5;
    request.prompt.after = RandomTokens(random, 1 + which % 17, loaded_.model->config().vocab);
    if (which % 3 == 1) {
      request.sampling.temperature = 1.5;
      request.sampling.seed = random();
    }
    return request;
  }
};

// The scalar backend: it computes a row in the same way whatever else is in the pass.
inline auto SchedulerBackends() { return ::testing::Values(testing::AllBackends().front()); }

}  // namespace kvlink::infer

#endif  // KVLINK_TESTS_WORKER_INFER_SCHEDULER_FIXTURE_H_
