// Many requests at once answer as each does alone, to the bit.
#include "worker/infer/scheduler.h"

#include "tests/worker/infer/scheduler_fixture.h"

namespace kvlink::infer {
namespace {

TEST_P(SchedulerTest, ManyAtOnceAnswerAsEachAlone) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Wrapped());
  std::mt19937_64 random(TestSeed());
  const int count = Soak() ? 200 : testing::kSanitized ? 12 : 32;
  std::vector<Request> requests;
  std::vector<Told> expected;
  int64_t tokens = 0;
  for (int i = 0; i < count; ++i) {
    requests.push_back(Mixed(random, i));
    expected.push_back(Alone(*quiet, requests.back(), 1 + i % 11));
    tokens += static_cast<int64_t>(expected.back().tokens.size());
  }
  for (const int64_t pass_tokens : {256, 24}) {
    SCOPED_TRACE(pass_tokens);
    const auto generator = MakeGenerator(store_.get(), Wrapped());
    Scheduler scheduler(generator.get(), {.pass_tokens = pass_tokens});
    std::vector<Submitted> submitted;
    for (int i = 0; i < count; ++i) submitted.push_back(Submit(scheduler, requests[i], 1 + i % 11));
    for (int i = 0; i < count; ++i) {
      SCOPED_TRACE(absl::StrCat("request ", i, ", ", link::LinkerName(requests[i].linker)));
      ExpectSame(submitted[i].recorder->Await(), expected[i]);
    }
    scheduler.Drain(SteadyNow() + kPatience);
    const Scheduler::Stats stats = scheduler.stats();
    EXPECT_EQ(stats.ended, count);
    EXPECT_EQ(stats.waiting + stats.running + stats.failed + stats.cancelled, 0);
    EXPECT_EQ(stats.answer_tokens, tokens);
    EXPECT_LT(stats.passes, tokens);
  }
}

TEST_P(SchedulerTest, OneThatComesAloneAnswersTheSame) {
  FillStore();
  store_->DropDramTier();
  const auto quiet = MakeGenerator(store_.get(), Wrapped());
  std::mt19937_64 random(TestSeed());
  const auto generator = MakeGenerator(store_.get(), Wrapped());
  Scheduler scheduler(generator.get(), {});
  for (int i = 0; i < 6; ++i) {
    const Request request = Mixed(random, i);
    const Told told = Submit(scheduler, request, 5).recorder->Await();
    const Told alone = Alone(*quiet, request, 5);
    ExpectSame(told, alone);
    EXPECT_EQ(told.stats.fresh_tokens, alone.stats.fresh_tokens);
    EXPECT_EQ(told.stats.decoded_tokens, alone.stats.decoded_tokens);
  }
  EXPECT_EQ(generator->stats().requests, 6);
}

// 33 pages, and prompts that fill one but for two tokens.
TEST_P(SchedulerTest, WhatGaveUpItsPrivateKvAnswersTheSame) {
  GeneratorOptions options = Options();
  options.private_tokens = 64;
  const auto generator = MakeGenerator(nullptr, options);
  std::mt19937_64 random(TestSeed());
  documents_[0] = {RandomTokens(random, 48, loaded_.model->config().vocab)};
  const int count = testing::kSanitized ? 36 : 40;
  std::vector<Request> requests;
  std::vector<Submitted> submitted;
  {
    Gate gate;  // until all are there, so that they want their second page together
    Scheduler scheduler(generator.get(), {.pass_tokens = 4096});
    const absl::Cleanup open = [&] { gate.Open(); };
    for (int i = 0; i < count; ++i) {
      requests.push_back(Short(random, {0}));
      requests.back().linker = link::Linker::kFull;
      requests.back().sampling.temperature = i % 2 == 0 ? 0 : 2;
      requests.back().sampling.seed = i;
      Rule(random, i, &requests.back());
      submitted.push_back(Submit(scheduler, requests.back(), 6, [&](size_t) {
        gate.Wait();
        return true;
      }));
    }
    gate.Open();
    for (const Submitted& one : submitted) one.recorder->Await();
    scheduler.Drain(SteadyNow() + kPatience);
    EXPECT_GT(scheduler.stats().preempted, 0);
    EXPECT_GE(scheduler.stats().prompt_tokens, count * 62 + scheduler.stats().preempted);
    EXPECT_EQ(scheduler.stats().ended, count);
  }
  EXPECT_EQ(generator->free_pages(), 33);
  for (int i = 0; i < count; ++i) {
    SCOPED_TRACE(i);
    ExpectSame(submitted[i].recorder->Await(), Alone(*generator, requests[i], 6));
  }
}

