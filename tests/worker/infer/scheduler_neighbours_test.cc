// No request harms those beside it: not by what it asks for, not by a slow store, not by its hunger for private KV.
#include "tests/worker/infer/scheduler_fixture.h"

namespace kvlink::infer {
namespace {

class SchedulerNeighboursTest : public SchedulerTest {};

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
  for (const Request& request : wrong) {
    const auto submitted = scheduler.Submit(JobOf(request, 2), std::make_shared<Recorder>());
    EXPECT_EQ(submitted.status().code(), absl::StatusCode::kInvalidArgument) << submitted.status();
  }
  gate.Open();
  EXPECT_TRUE(running.recorder->Await().status.ok()) << running.recorder->Await().status;
}

INSTANTIATE_TEST_SUITE_P(Backends, SchedulerNeighboursTest, SchedulerBackends(),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
