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
#include "absl/strings/str_format.h"
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
  std::vector<SampledToken> sampled;  // the same
  absl::Status status;
  End end = End::kError;
  RequestStats stats;
};

// Allows a third of the tokens, by turns, and the end after four tokens.
class EveryThird final : public TokenFilter {
 public:
  void Allowed(absl::Span<uint32_t> bits) override {
    std::fill(bits.begin(), bits.end(), 0);
    for (size_t token = accepted_ % 3; token < bits.size() * 32; token += 3) {
      bits[token / 32] |= uint32_t{1} << (token % 32);
    }
  }
  void Accept(int32_t token) override { EXPECT_EQ(static_cast<size_t>(token) % 3, accepted_++ % 3); }
  bool MayEnd() const override { return accepted_ >= 4; }

 private:
  size_t accepted_ = 0;
};

class Recorder final : public Scheduler::Listener {
 public:
  // Answers OnToken, given the number of tokens so far.
  explicit Recorder(std::function<bool(size_t)> on_token = nullptr) : on_token_(std::move(on_token)) {}
  bool OnToken(const SampledToken& token) override {
    size_t count = 0;
    {
      MutexLock lock(&mutex_);
      EXPECT_EQ(ends_, 0);
      told_.tokens.push_back(token.token);
      told_.sampled.push_back(token);
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
  static absl::StatusOr<uint64_t> Offer(Scheduler& scheduler, Scheduler::Job job, std::shared_ptr<Recorder> recorder) {
    const auto numbers = scheduler.Submit({{std::move(job), std::move(recorder)}});
    if (!numbers.ok()) return numbers.status();
    return numbers->front();
  }
  static Submitted Submit(Scheduler& scheduler, Scheduler::Job job, std::function<bool(size_t)> on_token = nullptr) {
    Submitted submitted{0, std::make_shared<Recorder>(std::move(on_token))};
    const auto number = Offer(scheduler, std::move(job), submitted.recorder);
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
      told.sampled.push_back(conversation->sampled());
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
  // With every bit of the log-probabilities.
  static std::string Spelled(const std::vector<SampledToken>& sampled) {
    std::string text;
    for (const SampledToken& one : sampled) {
      absl::StrAppendFormat(&text, "%d %a", one.token, one.logprob);
      for (const auto& [token, logprob] : one.likeliest) absl::StrAppendFormat(&text, ", %d %a", token, logprob);
      text += "\n";
    }
    return text;
  }
  static void ExpectSame(const Told& told, const Told& alone) {
    EXPECT_TRUE(told.status.ok()) << told.status;
    EXPECT_EQ(told.tokens, alone.tokens);
    EXPECT_EQ(Spelled(told.sampled), Spelled(alone.sampled));
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
  // What changes the logits of an answer, and reports them; of each fourth nothing does.
  void Rule(std::mt19937_64& random, int which, Request* request) const {
    std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(loaded_.model->config().vocab) - 1);
    if (which % 4 == 1)
      request->rules = {.presence_penalty = 0.5, .frequency_penalty = 0.75, .repetition_penalty = 1.5};
    if (which % 4 == 2) {
      for (int i = 0; i < 20; ++i) request->rules.bias[token(random)] = i % 2 == 0 ? 1 : -100;
      request->rules.repetition_penalty = 0.75;
      request->top_logprobs = 3;
    }
    if (which % 4 == 3) {
      request->rules.frequency_penalty = -2;
      request->filter = [] { return std::make_shared<EveryThird>(); };
      request->top_logprobs = 0;
    }
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
    Rule(random, which, &request);
    return request;
  }
};

// The scalar backend: it computes a row in the same way whatever else is in the pass.
inline auto SchedulerBackends() { return ::testing::Values(testing::AllBackends().front()); }

}  // namespace kvlink::infer

#endif  // KVLINK_TESTS_WORKER_INFER_SCHEDULER_FIXTURE_H_
