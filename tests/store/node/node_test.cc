// A node does what its protocols say, over the loopback and over UCX.
#include "store/node/node.h"

#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/part.h"
#include "tests/store/failing_io.h"
#include "tests/store/node/raw_client.h"

namespace kvlink::testing {
namespace {

using ::testing::HasSubstr;

// Everything of an encoding as a pull should bring it.
std::string Bytes(const Synthetic& encoding, const Piece& piece) {
  return {reinterpret_cast<const char*>(encoding.slabs[piece.layer].data()) + piece.offset,
          static_cast<size_t>(piece.length)};
}

class NodeTest : public ::testing::TestWithParam<Carrier> {
 protected:
  void SetUp() override {
    transport_ = node_.NewClientTransport();
    control_ = std::make_unique<RawControl>(node_->addresses().control);
    const auto session = control_->Open();
    ASSERT_TRUE(session.ok()) << session.status();
    session_ = *session;
    data_ = std::make_unique<RawData>(transport_.get(), node_.data_address(), control_->token());
    const absl::Status hello = data_->Hello(control_->token());
    ASSERT_TRUE(hello.ok()) << hello;
  }
  // The node reads from segments afterwards.
  void DropTier() {
    store::v1::DropDramTierResponse response;
    ASSERT_TRUE((*control_)->DropDramTier(control_->Context().get(), {}, &response).ok());
  }
  void ExpectPulls(const Synthetic& encoding, const proto::Part& part) {
    const auto pulled = data_->Pull("a", encoding.manifest, part);
    ASSERT_TRUE(pulled.ok()) << pulled.status();
    EXPECT_EQ(pulled->manifest.etag, encoding.manifest.etag);
    const auto pieces = PiecesOf(encoding.manifest, part);
    ASSERT_TRUE(pieces.ok());
    ASSERT_EQ(pulled->pieces.size(), pieces->size());
    for (size_t i = 0; i < pieces->size(); ++i) EXPECT_EQ(pulled->pieces[i], Bytes(encoding, (*pieces)[i])) << i;
  }

  // How a pull ends for which no receive is laid out: by its failing.
  absl::Status FailedPull(const Synthetic& encoding) {
    const uint64_t id = data_->Send(RawData::PullOf("a", encoding.manifest, data_->TakePayloadIds(64), 64));
    while (true) {
      const auto answer = data_->Next(id);
      if (!answer.ok()) return answer.status();
      if (const absl::Status status = StatusOf(*answer); !status.ok()) return status;
    }
  }
  // Waits until it is found in the tier, or nowhere (0).
  void AwaitTier(const Synthetic& encoding, uint32_t tier) {
    const absl::Time limit = SteadyNow() + absl::Seconds(60);
    const auto found = [&] { return (*data_->Lookup("a", {encoding.manifest.identity}))[0].tier; };
    while (found() != tier && SteadyNow() < limit) {
      if (tier == 2) DropTier();  // a pull's hold on the pages ends shortly after its answer
      absl::SleepFor(absl::Milliseconds(2));
    }
    EXPECT_EQ(found(), tier);
  }

  FailingIo io_;
  TestNode node_{GetParam(), [this](store::node::NodeOptions* options) { options->engine.observer = &io_; }};
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<RawControl> control_;
  store::v1::Session session_;
  std::unique_ptr<RawData> data_;
};

INSTANTIATE_TEST_SUITE_P(Carriers, NodeTest, ::testing::Values(Carrier::kLoopback, Carrier::kUcx, Carrier::kGrpc),
                         [](const auto& info) { return CarrierName(info.param); });

TEST_P(NodeTest, TellsWhereItIs) {
  EXPECT_EQ(session_.token().size(), 16u);
  EXPECT_EQ(session_.node_id().size(), 16u);
  EXPECT_GT(session_.incarnation(), 0u);
  EXPECT_EQ(session_.protocol_min(), 2u);
  EXPECT_EQ(session_.protocol_max(), 2u);
  // The data path names the same node.
  proto::Request hello;
  hello.mutable_hello()->set_token(session_.token());
  const auto answer = data_->Ask(hello);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->welcome().node_id(), session_.node_id());
  EXPECT_EQ(answer->welcome().incarnation(), session_.incarnation());
  // So do statistics and the log, whose writer is a thread.
  const std::string id = absl::BytesToHexString(session_.node_id());
  const std::string incarnation = absl::StrCat(session_.incarnation());
  const auto stats = control_->Stats();
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->texts().at("node_id"), id);
  EXPECT_EQ(stats->texts().at("incarnation"), incarnation);
  const absl::Time limit = Patience();
  while (node_.log.Count("\"serving\"") == 0 && SteadyNow() < limit) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(node_.log.Count(absl::StrCat("\"node_id\":\"", id, "\",\"incarnation\":", incarnation)), 1);
  ASSERT_EQ(session_.data_size(), GetParam() == Carrier::kGrpc ? 1 : 2);
  EXPECT_THAT(session_.data(0), HasSubstr(CarrierName(GetParam()) + "://127.0.0.1:"));
  EXPECT_EQ(session_.version(), "test");
}