TEST_P(SchedulerTest, OneThatFillsPrivateKvByItselfFails) {
  GeneratorOptions options = Options();
  options.private_tokens = 64;
  const auto generator = MakeGenerator(nullptr, options);
  std::mt19937_64 random(TestSeed());
  std::vector<std::unique_ptr<Conversation>> holding;
  while (generator->free_pages() > 1) holding.push_back(Start(*generator, Short(random)));
  Scheduler scheduler(generator.get(), {});
  const Submitted submitted = Submit(scheduler, Short(random), 200);
  ExpectEnd(submitted, absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(submitted.recorder->Await().tokens.size(), 64 - 14 + 1);
  EXPECT_EQ(scheduler.stats().failed, 1);
}

TEST_P(SchedulerTest, ASlowStoreDelaysNobodyElse) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  std::mt19937_64 random(TestSeed());
  for (const bool first : {true, false}) {
    SCOPED_TRACE(first ? "the slow one comes first" : "the slow one comes to others");
    Gate gate;
    testing::FaultyStore faulty(store_.get());
    faulty.HoldLayer(IdentityOf(2), 1, [&] { gate.Wait(); });
    const auto generator = MakeGenerator(&faulty, Options());
    Scheduler scheduler(generator.get(), {.max_running = first ? 1 : 64});
    const absl::Cleanup open = [&] { gate.Open(); };
    const Request slow = Short(random, {0, 2});
    Submitted held;
    if (first) {
      held = Submit(scheduler, slow, 4);
      gate.AwaitReached();
    }
    std::vector<Request> requests;
    std::vector<Submitted> others;
    for (int i = 0; i < 6; ++i) {
      requests.push_back(Short(random, {i % 2, 3}));
      others.push_back(Submit(scheduler, requests.back(), 4));
      if (i == 2 && !first) held = Submit(scheduler, slow, 4);
    }
    for (size_t i = 0; i < others.size(); ++i) {
      ExpectSame(others[i].recorder->Await(), Alone(*quiet, requests[i], 4));
    }
    EXPECT_FALSE(held.recorder->ended());
    gate.Open();
    ExpectSame(held.recorder->Await(), Alone(*quiet, slow, 4));
  }
}

TEST_P(SchedulerTest, AFailingStoreFailsNobody) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  std::mt19937_64 random(TestSeed());
  testing::FaultyStore faulty(store_.get());
  faulty.FailLayer(IdentityOf(0), 0, absl::DataLossError("as told"));
  faulty.FailLayer(IdentityOf(2), 2, absl::UnavailableError("as told"));
  const auto generator = MakeGenerator(&faulty, Options());
  Scheduler scheduler(generator.get(), {});
  std::vector<Request> requests;
  std::vector<Submitted> submitted;
  for (int i = 0; i < 8; ++i) {
    requests.push_back(Short(random, {i % 4, (i + 1) % 4}));
    submitted.push_back(Submit(scheduler, requests.back(), 4));
  }
  for (size_t i = 0; i < submitted.size(); ++i) {
    ExpectSame(submitted[i].recorder->Await(), Alone(*quiet, requests[i], 4));
  }
  EXPECT_GE(generator->stats().damaged, 1);
  EXPECT_GE(generator->stats().late, 1);
}

