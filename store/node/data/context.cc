#include "store/node/data/context.h"

namespace kvlink::store::node {

DataContext::DataContext(Core* core)
    : core(core),
      limits(core->limits),
      log(core->log),
      traffic(core->traffic),
      pull_credit(limits.pull_bytes, limits.pull_bytes_behind, limits.pull_half_life),
      push_credit(limits.push_bytes, limits.push_bytes_beside_pulls, limits.push_yields),
      request_bytes("bytes of requests", limits.request_bytes, limits.request_bytes / limits.administrators_part),
      pull_quota("pulls", limits.pulls, limits.pulls / limits.administrators_part),
      push_quota("pushes", limits.pushes, limits.pushes / limits.administrators_part),
      lease_quota("leases", limits.leases, limits.leases / limits.administrators_part),
      answers(std::make_shared<transport::MessageBudget>(limits.answer_bytes)),
      serving(std::make_unique<Worker>(
          Worker::Options{.name = "serving", .threads = limits.serving_threads, .max_queued = limits.serving_queue})),
      indexing(std::make_unique<Worker>(Worker::Options{
          .name = "indexing", .threads = limits.indexing_threads, .max_queued = limits.indexing_queue, .nice = 5})),
      checking(std::make_unique<Worker>(
          Worker::Options{.name = "checking", .threads = 1, .max_queued = limits.checking_queue, .nice = 10})) {}

}  // namespace kvlink::store::node
