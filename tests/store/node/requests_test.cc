// Refusals on a node's data path, and transfers that do not end as they should.
#include <sys/socket.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/descriptor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/node/fake_ownership.h"
#include "tests/store/node/one_node.h"
#include "transport/address.h"

namespace kvlink::testing {
namespace {

using ::testing::HasSubstr;

class RequestsTest : public OneNodeTest {
 protected:
  int64_t Value(const std::string& name) {
    RawControl control((*node_)->addresses().control);
    EXPECT_TRUE(control.Open().ok());
    const auto stats = control.Stats();
    EXPECT_TRUE(stats.ok()) << stats.status();
    return stats.ok() ? stats->values().at(name) : -1;
  }
  // Waits until a value of the node's statistics is as wanted.
  void Await(const std::string& name, int64_t wanted) {
    const absl::Time limit = Patience();
    while (Value(name) != wanted && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(20));
    EXPECT_EQ(Value(name), wanted) << name;
  }
  static proto::Request LookupOf(const std::string& ns) {
    proto::Request request;
    request.set_ns(ns);
    request.mutable_lookup()->set_codec(1);
    request.mutable_lookup()->set_identities(std::string(32, 'i'));
    return request;
  }
};

TEST_F(RequestsTest, HelloComesFirst) {
  StartNode();
  RawData data(transport_.get(), node_->data_address());
  EXPECT_EQ(data.Ask(LookupOf("a")).status().code(), absl::StatusCode::kUnauthenticated);
  // A token of no session ends the connection.
  EXPECT_EQ(data.Hello(std::string(16, 'x')).code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(absl::IsUnavailable(data.inbox()->Closed()));
}

TEST_F(RequestsTest, AConnectionThatSaysNothingIsClosed) {
  StartNode([](store::node::NodeOptions* options) { options->limits.hello_within = absl::Seconds(2); });
  RawData silent(transport_.get(), node_->data_address());
  const auto speaker = Connect();
  EXPECT_TRUE(absl::IsUnavailable(silent.inbox()->Closed()));
  EXPECT_TRUE(speaker->Ask(LookupOf("a")).ok());
}

TEST_F(RequestsTest, TheAddresseeMustBeTheNode) {
  StartNode();
  auto data = Connect();
  const uint64_t incarnation = control_->Open()->incarnation();
  proto::Request request = LookupOf("a");
  request.set_incarnation(incarnation - 1);
  EXPECT_EQ(data->Ask(request).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(data->Ask(LookupOf("")).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(data->Ask(LookupOf("a\x01")).status().code(), absl::StatusCode::kInvalidArgument);
  request = LookupOf("a");
  request.set_incarnation(incarnation);
  EXPECT_TRUE(data->Ask(request).ok());
  // Another start is another node.
  const std::string token = control_->token();
  data = nullptr;  // before its transport
  node_->Start();
  transport_ = node_->NewClientTransport();
  RawData later(transport_.get(), node_->data_address());
  EXPECT_EQ(later.Hello(token).code(), absl::StatusCode::kUnauthenticated);
  RawControl control((*node_)->addresses().control);
  EXPECT_GT(control.Open()->incarnation(), incarnation);
}

TEST_F(RequestsTest, WhatHasMovedIsSaidWithTheNodesEpoch) {
  const auto ownership = std::make_shared<FakeOwnership>();
  const Synthetic ours = MakeSynthetic(1), theirs = MakeSynthetic(2);
  ownership->Own(9, {ours.manifest.identity});
  ownership->MoveTo(9);
  StartNode([&](store::node::NodeOptions* options) { options->ownership = ownership; });
  const auto data = Connect();
  ASSERT_TRUE(data->Push("a", ours).ok());
  for (proto::Request request :
       {RawData::PushBegin("a", theirs), RawData::PullOf("a", theirs.manifest, /*first_payload=*/1, /*receives=*/8)}) {
    request.set_placement(8);
    const auto answer = data->Next(data->Send(request));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
    ASSERT_TRUE(answer->has_moved());
    EXPECT_EQ(answer->moved().epoch(), 9u);
  }
  // Where a request names many, each is answered for itself.
  const std::vector<Identity> both = {ours.manifest.identity, theirs.manifest.identity};
  const auto found = data->Lookup("a", both);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)[0].tier, 1);
  EXPECT_EQ((*found)[1].tier, kMovedTier);
  proto::Request pin;
  pin.set_ns("a");
  pin.mutable_action()->set_action(proto::EncodingAction::PIN);
  pin.mutable_action()->set_codec(1);
  pin.mutable_action()->set_identities(PackIdentities(both));
  const auto pinned = data->Ask(pin);
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_EQ(pinned->action_done().codes(), std::string("\0\x20", 2));
  EXPECT_EQ(pinned->action_done().epoch(), 9u);
}

TEST_F(RequestsTest, RightsAreCheckedWithEachRequest) {
  ScratchDirectory access(/*in_memory=*/true);
  WriteAccessFile(access.path() + "/access", "reader reader-key-123456 read a\nwriter writer-key-123456 write *\n");
  StartNode([&](store::node::NodeOptions* options) { options->access_file = access.path() + "/access"; });
  const auto reader = Connect("reader-key-123456");
  const std::string reader_token = control_->token();
  const auto writer = Connect("writer-key-123456");
  const Synthetic encoding = MakeSynthetic(1);
  const std::vector<Identity> identities = {encoding.manifest.identity};
  EXPECT_EQ(reader->Push("a", encoding).status().code(), absl::StatusCode::kPermissionDenied);
  ASSERT_TRUE(writer->Push("a", encoding).ok());
  ASSERT_TRUE(writer->Push("b", encoding).ok());
  EXPECT_TRUE(reader->Pull("a", encoding.manifest).ok());
  EXPECT_EQ(reader->Pull("b", encoding.manifest).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(reader->Lookup("b", identities).status().code(), absl::StatusCode::kPermissionDenied);
  for (const auto act : {proto::EncodingAction::PIN, proto::EncodingAction::UNPIN, proto::EncodingAction::REMOVE}) {
    EXPECT_EQ(reader->Act("a", act, identities).status().code(), absl::StatusCode::kPermissionDenied);
  }
  for (const auto act :
       {proto::EncodingAction::TOUCH, proto::EncodingAction::PREFETCH, proto::EncodingAction::SUSPECT}) {
    const auto marked = reader->Act("a", act, identities);
    ASSERT_TRUE(marked.ok()) << marked.status();
    EXPECT_EQ(*marked, std::string(1, '\0'));
  }
  // Another hello brings its rights.
  EXPECT_TRUE(writer->Hello(reader_token).ok());
  EXPECT_EQ(writer->Push("a", MakeSynthetic(2)).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(RequestsTest, AnExpiredSessionIsRefusedUntilTheNextHello) {
  StartNode([](store::node::NodeOptions* options) { options->limits.session_lifetime = absl::Seconds(2); });
  const auto data = Connect();
  EXPECT_TRUE(data->Ask(LookupOf("a")).ok());
  absl::SleepFor(absl::Milliseconds(2200));
  EXPECT_EQ(data->Ask(LookupOf("a")).status().code(), absl::StatusCode::kUnauthenticated);
  control_->set_token("");
  ASSERT_TRUE(control_->Open().ok());
  EXPECT_TRUE(data->Hello(control_->token()).ok());
  EXPECT_TRUE(data->Ask(LookupOf("a")).ok());
}

TEST_F(RequestsTest, WhatMakesNoSenseIsRefusedAndTheConnectionStays) {
  StartNode();
  const auto data = Connect();
  proto::Request request = LookupOf("a");
  request.mutable_lookup()->set_codec(9);
  EXPECT_EQ(data->Ask(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = LookupOf("a");
  request.clear_lookup();
  EXPECT_EQ(data->Ask(request).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(data->Pull("a", MakeSynthetic(1).manifest).status().code(), absl::StatusCode::kNotFound);
  // A lease is for local connections.
  request.mutable_lease()->mutable_name()->set_identity(std::string(32, 'i'));
  request.mutable_lease()->mutable_name()->set_codec(1);
  request.mutable_lease()->mutable_name()->set_etag(std::string(16, 'e'));
  EXPECT_EQ(data->Ask(request).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(data->Ask(LookupOf("a")).ok());
}

TEST_F(RequestsTest, WhatCannotBeReadEndsTheConnection) {
  StartNode();
  for (const std::string& bytes : {std::string("x"), std::string(1000, '\0'), std::string(200000, 'z')}) {
    const auto data = Connect();
    ASSERT_TRUE(data->SendBytes({bytes.data(), bytes.size()}).ok());
    const auto answer = data->Next(0);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(StatusOf(*answer).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(absl::IsUnavailable(data->inbox()->Closed()));
  }
  EXPECT_EQ(Value("malformed_requests"), 3);
}

TEST_F(RequestsTest, APassedDeadlineIsNotBegun) {
  StartNode([](store::node::NodeOptions* options) { options->limits.serving_threads = 1; });
  const auto data = Connect();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data->Push("a", encoding).ok());
  // The receive never comes, so the pull ends by its deadline.
  proto::Request pull = RawData::PullOf("a", encoding.manifest, data->TakePayloadIds(2), 2);
  pull.set_remaining_ms(200);
  const uint64_t id = data->Send(pull);
  ASSERT_TRUE(data->Next(id)->has_pull_started());
  EXPECT_EQ(StatusOf(*data->Next(id)).code(), absl::StatusCode::kDeadlineExceeded);
  Await("pulls", 0);
}

TEST_F(RequestsTest, PullsEndWithCancelAndWithTheConnection) {
  StartNode();
  auto data = Connect();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data->Push("a", encoding).ok());
  const uint64_t id = data->Send(RawData::PullOf("a", encoding.manifest, data->TakePayloadIds(2), 2));
  ASSERT_TRUE(data->Next(id)->has_pull_started());
  proto::Request again = RawData::PullOf("a", encoding.manifest, data->TakePayloadIds(2), 2);
  again.set_id(id);
  data->Send(again);
  EXPECT_EQ(StatusOf(*data->Next(id)).code(), absl::StatusCode::kInvalidArgument);
  proto::Request cancel;
  cancel.mutable_cancel()->set_request(id);
  data->Send(cancel);
  EXPECT_EQ(StatusOf(*data->Next(id)).code(), absl::StatusCode::kCancelled);
  // Too few receives.
  const uint64_t few = data->Send(RawData::PullOf("a", encoding.manifest, data->TakePayloadIds(1), 1));
  EXPECT_EQ(StatusOf(*data->Next(few)).code(), absl::StatusCode::kInvalidArgument);
  const uint64_t open = data->Send(RawData::PullOf("a", encoding.manifest, data->TakePayloadIds(2), 2));
  ASSERT_TRUE(data->Next(open)->has_pull_started());
  data = nullptr;
  Await("pulls", 0);
  Await("connections", 0);
  Await("leases", 0);
}

TEST_F(RequestsTest, ACancelReachesWhatStillWaitsForItsTurn) {
  StartNode([](store::node::NodeOptions* options) { options->limits.serving_threads = 1; });
  const auto data = Connect();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data->Push("a", encoding).ok());
  // None of the receives ever comes, so each ends by its Cancel or not at all.
  constexpr int kPulls = 32;
  std::vector<uint64_t> ids;
  for (int i = 0; i < kPulls; ++i) {
    ids.push_back(data->Send(RawData::PullOf("a", encoding.manifest, data->TakePayloadIds(2), 2)));
    proto::Request cancel;
    cancel.mutable_cancel()->set_request(ids.back());
    data->Send(cancel);
  }
  for (const uint64_t id : ids) {
    auto answer = data->Next(id);
    if (answer.ok() && answer->has_pull_started()) answer = data->Next(id);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(StatusOf(*answer).code(), absl::StatusCode::kCancelled);
  }
  Await("pulls", 0);
  Await("leases", 0);
}

TEST_F(RequestsTest, AReceiveThatIsTooShortEndsThePull) {
  StartNode();
  const auto data = Connect();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data->Push("a", encoding).ok());
  const uint64_t first = data->TakePayloadIds(2);
  const uint64_t id = data->Send(RawData::PullOf("a", encoding.manifest, first, 2));
  ASSERT_TRUE(data->Next(id)->has_pull_started());
  Completion arrived;
  data->connection()->PostReceive(first, {*transport_->Allocate(4096), 0, 1000}, Patience(), arrived.ForReceive());
  EXPECT_EQ(StatusOf(*data->Next(id)).code(), absl::StatusCode::kInvalidArgument);
  Await("pulls", 0);
}

// Else a client could make any encoding hot without reading it, and a member by copying it.
TEST_F(RequestsTest, RatesOnlyWhatClientsTook) {
  ScratchDirectory access(/*in_memory=*/true);
  WriteAccessFile(access.path() + "/access", "user user-key-12345678 write *\npeer peer-key-12345678 repair *\n");
  StartNode([&](store::node::NodeOptions* options) {
    options->access_file = access.path() + "/access";
    options->limits.read_rates_half_life = absl::Hours(1);
  });
  const auto data = Connect("user-key-12345678"), peer = Connect("peer-key-12345678");
  const Synthetic asked = MakeSynthetic(1), taken = MakeSynthetic(2);
  ASSERT_TRUE(data->Push("a", asked).ok() && data->Push("a", taken).ok());
  for (int i = 0; i < 10; ++i) {
    const uint64_t id = data->Send(RawData::PullOf("a", asked.manifest, data->TakePayloadIds(2), 2));
    ASSERT_TRUE(data->Next(id)->has_pull_started());
    proto::Request cancel;
    cancel.mutable_cancel()->set_request(id);
    data->Send(cancel);
    EXPECT_EQ(StatusOf(*data->Next(id)).code(), absl::StatusCode::kCancelled);
    ASSERT_TRUE(peer->Pull("a", asked.manifest).ok());
  }
  ASSERT_TRUE(data->Pull("a", taken.manifest).ok());
  const auto rated = (*node_)->read_rates().Now(SteadyNow());
  ASSERT_EQ(rated.encodings.size(), 1u);
  EXPECT_EQ(rated.encodings[0].key.identity, taken.manifest.identity);
  const double second = std::log(2.0) / absl::ToDoubleSeconds(absl::Hours(1));  // what one read counts for
  EXPECT_NEAR(rated.encodings[0].bytes_per_second / (second * taken.bytes()), 1, 0.1);
}

TEST_F(RequestsTest, ConnectionsAreBounded) {
  StartNode([](store::node::NodeOptions* options) { options->limits.connections = 2; });
  auto first = Connect();
  const auto second = Connect();
  {
    RawData third(transport_.get(), node_->data_address());
    EXPECT_EQ(third.Hello(control_->token()).code(), absl::StatusCode::kResourceExhausted);
    EXPECT_TRUE(absl::IsUnavailable(third.inbox()->Closed()));
  }
  first = nullptr;
  Await("connections", 1);
  EXPECT_TRUE(Connect()->Ask(LookupOf("a")).ok());
}

// Nobodies go for those who come after them, and take no place of those who have said who they are.
TEST_F(RequestsTest, ACrowdOfNobodiesShutsNobodyOut) {
  StartNode([](store::node::NodeOptions* options) {
    options->limits.unidentified = 8;
    options->limits.connections = 4;
  });
  const auto before = Connect();
  std::vector<std::unique_ptr<RawData>> crowd;
  for (int i = 0; i < 40; ++i) crowd.push_back(std::make_unique<RawData>(transport_.get(), node_->data_address()));
  const auto after = Connect();
  EXPECT_TRUE(before->Ask(LookupOf("a")).ok());
  EXPECT_TRUE(after->Ask(LookupOf("a")).ok());
  for (int i = 0; i < 24; ++i) EXPECT_TRUE(absl::IsUnavailable(crowd[i]->inbox()->Closed())) << i;
  // Those that are left, or fewer: the carrier may have turned some away while the oldest were still going.
  const absl::Time limit = Patience();
  while (Value("connections") > 10 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_LE(Value("connections"), 10);
}

// One key takes what it can; others and an administrator get in all the same.
TEST_F(RequestsTest, AKeyHasItsShareOfConnectionsAndPulls) {
  ScratchDirectory access(/*in_memory=*/true);
  WriteAccessFile(access.path() + "/access",
                  "greedy greedy-key-123456 read *\nother other-key-1234567 write *\n"
                  "admin admin-key-1234567 admin *\n");
  StartNode([&](store::node::NodeOptions* options) {
    options->access_file = access.path() + "/access";
    options->limits.connections = 32;
    options->limits.pulls = 32;
    options->limits.receive_within = absl::Minutes(5);
  });
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(Connect("other-key-1234567")->Push("a", encoding).ok());
  std::vector<std::unique_ptr<RawData>> greedy = {};
  greedy.push_back(Connect("greedy-key-123456"));
  const std::string token = control_->token();
  int refused = 0;
  for (int i = 0; i < 32; ++i) {
    auto more = std::make_unique<RawData>(transport_.get(), node_->data_address());
    if (more->Hello(token).ok()) {
      greedy.push_back(std::move(more));
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
  int open = 0;
  for (int i = 0; i < 32; ++i) {
    RawData* const on = greedy[static_cast<size_t>(i) % greedy.size()].get();
    const uint64_t id = on->Send(RawData::PullOf("a", encoding.manifest, on->TakePayloadIds(2), 2));
    if (StatusOf(*on->Next(id)).ok()) ++open;
  }
  EXPECT_LE(open, 16);
  for (const char* key : {"other-key-1234567", "admin-key-1234567"}) {
    const auto data = Connect(key);
    EXPECT_TRUE(data->Pull("a", encoding.manifest).ok()) << key;
    EXPECT_TRUE(data->Pull("a", encoding.manifest).ok()) << key;
  }
}

// While another key goes first, a reader that takes nothing of what it asked for holds up no other reader of its key.
TEST_F(RequestsTest, AReaderThatTakesNothingHoldsUpNoOtherOfItsKey) {
  ScratchDirectory access(/*in_memory=*/true);
  WriteAccessFile(access.path() + "/access", "shared shared-key-123456 write *\nmodest modest-key-123456 read *\n");
  StartNode([&](store::node::NodeOptions* options) {
    options->access_file = access.path() + "/access";
    options->limits.pull_bytes_behind = 1;
    options->limits.pull_half_life = absl::Hours(1);
    options->limits.receive_within = absl::Minutes(5);
  });
  const Synthetic encoding = MakeSynthetic(1);
  const auto stuck = Connect("shared-key-123456");
  ASSERT_TRUE(stuck->Push("a", encoding).ok());
  const auto modest = Connect("modest-key-123456");
  for (RawData* const data : {stuck.get(), stuck.get(), modest.get()}) {
    const uint64_t id = data->Send(RawData::PullOf("a", encoding.manifest, data->TakePayloadIds(2), 2));
    ASSERT_TRUE(data->Next(id)->has_pull_started());
  }
  const auto pulled = Connect("shared-key-123456")->Pull("a", encoding.manifest);
  EXPECT_TRUE(pulled.ok()) << pulled.status();
}

TEST_F(RequestsTest, AConnectionGoesSomeTimeAfterItsSession) {
  StartNode([](store::node::NodeOptions* options) { options->limits.hello_within = absl::Seconds(1); });
  const auto data = Connect();
  store::v1::CloseSessionResponse closed;
  ASSERT_TRUE((*control_)->CloseSession(control_->Context().get(), {}, &closed).ok());
  EXPECT_TRUE(absl::IsUnavailable(data->inbox()->Closed()));
  Await("connections", 0);
}

TEST_F(RequestsTest, TransfersOfAConnectionAreBounded) {
  StartNode([](store::node::NodeOptions* options) {
    options->limits.pulls_per_connection = 3;
    options->limits.pushes_per_connection = 2;
    options->limits.pulls = 5;
    options->limits.receive_within = absl::Minutes(5);
  });
  const auto data = Connect(), other = Connect();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data->Push("a", encoding).ok());
  const auto begin = [&](RawData* on) {
    const uint64_t id = on->Send(RawData::PullOf("a", encoding.manifest, on->TakePayloadIds(2), 2));
    return StatusOf(*on->Next(id)).code();
  };
  for (int i = 0; i < 3; ++i) EXPECT_EQ(begin(data.get()), absl::StatusCode::kOk);
  EXPECT_EQ(begin(data.get()), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(begin(other.get()), absl::StatusCode::kOk);
  EXPECT_EQ(begin(other.get()), absl::StatusCode::kResourceExhausted);
  for (int i = 0; i < 3; ++i) {
    const auto ready = data->Ask(RawData::PushBegin("a", MakeSynthetic(10 + i)));
    EXPECT_EQ(ready.status().code(), i < 2 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted);
  }
  const uint64_t id = data->Send(RawData::PushBegin("a", MakeSynthetic(20)));
  EXPECT_GT(data->Next(id)->retry_after_ms(), 0u);
}

TEST_F(RequestsTest, HalfFinishedPushesExpireAndLeaveNothing) {
  StartNode([](store::node::NodeOptions* options) { options->limits.push_progress = absl::Seconds(2); });
  auto data = Connect();
  const Synthetic half = MakeSynthetic(1), cut = MakeSynthetic(2);
  const uint64_t id = data->Send(RawData::PushBegin("a", half));
  const auto ready = data->Next(id);
  ASSERT_TRUE(ready.ok() && ready->has_push_ready());
  Completion sent;
  const auto buffer = data->Registered(absl::MakeConstSpan(half.slabs[0]));
  const int64_t length = half.manifest.layers[0].length;
  data->connection()->Send(ready->push_ready().first_payload(), {*buffer, 0, length}, Patience(), sent.ForSend());
  (void)sent.Wait();  // on a slow machine the push may be gone before
  Await("pushes", 0);
  const auto late = data->Ask(RawData::PushCommit("a", id, half.manifest));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kFailedPrecondition) << late.status();
  // A push whose connection goes.
  ASSERT_TRUE(data->Ask(RawData::PushBegin("a", cut)).ok());
  data = nullptr;
  Await("pushes", 0);
  const auto later = Connect();
  const auto found = later->Lookup("a", {half.manifest.identity, cut.manifest.identity});
  ASSERT_TRUE(found.ok()) << found.status();
  for (const FoundRecord& record : *found) EXPECT_EQ(record.tier, 0);
  EXPECT_TRUE(later->Push("a", half).ok());
  EXPECT_TRUE(later->Pull("a", half.manifest).ok());
}

TEST_F(RequestsTest, AManifestThatDoesNotFitIsRefused) {
  StartNode();
  const auto data = Connect();
  const Synthetic good = MakeSynthetic(1), other = MakeSynthetic(3), longer = MakeSynthetic(1, /*layers=*/3);
  // Slabs of one encoding under the manifest of another; damaged slabs; a manifest that is none.
  Synthetic wrong = good;
  wrong.manifest = other.manifest;
  const auto begin_as = [&](const Synthetic& begun, const std::string& manifest, bool flip) {
    const uint64_t id = data->Send(RawData::PushBegin("a", begun));
    const auto ready = data->Next(id);
    EXPECT_TRUE(ready.ok() && ready->has_push_ready());
    std::vector<Completion> sent(begun.slabs.size());
    for (size_t layer = 0; layer < begun.slabs.size(); ++layer) {
      auto buffer = *data->Registered(absl::MakeConstSpan(begun.slabs[layer]));
      if (flip) buffer->data()[8] ^= std::byte{1};
      data->connection()->Send(ready->push_ready().first_payload() + layer, {buffer, 0, buffer->size()}, Patience(),
                               sent[layer].ForSend());
    }
    proto::Request commit;
    commit.set_id(id);
    commit.set_ns("a");
    commit.mutable_push_commit()->set_manifest(manifest);
    data->Send(commit);
    for (const Completion& slab : sent) (void)slab.Wait();  // once one is refused, the others are not taken
    return StatusOf(*data->Next(id));
  };
  EXPECT_EQ(begin_as(good, SerializeManifest(other.manifest), false).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin_as(good, SerializeManifest(longer.manifest), false).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin_as(good, SerializeManifest(good.manifest), true).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin_as(good, "no manifest", false).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*data->Lookup("a", {good.manifest.identity}))[0].tier, 0);
  Await("pushes", 0);
  EXPECT_TRUE(data->Push("a", good).ok());
}

TEST_F(RequestsTest, ARepeatedCommitGetsTheFirstAnswer) {
  StartNode();
  auto data = Connect();
  const std::string token = control_->token();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data->Push("a", encoding).ok());
  const uint64_t id = 1 + 1;  // hello was 1
  const auto again = data->Ask(RawData::PushCommit("a", id, encoding.manifest));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->push_done().written());
  // On another connection of the session, too; not in another session.
  data = ConnectAs(token);
  const auto elsewhere = data->Ask(RawData::PushCommit("a", id, encoding.manifest));
  ASSERT_TRUE(elsewhere.ok()) << elsewhere.status();
  EXPECT_TRUE(elsewhere->push_done().written());
  const auto stranger = Connect();
  EXPECT_EQ(stranger->Ask(RawData::PushCommit("a", id, encoding.manifest)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// A pin is of the encoding that was there, not of its name.
TEST_F(RequestsTest, PinsOfWhatWasReplacedAreNoPinsOfWhatReplacedIt) {
  StartNode();
  const Synthetic encoding = MakeSynthetic(1);
  const auto act = [&](RawData* data, proto::EncodingAction::Action action) {
    const auto codes = data->Act("a", action, {encoding.manifest.identity});
    return codes.ok() ? static_cast<absl::StatusCode>((*codes)[0]) : codes.status().code();
  };
  const auto close = [&](const std::string& token) {
    control_->set_token(token);
    store::v1::CloseSessionResponse closed;
    EXPECT_TRUE((*control_)->CloseSession(control_->Context().get(), {}, &closed).ok());
  };
  const auto first = Connect();
  const std::string first_token = control_->token();
  const auto second = Connect();
  const std::string second_token = control_->token();
  const auto third = Connect();
  const std::string third_token = control_->token();
  ASSERT_TRUE(first->Push("a", encoding).ok());
  EXPECT_EQ(act(first.get(), proto::EncodingAction::PIN), absl::StatusCode::kOk);
  EXPECT_EQ(act(third.get(), proto::EncodingAction::PIN), absl::StatusCode::kOk);
  EXPECT_EQ(act(second.get(), proto::EncodingAction::REMOVE), absl::StatusCode::kOk);
  EXPECT_EQ(Value("pinned_encodings"), 0);
  ASSERT_TRUE(second->Push("a", encoding).ok());
  EXPECT_EQ(act(second.get(), proto::EncodingAction::PIN), absl::StatusCode::kOk);
  EXPECT_EQ(Value("pinned_encodings"), 1);
  // Neither an unpin nor the end of a session that pinned what was there before takes this one's pin.
  EXPECT_EQ(act(first.get(), proto::EncodingAction::UNPIN), absl::StatusCode::kNotFound);
  close(third_token);
  EXPECT_EQ(Value("pinned_encodings"), 1);
  // Two sessions, one pin each; the first one's earlier pin is forgotten.
  EXPECT_EQ(act(first.get(), proto::EncodingAction::PIN), absl::StatusCode::kOk);
  close(second_token);
  EXPECT_EQ(Value("pinned_encodings"), 1);
  EXPECT_EQ(act(first.get(), proto::EncodingAction::UNPIN), absl::StatusCode::kOk);
  EXPECT_EQ(Value("pinned_encodings"), 0);
  EXPECT_EQ(act(first.get(), proto::EncodingAction::UNPIN), absl::StatusCode::kNotFound);
  close(first_token);
}

TEST_F(RequestsTest, PinsAreCountedOnceAndGoWithTheSession) {
  StartNode();
  auto data = Connect();
  const std::string token = control_->token();
  const Synthetic encoding = MakeSynthetic(1);
  ASSERT_TRUE(data->Push("a", encoding).ok());
  const auto mark = [&](proto::EncodingAction::Action act, uint64_t id) {
    proto::Request request;
    request.set_id(id);
    request.set_ns("a");
    request.mutable_action()->set_action(act);
    request.mutable_action()->set_codec(1);
    request.mutable_action()->set_identities(std::string(BytesOf(encoding.manifest.identity)) + std::string(32, 'x'));
    const auto answer = data->Ask(request);
    return answer.ok() ? answer->action_done().codes() : answer.status().ToString();
  };
  const std::string done("\0\5", 2);  // the second is not there
  EXPECT_EQ(mark(proto::EncodingAction::PIN, 100), done);
  EXPECT_GT(Value("pinned_bytes"), 0);
  data = ConnectAs(token);
  EXPECT_EQ(mark(proto::EncodingAction::PIN, 100), done);  // the same request
  EXPECT_EQ(mark(proto::EncodingAction::UNPIN, 101), done);
  EXPECT_EQ(Value("pinned_bytes"), 0);
  EXPECT_EQ(mark(proto::EncodingAction::UNPIN, 102), std::string("\5\5", 2));
  EXPECT_EQ(mark(proto::EncodingAction::PIN, 103), done);
  // Another session cannot take it away.
  auto mine = std::move(data);
  data = Connect();
  EXPECT_EQ(mark(proto::EncodingAction::UNPIN, 104), std::string("\5\5", 2));
  EXPECT_GT(Value("pinned_bytes"), 0);
  control_->set_token(token);
  store::v1::CloseSessionResponse closed;
  ASSERT_TRUE((*control_)->CloseSession(control_->Context().get(), {}, &closed).ok());
  EXPECT_EQ(Value("pinned_bytes"), 0);
  EXPECT_EQ(mark(proto::EncodingAction::REMOVE, 105), std::string("\0\0", 2));
  EXPECT_EQ((*data->Lookup("a", {encoding.manifest.identity}))[0].tier, 0);
}

TEST_F(RequestsTest, FullLanesAreSaidSo) {
  StartNode([](store::node::NodeOptions* options) { options->limits.requests_per_connection = 0; });
  const auto data = Connect();
  const uint64_t id = data->Send(LookupOf("a"));
  const auto answer = data->Next(id);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(StatusOf(*answer).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(answer->retry_after_ms(), 0u);
}

std::string HttpGet(const std::string& address, const std::string& path) {
  const auto parsed = transport::ParseAddress({address.data(), address.size()});
  const auto resolved = transport::Resolve(*parsed);
  const Descriptor socket(::socket(resolved->get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(socket.get(), resolved->get(), resolved->length), 0);
  const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
  EXPECT_EQ(send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  std::string response(1 << 20, 0);
  size_t length = 0;
  for (ssize_t got = 1; got > 0; length += static_cast<size_t>(std::max<ssize_t>(got, 0))) {
    got = recv(socket.get(), response.data() + length, response.size() - length, 0);
  }
  response.resize(length);
  return response;
}

TEST_F(RequestsTest, MetricsAreServed) {
  StartNode([](store::node::NodeOptions* options) { options->metrics_address = "127.0.0.1:0"; });
  const auto data = Connect();
  const Manifest manifest = MakeSynthetic(1).manifest;
  ASSERT_TRUE(data->Push("a", MakeSynthetic(1)).ok());
  ASSERT_TRUE(data->Pull("a", manifest).ok());
  // A pull's hold on the pages ends, and what ended is counted, shortly after the answer.
  const absl::Time limit = SteadyNow() + absl::Seconds(60);
  do {
    store::v1::DropDramTierResponse dropped;
    ASSERT_TRUE((*control_)->DropDramTier(control_->Context().get(), {}, &dropped).ok());
  } while ((*data->Lookup("a", {manifest.identity}))[0].tier != 2 && SteadyNow() < limit);
  ASSERT_TRUE(data->Pull("a", manifest).ok());
  for (const char* ended : {"operation=\"push\"} 1", "operation=\"pull\"} 2"}) {
    const std::string line = absl::StrCat("kvlink_operations_total{code=\"OK\",", ended);
    while (!absl::StrContains((*node_)->MetricsText(), line) && SteadyNow() < limit) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  const std::string text = HttpGet((*node_)->addresses().metrics, "/metrics");
  const std::string bytes = absl::StrCat(manifest.bytes());
  for (const std::string& line :
       {std::string("kvlink_operation_seconds_bucket{operation=\"pull\",le=\""),
        std::string("kvlink_operation_seconds_count{operation=\"pull\"} 2"),
        std::string("kvlink_operations_total{code=\"OK\",operation=\"push\"} 1"),
        std::string("kvlink_hits_total{tier=\"dram\"} 1"), std::string("kvlink_hits_total{tier=\"segments\"} 1"),
        std::string("kvlink_hit_tokens_total{tier=\"dram\"} 40"),
        std::string("kvlink_hit_tokens_total{tier=\"segments\"} 40"),
        absl::StrCat("kvlink_hit_bytes_total{tier=\"dram\"} ", bytes),
        absl::StrCat("kvlink_hit_bytes_total{tier=\"segments\"} ", bytes), std::string("kvlink_sessions 1"),
        std::string("kvlink_connections 1"), std::string("kvlink_transport_registered_bytes{transport=\"loopback\"}"),
        std::string("kvlink_engine_leases "), std::string("kvlink_mapped_leases 0"),
        std::string("kvlink_namespace_encodings{namespace=\"a\"} 1"), std::string("kvlink_integrity_failures_total 0"),
        std::string("kvlink_queued_requests{lane=\"serving\"} 0")}) {
    EXPECT_TRUE(absl::StrContains(text, line)) << line;
  }
  for (const char* reason : {"capacity", "quota", "removed", "unreferenced", "damaged"}) {
    const std::string line = absl::StrCat("kvlink_evictions_total{reason=\"", reason, "\",tier=\"segments\"} 0");
    EXPECT_TRUE(absl::StrContains(text, line)) << line;
  }
  EXPECT_TRUE(absl::StrContains(text, "kvlink_evictions_total{reason=\"capacity\",tier=\"dram\"}"));
  EXPECT_THAT((*node_)->addresses().metrics, ::testing::StartsWith("127.0.0.1:"));
}

}  // namespace
}  // namespace kvlink::testing