TEST_P(SchedulerTest, AConversationThatCannotBeFedFailsAlone) {
  GeneratorOptions options = Options();
  options.private_tokens = 64;
  const auto generator = MakeGenerator(nullptr, options);
  std::mt19937_64 random(TestSeed());
  const auto able = Start(*generator, Ask({}));
  const auto same = Start(*generator, Ask({}));
  link::LinkPlan plan;
  plan.fresh_tokens = {5};
  plan.length = loaded_.model->config().context;
  plan.fresh_positions = {plan.length - 1};
  auto full = generator->StartPlanned(plan, Ask({}));
  ASSERT_TRUE(full.ok()) << full.status();
  Request exact = Ask({});
  exact.prompt.after = RandomTokens(random, 64 - 5, loaded_.model->config().vocab);
  const auto lacking = Start(*generator, exact);
  std::vector<std::unique_ptr<Conversation>> holding;
  while (generator->free_pages() > 0) holding.push_back(Start(*generator, Ask({})));

  std::vector<Work> works = {{lacking.get()}, {able.get()}, {full->get()}};
  generator->Pass(absl::MakeSpan(works), {});
  EXPECT_EQ(works[0].status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(works[0].lacks_pages);
  EXPECT_TRUE(works[1].status.ok()) << works[1].status;
  EXPECT_EQ(works[2].status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_FALSE(works[2].lacks_pages);
  // A batch that steps together does so as a whole.
  Conversation* const both[] = {same.get(), lacking.get()};
  EXPECT_EQ(generator->StepBatch(both, {}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(same->length(), 14);
  EXPECT_EQ(same->stats().decoded_tokens, 0);
  ASSERT_TRUE(generator->Step(*same, {}).ok());
  EXPECT_EQ(LogitsOf(*able), LogitsOf(*same));
  EXPECT_EQ(lacking->length(), 64);
  holding.clear();
  EXPECT_TRUE(generator->Step(*lacking, {}).ok());
}

// Not even if others read the same documents in another order. On the fast backend, which adds up in f32.
TEST_P(SchedulerTest, AResultDoesNotDependOnTheRestOfThePass) {
  loaded_ = LoadModel(directory_.path() + "/model", FastF32());
  const auto generator = MakeGenerator(nullptr, Options());
  const std::vector<std::vector<int>> asked = {{3, 2, 1, 0}, {0, 1, 2, 3}, {2, 0}, {}, {1, 3, 2}};
  std::vector<std::unique_ptr<Conversation>> alone, together;
  std::vector<Work> works;
  for (const std::vector<int>& documents : asked) {
    alone.push_back(Start(*generator, Ask(documents)));
    auto conversation = generator->Admit(Ask(documents));
    ASSERT_TRUE(conversation.ok()) << conversation.status();
    together.push_back(*std::move(conversation));
    works.push_back({together.back().get(), 100});
  }
  for (int step = 0; step < 3; ++step) {
    generator->Pass(absl::MakeSpan(works), {});
    for (size_t i = 0; i < asked.size(); ++i) {
      ASSERT_TRUE(works[i].status.ok()) << works[i].status;
      EXPECT_EQ(LogitsOf(*together[i]), LogitsOf(*alone[i])) << i;
      ASSERT_TRUE(generator->Step(*alone[i], {}).ok());
    }
  }
}

TEST_P(SchedulerTest, WhatHasLandedWaitsForNoLayer) {
  FillStore();
  testing::FaultyStore faulty(store_.get());
  faulty.FailLayer(IdentityOf(3), 1, absl::DataLossError("as told"));
  const auto generator = MakeGenerator(&faulty, Options());
  for (const link::Linker::Choice choice : {link::Linker::kNone, link::Linker::kBlend, link::Linker::kProphet}) {
    generator->pool().Clear();
    Request request = Ask({0, 3});
    if (choice != link::Linker::kNone) request.linker = {link::Linker::kConcat, 0, choice, 20};
    auto conversation = generator->Admit(request);
    ASSERT_TRUE(conversation.ok()) << conversation.status();
    EXPECT_FALSE((*conversation)->landed());
    EXPECT_EQ(generator->free_pages(), 32 + 1024 / 64);
    EXPECT_EQ(generator->LandDocuments(**conversation, {absl::ZeroDuration(), {}}).code(),
              absl::StatusCode::kDeadlineExceeded);
    ASSERT_TRUE(generator->LandDocuments(**conversation, {}).ok());
    const int asked = faulty.asked();
    while ((*conversation)->prompt_left() > 0) {
      EXPECT_TRUE((*conversation)->landed());
      Work work{conversation->get(), 50};
      generator->Pass(absl::MakeSpan(&work, 1), {});
      ASSERT_TRUE(work.status.ok()) << work.status;
    }
    EXPECT_EQ(faulty.asked(), asked);
    EXPECT_EQ(LogitsOf(**conversation), Expected(request));
    EXPECT_EQ((*conversation)->stats().documents_encoded, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, SchedulerTest, SchedulerBackends(),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