TEST_P(NodeTest, WhatIsPushedIsFoundAndPulled) {
  const Synthetic encoding = MakeSynthetic(1, /*layers=*/5, /*tokens=*/700, /*kv_heads=*/2);
  auto found = data_->Lookup("a", {encoding.manifest.identity});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)[0].tier, 0);

  const auto pushed = data_->Push("a", encoding);
  ASSERT_TRUE(pushed.ok()) << pushed.status();
  EXPECT_TRUE(pushed->written);
  EXPECT_EQ(pushed->etag, encoding.manifest.etag);

  found = data_->Lookup("a", {MakeSynthetic(2).manifest.identity, encoding.manifest.identity});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)[0].tier, 0);
  EXPECT_NE((*found)[1].tier, 0);
  EXPECT_EQ((*found)[1].etag, encoding.manifest.etag);
  EXPECT_EQ((*found)[1].tokens, 700u);
  EXPECT_EQ((*found)[1].bytes, static_cast<uint64_t>(encoding.bytes()));
  // Another namespace, another codec: a miss.
  EXPECT_EQ((*data_->Lookup("b", {encoding.manifest.identity}))[0].tier, 0);
  EXPECT_EQ((*data_->Lookup("a", {encoding.manifest.identity}, Codec::kQ8))[0].tier, 0);

  ExpectPulls(encoding, {});
  // A pull's hold on the pages ends shortly after its answer.
  const absl::Time limit = SteadyNow() + absl::Seconds(60);
  do {
    DropTier();
  } while ((*data_->Lookup("a", {encoding.manifest.identity}))[0].tier != 2 && SteadyNow() < limit);
  EXPECT_EQ((*data_->Lookup("a", {encoding.manifest.identity}))[0].tier, 2);
  ExpectPulls(encoding, {});

  const auto again = data_->Push("a", encoding);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->written);
}

TEST_P(NodeTest, AReadThatFailsIsNotKept) {
  const Synthetic encoding = MakeSynthetic(5, /*layers=*/3, /*tokens=*/700);
  ASSERT_TRUE(data_->Push("a", encoding).ok());
  AwaitTier(encoding, 2);
  // For want of memory: the pull fails, the next does not.
  io_.Fail("segments", nullptr, nullptr, NoSpace);
  EXPECT_TRUE(absl::IsUnavailable(FailedPull(encoding)));
  io_.Fail("", nullptr);
  ExpectPulls(encoding, {});
  AwaitTier(encoding, 2);
  // Gone from the disk: it is dropped, named, and can be pushed again.
  io_.Fail("segments", nullptr, nullptr, Broken);
  EXPECT_TRUE(absl::IsDataLoss(FailedPull(encoding)));
  AwaitTier(encoding, 0);
  io_.Fail("", nullptr);
  // The log has a thread of its own.
  const absl::Time limit = Patience();
  while (node_.log.Count(encoding.manifest.identity.Hex()) < 1 && SteadyNow() < limit) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_GE(node_.log.Count(encoding.manifest.identity.Hex()), 1);
  const auto again = data_->Push("a", encoding);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->written);
  ExpectPulls(encoding, {});
}

TEST_P(NodeTest, PartsOfAnEncoding) {
  const Synthetic encoding = MakeSynthetic(3, /*layers=*/4, /*tokens=*/1100, /*kv_heads=*/4);
  ASSERT_TRUE(data_->Push("a", encoding).ok());
  for (int drop = 0; drop < 2; ++drop) {
    proto::Part part;
    part.set_first_layer(1);
    part.set_layers(2);
    ExpectPulls(encoding, part);
    part.set_first_head(1);
    part.set_heads(2);
    ExpectPulls(encoding, part);
    part.set_tokens(512);
    ExpectPulls(encoding, part);
    part.set_components(6);
    ExpectPulls(encoding, part);
    part = {};
    part.set_tokens(1024);
    ExpectPulls(encoding, part);
    part = {};
    part.set_first_layer(3);
    ExpectPulls(encoding, part);
    DropTier();
  }
  for (const auto& change : std::vector<std::function<void(proto::Part*)>>{
           [](proto::Part* part) { part->set_first_layer(4); }, [](proto::Part* part) { part->set_layers(5); },
           [](proto::Part* part) { part->set_first_layer(4294967295u), part->set_layers(2); },
           [](proto::Part* part) { part->set_first_head(4); }, [](proto::Part* part) { part->set_heads(5); },
           [](proto::Part* part) { part->set_tokens(500); }, [](proto::Part* part) { part->set_tokens(1536); },
           [](proto::Part* part) { part->set_components(2); }}) {
    proto::Part part;
    change(&part);
    const auto pulled = data_->Pull("a", encoding.manifest, part);
    EXPECT_TRUE(absl::IsInvalidArgument(pulled.status())) << pulled.status() << part.ShortDebugString();
  }
}

// Printed for people: a bound would depend on the machine.
TEST_P(NodeTest, AnIdleNodeRests) {
  ASSERT_TRUE(data_->Push("a", MakeSynthetic(1)).ok());
  const absl::Duration span = absl::Seconds(2);
  const std::clock_t before = std::clock();
  absl::SleepFor(span);
  const double used = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  std::printf("an idle node with one connection, and its client: %.2f%% of a processor\n",
              100 * used / absl::ToDoubleSeconds(span));
  ExpectPulls(MakeSynthetic(1), {});
}

}  // namespace
}  // namespace kvlink::testing
