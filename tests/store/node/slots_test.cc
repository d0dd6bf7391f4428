// What a node tells another of its slots, and to whom; and that a push asks once more whose its slot is.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/data.h"
#include "tests/store/in_slot.h"
#include "tests/store/node/fake_ownership.h"
#include "tests/store/node/one_node.h"

namespace kvlink::testing {
namespace {

class NodeSlotsTest : public OneNodeTest {
 protected:
  static absl::StatusOr<proto::Answer> AskDigests(RawData* data, const std::vector<uint16_t>& slots) {
    proto::Request request;
    request.mutable_slot_digests()->set_slots(PackSlots(slots));
    return data->Ask(std::move(request));
  }
  static absl::StatusOr<proto::Answer> AskSlot(RawData* data, int slot, const std::optional<SlotEntry>& after = {}) {
    proto::Request request;
    request.mutable_slot_list()->set_slot(static_cast<uint32_t>(slot));
    if (after.has_value()) {
      request.mutable_slot_list()->set_after_ns(after->ns);
      request.mutable_slot_list()->set_after_identity(std::string(BytesOf(after->identity)));
      request.mutable_slot_list()->set_after_codec(static_cast<uint32_t>(after->codec));
    }
    return data->Ask(std::move(request));
  }
};

TEST_F(NodeSlotsTest, DigestsAndListingsSayWhatIsThere) {
  StartNode();
  const auto data = Connect();
  const Synthetic a = MakeInSlot(1, 7), b = MakeInSlot(2, 7), c = MakeInSlot(3, 65535);
  ASSERT_TRUE(data->Push("ns", a).ok());
  ASSERT_TRUE(data->Push("other", b).ok());
  ASSERT_TRUE(data->Push("ns", c).ok());
  const auto digests = AskDigests(data.get(), {65535, 7, 8});
  ASSERT_TRUE(digests.ok()) << digests.status();
  const std::string& records = digests->slot_digests_found().records();
  ASSERT_EQ(records.size(), 3u * kSlotDigestBytes);
  EXPECT_EQ(SlotDigestAt(records, 0).encodings, 1u);
  EXPECT_EQ(SlotDigestAt(records, 1).encodings, 2u);
  EXPECT_EQ(SlotDigestAt(records, 1).bytes, static_cast<uint64_t>(a.bytes() + b.bytes()));
  EXPECT_EQ(SlotDigestAt(records, 2), SlotDigest());
  const auto listed = AskSlot(data.get(), 7);
  ASSERT_TRUE(listed.ok()) << listed.status();
  ASSERT_EQ(listed->slot_listed().encodings_size(), 2);
  const SlotEntry first = FromProto(listed->slot_listed().encodings(0));
  EXPECT_EQ(first.ns, "ns");
  EXPECT_EQ(first.identity, a.manifest.identity);
  EXPECT_EQ(first.etag, a.manifest.etag);
  EXPECT_EQ(first.bytes, a.bytes());
  EXPECT_FALSE(listed->slot_listed().more());
  EXPECT_EQ(FromProto(listed->slot_listed().dropped()), DropPosition());
  const auto rest = AskSlot(data.get(), 7, first);
  ASSERT_TRUE(rest.ok()) << rest.status();
  ASSERT_EQ(rest->slot_listed().encodings_size(), 1);
  EXPECT_EQ(FromProto(rest->slot_listed().encodings(0)).ns, "other");
}

TEST_F(NodeSlotsTest, ASlotOfManyIsListedInMessagesOfABoundedSize) {
  StartNode();
  const auto data = Connect();
  const std::string ns(255, 'n');
  constexpr int kCount = 700;
  for (uint64_t i = 0; i < kCount; ++i) ASSERT_TRUE(data->Push(ns, MakeInSlot(i, 1)).ok());
  int count = 0, messages = 0;
  std::optional<SlotEntry> after;
  for (bool more = true; more; ++messages) {
    const auto listed = AskSlot(data.get(), 1, after);
    ASSERT_TRUE(listed.ok()) << listed.status();
    EXPECT_LE(listed->ByteSizeLong(), 200u << 10);
    for (const auto& encoding : listed->slot_listed().encodings()) {
      const SlotEntry entry = FromProto(encoding);
      EXPECT_TRUE(!after.has_value() || after->identity < entry.identity);
      after = entry;
      ++count;
    }
    more = listed->slot_listed().more();
  }
  EXPECT_EQ(count, kCount);
  EXPECT_GE(messages, 2);
}

TEST_F(NodeSlotsTest, OnlyWhoMayRepairOrAdministerIsTold) {
  ScratchDirectory access(/*in_memory=*/true);
  WriteAccessFile(access.path() + "/access",
                  "reader reader-key-123456 read *\nwriter writer-key-123456 write *\nsome some-key-12345678 repair a\n"
                  "peer peer-key-12345678 repair *\nadmin admin-key-1234567 admin *\n");
  StartNode([&](store::node::NodeOptions* options) { options->access_file = access.path() + "/access"; });
  const Synthetic s = MakeInSlot(1, 7);
  ASSERT_TRUE(Connect("writer-key-123456")->Push("a", s).ok());
  for (const std::string key : {"reader-key-123456", "writer-key-123456", "some-key-12345678"}) {
    const auto data = Connect(key);
    EXPECT_EQ(AskDigests(data.get(), {7}).status().code(), absl::StatusCode::kPermissionDenied) << key;
    EXPECT_EQ(AskSlot(data.get(), 7).status().code(), absl::StatusCode::kPermissionDenied) << key;
  }
  for (const std::string key : {"peer-key-12345678", "admin-key-1234567"}) {
    const auto data = Connect(key);
    EXPECT_TRUE(AskDigests(data.get(), {7}).ok()) << key;
    EXPECT_TRUE(AskSlot(data.get(), 7).ok()) << key;
    EXPECT_TRUE(data->Pull("a", s.manifest).ok()) << key;
  }
  // It reads and does not write, remove or administer.
  const auto peer = Connect("peer-key-12345678");
  EXPECT_EQ(peer->Push("a", MakeInSlot(2, 7)).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(peer->Act("a", proto::EncodingAction::REMOVE, {s.manifest.identity}).status().code(),
            absl::StatusCode::kPermissionDenied);
}

// It would take pushes after the comparison that are to be found by it.
TEST_F(NodeSlotsTest, WhoComparesByALaterEpochIsRefused) {
  const auto ownership = std::make_shared<FakeOwnership>();
  ownership->MoveTo(5);
  StartNode([&](store::node::NodeOptions* options) { options->ownership = ownership; });
  const auto data = Connect();
  for (const uint64_t epoch : {4, 5, 6}) {
    proto::Request digests, list;
    digests.set_placement(epoch);
    digests.mutable_slot_digests()->set_slots(PackSlots({7}));
    list.set_placement(epoch);
    list.mutable_slot_list()->set_slot(7);
    for (const proto::Request& request : {digests, list}) {
      const auto answer = data->Next(data->Send(request));
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_EQ(answer->has_moved(), epoch == 6) << epoch;
    }
  }
}

TEST_F(NodeSlotsTest, APushWhoseSlotMovedAwayMeanwhileHasMoved) {
  const auto ownership = std::make_shared<FakeOwnership>();
  const Synthetic s = MakeSynthetic(1);
  ownership->Own(5, {s.manifest.identity});
  ownership->Own(6, {});  // whatever epoch the request names
  ownership->MoveTo(5);
  StartNode([&](store::node::NodeOptions* options) { options->ownership = ownership; });
  const auto data = Connect();
  for (const bool moves : {true, false}) {
    ownership->MoveTo(5);
    proto::Request begin = RawData::PushBegin("ns", s);
    begin.set_placement(5);
    const uint64_t id = data->Send(begin);
    const auto ready = data->Next(id);
    ASSERT_TRUE(ready.ok() && ready->has_push_ready()) << ready.status();
    if (moves) ownership->MoveTo(6);
    std::vector<Completion> sent(s.slabs.size());
    for (size_t layer = 0; layer < s.slabs.size(); ++layer) {
      auto buffer = data->Registered(absl::MakeConstSpan(s.slabs[layer]));
      ASSERT_TRUE(buffer.ok());
      data->connection()->Send(ready->push_ready().first_payload() + layer,
                               {*buffer, 0, static_cast<int64_t>(s.slabs[layer].size())}, Patience(),
                               sent[layer].ForSend());
    }
    proto::Request commit = RawData::PushCommit("ns", id, s.manifest);
    commit.set_placement(5);
    data->Send(commit);
    const auto done = data->Next(id);
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(MovedEpoch(StatusOf(*done)).has_value() || done->has_moved(), moves);
    if (moves) {
      EXPECT_EQ(done->moved().epoch(), 6u);
      EXPECT_EQ(done->code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
    } else {
      EXPECT_TRUE(done->push_done().written());
    }
    const auto found = data->Lookup("ns", {s.manifest.identity});
    ASSERT_TRUE(found.ok());
    EXPECT_EQ((*found)[0].tier == 1 || (*found)[0].tier == 2, !moves);
  }
}

}  // namespace
}  // namespace kvlink::testing
