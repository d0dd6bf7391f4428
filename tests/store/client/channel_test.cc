// A client's connection keeps nothing of requests that are over.
#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/clock.h"
#include "gtest/gtest.h"
#include "store/client/control/counters.h"
#include "store/client/data/mapped.h"
#include "store/client/data/mapped_lease.h"
#include "store/client/data/node_connection.h"
#include "tests/store/client/silent_connection.h"

namespace kvlink::testing {
namespace {

TEST(ChannelTest, ARefusedLeaseIsForgotten) {
  store::client::RequestSource source;
  store::client::ClientCounters counters;
  const auto tier = std::make_shared<store::client::SharedTier>(std::make_shared<store::client::VerifiedLayers>(),
                                                                std::make_shared<std::atomic<int64_t>>(0), &counters);
  const auto channel = std::make_shared<store::client::NodeConnection>(&source, tier);
  const auto connection = std::make_shared<SilentConnection>();
  channel->Bind(connection);
  auto state = std::make_shared<store::client::LeaseState>(channel, tier, nullptr);
  const std::weak_ptr<store::client::LeaseState> kept = state;
  const proto::Request request = channel->NewRequest("a", SteadyNow() + absl::Minutes(1), 7);
  ASSERT_TRUE(channel->Ask(request, state).ok());
  proto::Answer refusal;
  refusal.set_id(7);
  refusal.set_code(static_cast<uint32_t>(absl::StatusCode::kNotFound));
  channel->OnMessage(SerializeAnswer(refusal));
  EXPECT_EQ(state->Await(SteadyNow() + absl::Minutes(1)).status().code(), absl::StatusCode::kNotFound);
  state = nullptr;
  EXPECT_TRUE(kept.expired()) << "the channel keeps it";
  channel->OnClosed(absl::OkStatus());
}

}  // namespace
}  // namespace kvlink::testing
