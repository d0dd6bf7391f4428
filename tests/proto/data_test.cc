#include "proto/data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "proto/envelope.h"

namespace kvlink {
namespace {

using ::testing::HasSubstr;

constexpr EnvelopeKind kRequestKind{0x524C564B, 2, 0, "request"};

std::string Hex(const std::string& bytes) { return absl::BytesToHexString({bytes.data(), bytes.size()}); }
absl::string_view View(const std::string& text) { return {text.data(), text.size()}; }
std::string Identities(size_t count) { return std::string(32 * count, '\1'); }

proto::Request PullRequest() {
  proto::Request request;
  request.set_id(1);
  proto::Pull* const pull = request.mutable_pull();
  pull->mutable_name()->set_identity(Identities(1));
  pull->mutable_name()->set_codec(1);
  pull->mutable_name()->set_etag(std::string(16, '\2'));
  pull->set_first_payload(1);
  pull->set_payloads(1);
  return request;
}

TEST(Data, IsTheStoredFormat) {
  proto::Request request;
  request.set_id(7);
  request.set_ns("a");
  request.mutable_cancel()->set_request(3);
  EXPECT_EQ(Hex(SerializeRequest(request)).substr(0, 24), "4b564c52020000000a000000");
  EXPECT_EQ(Hex(SerializeRequest(request)).substr(32), "0807120161c201020803");
  proto::Answer answer;
  answer.set_id(7);
  answer.mutable_pull_done();
  EXPECT_EQ(Hex(SerializeAnswer(answer)).substr(0, 24), "4b564c410200000005000000");
  EXPECT_EQ(Hex(SerializeAnswer(answer)).substr(32), "08079a0100");
}

TEST(Data, WhoANodeIsAndWhatHasMovedAreTheStoredFormat) {
  proto::Request request;
  request.set_id(1);
  request.set_incarnation(300);
  request.set_placement(5);
  request.mutable_renew();
  EXPECT_EQ(Hex(SerializeRequest(request)).substr(32), "0801200530ac02ca0100");
  proto::Answer answer;
  answer.set_id(1);
  answer.mutable_welcome()->set_node_id(std::string(16, '\3'));
  answer.mutable_welcome()->set_incarnation(300);
  EXPECT_EQ(Hex(SerializeAnswer(answer)).substr(32),
            "0801"
            "8201"
            "15"
            "2a10"
            "03030303030303030303030303030303"
            "30ac02");
  answer.clear_welcome();
  answer.set_code(9);
  answer.mutable_moved()->set_epoch(7);
  EXPECT_EQ(Hex(SerializeAnswer(answer)).substr(32), "08011009e201020807");
}

proto::Answer SlotAnswer() {
  proto::Answer answer;
  answer.set_id(1);
  ToProto(SlotEntry{.ns = "a",
                    .identity = ToIdentity(View(Identities(1))),
                    .codec = Codec::kRawBf16,
                    .etag = ToEtag(View(std::string(16, '\2'))),
                    .bytes = 4096,
                    .heat = 2},
          answer.mutable_slot_listed()->add_encodings());
  answer.mutable_slot_listed()->set_more(true);
  DropPosition dropped{{}, 5, 7};
  dropped.log.fill(3);
  ToProto(dropped, answer.mutable_slot_listed()->mutable_dropped());
  return answer;
}

TEST(Data, SlotsAreTheStoredFormat) {
  proto::Request request;
  request.set_id(1);
  request.mutable_slot_digests()->set_slots(PackSlots({0x0102, 0x0304}));
  EXPECT_EQ(Hex(SerializeRequest(request)).substr(32), "0801d201060a0402010403");
  EXPECT_THAT(UnpackSlots(View(request.slot_digests().slots())), ::testing::ElementsAre(0x0102, 0x0304));
  request.mutable_slot_list()->set_slot(258);
  EXPECT_EQ(Hex(SerializeRequest(request)).substr(32), "0801da0103088202");
  request.mutable_slot_list()->set_after_ns("a");
  request.mutable_slot_list()->set_after_identity(Identities(1));
  request.mutable_slot_list()->set_after_codec(3);
  EXPECT_EQ(Hex(SerializeRequest(request)).substr(32),
            "0801da012a088202"
            "120161"
            "1a20" +
                Hex(Identities(1)) + "2003");
  std::string record;
  AppendSlotDigest({.low = 1, .high = 2, .bytes = 0x1000, .encodings = 3}, &record);
  EXPECT_EQ(Hex(record),
            "0100000000000000"
            "0200000000000000"
            "0010000000000000"
            "03000000"
            "00000000");
  EXPECT_EQ(SlotDigestAt(View(record), 0), (SlotDigest{1, 2, 0x1000, 3}));
  proto::Answer answer;
  answer.set_id(1);
  answer.mutable_slot_digests_found()->set_records(record);
  EXPECT_EQ(Hex(SerializeAnswer(answer)).substr(32), "0801ea01220a20" + Hex(record));
  EXPECT_EQ(Hex(SerializeAnswer(SlotAnswer())).substr(32),
            "0801f2015a"
            "0a3e0a0161"
            "1220" +
                Hex(Identities(1)) + "18012210" + Hex(std::string(16, '\2')) +
                "2880203002"
                "1001"
                "1a160a10" +
                Hex(std::string(16, '\3')) + "10051807");
  const auto parsed = ParseAnswer(View(SerializeAnswer(SlotAnswer())));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FromProto(parsed->slot_listed().encodings(0)).heat, 2);
  EXPECT_EQ(FromProto(parsed->slot_listed().dropped()).sequence, 7);
}

TEST(Data, SlotsOutOfBoundsAreRefused) {
  const auto request = [](const std::function<void(proto::Request*)>& change) {
    proto::Request made;
    made.set_id(1);
    change(&made);
    return ParseRequest(View(SerializeRequest(made))).status().code();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  for (const size_t bytes : {size_t{0}, size_t{3}, size_t{2 * kMaxSlotsAsked + 2}}) {
    EXPECT_EQ(request([&](proto::Request* r) { r->mutable_slot_digests()->set_slots(std::string(bytes, '\0')); }),
              kBad);
  }
  EXPECT_EQ(request([](proto::Request* r) { r->mutable_slot_list()->set_slot(65536); }), kBad);
  EXPECT_EQ(request([](proto::Request* r) { r->mutable_slot_list()->set_after_ns("a"); }), kBad);
  EXPECT_EQ(request([](proto::Request* r) { r->mutable_slot_list()->set_after_identity("short"); }), kBad);
  EXPECT_EQ(request([](proto::Request* r) { r->mutable_slot_list()->set_after_identity(Identities(1)); }), kBad);
  const auto answer = [](const std::function<void(proto::SlotListed*)>& change) {
    proto::Answer made = SlotAnswer();
    change(made.mutable_slot_listed());
    return ParseAnswer(View(SerializeAnswer(made))).status().code();
  };
  EXPECT_EQ(answer([](proto::SlotListed*) {}), absl::StatusCode::kOk);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->mutable_encodings(0)->set_identity("short"); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->mutable_encodings(0)->set_etag("short"); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->mutable_encodings(0)->set_codec(9); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->mutable_encodings(0)->set_ns(""); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->mutable_encodings(0)->set_bytes(uint64_t{1} << 50); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->mutable_encodings(0)->set_heat(8); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->mutable_dropped()->set_log("short"); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) { l->clear_encodings(); }), kBad);
  EXPECT_EQ(answer([](proto::SlotListed* l) {
              const proto::SlotListed::Encoding one = l->encodings(0);
              while (l->encodings_size() <= kMaxSlotEntries) *l->add_encodings() = one;
            }),
            kBad);
  proto::Answer digests;
  digests.mutable_slot_digests_found()->set_records(std::string(33, '\0'));
  EXPECT_EQ(ParseAnswer(View(SerializeAnswer(digests))).status().code(), kBad);
  for (const uint64_t more : {0, 1}) {
    std::string record;
    AppendSlotDigest({.low = 1, .high = 2, .bytes = kMaxSlotBytes + more, .encodings = 3}, &record);
    digests.set_id(1);
    digests.mutable_slot_digests_found()->set_records(record);
    EXPECT_EQ(ParseAnswer(View(SerializeAnswer(digests))).ok(), more == 0);
  }
}

TEST(Data, ProtocolsMeetInTheHighestThatBothSpeak) {
  EXPECT_EQ(*CommonProtocol({2, 3}, {2, 3}), 3u);
  EXPECT_EQ(*CommonProtocol({2, 3}, {3, 4}), 3u);
  EXPECT_EQ(*CommonProtocol({3, 4}, {2, 3}), 3u);
  EXPECT_EQ(*CommonProtocol(kProtocols, kProtocols), 2u);
  const auto refusal = [](ProtocolRange client, ProtocolRange node) {
    const absl::Status status = CommonProtocol(client, node).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal({}, {3, 4}), "the client speaks protocol 2, and the node protocol 3 to 4: upgrade the client");
  EXPECT_EQ(refusal({4, 5}, {}), "the client speaks protocol 4 to 5, and the node protocol 2: upgrade the node");
  // Who names none.
  EXPECT_EQ(refusal({0, 0}, {}), "the client speaks protocol 1, and the node protocol 2: upgrade the client");
  EXPECT_EQ(refusal({}, {0, 0}), "the client speaks protocol 2, and the node protocol 1: upgrade the node");
}

// As builds of protocol 1 wrote them.
TEST(Data, Protocol1IsRefusedByName) {
  const std::string request = absl::HexStringToBytes("4b564c52010000000a000000f1778db30807120161c201020803");
  const std::string answer = absl::HexStringToBytes("4b564c410100000005000000a2c53e4c08079a0100");
  uint64_t id = 0;
  uint32_t protocol = 0;
  const absl::Status old_client = ParseRequest(View(request), &id, &protocol).status();
  EXPECT_EQ(old_client.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(old_client.message(), "request: the client speaks protocol 1, and the node protocol 2: upgrade the client");
  EXPECT_EQ(id, 0u);
  EXPECT_EQ(protocol, 0u);
  const absl::Status old_node = ParseAnswer(View(answer)).status();
  EXPECT_EQ(old_node.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(old_node.message(), "answer: the client speaks protocol 2, and the node protocol 1: upgrade the node");
}

TEST(Data, WhatHasMovedIsAStatusWithTheEpoch) {
  EXPECT_EQ(MovedEpoch(MovedStatus(0)), 0u);
  EXPECT_EQ(MovedEpoch(MovedStatus(std::numeric_limits<uint64_t>::max())), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(MovedStatus(7).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(MovedEpoch(absl::FailedPreconditionError("something else")), std::nullopt);
  EXPECT_EQ(MovedEpoch(absl::OkStatus()), std::nullopt);
}

TEST(Data, FoundRecords) {
  FoundRecord record;
  record.etag.bytes.fill(7);
  record.bytes = 4096;
  record.tokens = 40;
  record.tier = 2;
  std::string records;
  AppendFoundRecord({}, &records);
  AppendFoundRecord(record, &records);
  ASSERT_EQ(records.size(), 2u * kFoundRecordBytes);
  EXPECT_EQ(Hex(records.substr(40)),
            "07070707070707070707070707070707"
            "0010000000000000"
            "2800000000000000"
            "0200000000000000");
  const FoundRecord read = FoundRecordAt(View(records), 1);
  EXPECT_EQ(read.etag, record.etag);
  EXPECT_EQ(read.bytes, 4096u);
  EXPECT_EQ(read.tokens, 40u);
  EXPECT_EQ(read.tier, 2);
}

TEST(Data, PackedIdentities) {
  std::vector<Identity> identities(3);
  for (size_t i = 0; i < identities.size(); ++i) identities[i].bytes.fill(static_cast<uint8_t>(i));
  const std::string packed = PackIdentities(identities);
  EXPECT_EQ(packed.size(), 96u);
  EXPECT_EQ(UnpackIdentities(View(packed)), identities);
}

TEST(Data, ReadsWhatItWrote) {
  const proto::Request request = PullRequest();
  const std::string bytes = SerializeRequest(request);
  uint64_t id = 0;
  const auto read = ParseRequest(View(bytes), &id);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(id, 1u);
  EXPECT_EQ(read->SerializeAsString(), request.SerializeAsString());
}

TEST(Data, DamageIsNoticed) {
  const std::string whole = SerializeRequest(PullRequest());
  for (size_t i = 0; i < whole.size(); ++i) {
    if (i == 5) continue;  // the minor version
    std::string bytes = whole;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
    uint64_t id = 0;
    EXPECT_FALSE(ParseRequest(View(bytes), &id).ok()) << i;
    EXPECT_EQ(id, 0u);
  }
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_FALSE(ParseRequest(View(whole).substr(0, length)).ok());
  EXPECT_EQ(ParseRequest(View(std::string(kMaxDataMessage + 1, 'x'))).status().code(),
            absl::StatusCode::kInvalidArgument);
  // A sound envelope around something else.
  EXPECT_EQ(ParseRequest(View(WrapEnvelope(kRequestKind, "\xff\xff\xff"))).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Data, RequestsOutOfBoundsAreRefusedByTheirId) {
  using Change = std::function<void(proto::Request*)>;
  const std::vector<Change> changes = {
      [](proto::Request* r) { r->mutable_hello()->set_token("short"); },
      [](proto::Request* r) { r->set_ns(std::string(256, 'n')); },
      [](proto::Request* r) { r->mutable_pull()->mutable_name()->set_identity("x"); },
      [](proto::Request* r) { r->mutable_pull()->mutable_name()->set_etag(""); },
      [](proto::Request* r) { r->mutable_pull()->mutable_name()->set_codec(0); },
      [](proto::Request* r) { r->mutable_pull()->mutable_name()->set_codec(5); },
      [](proto::Request* r) { r->mutable_pull()->set_payloads(0); },
      [](proto::Request* r) { r->mutable_pull()->set_payloads(65537); },
      [](proto::Request* r) { r->mutable_pull()->set_first_payload(std::numeric_limits<uint64_t>::max()); },
      [](proto::Request* r) { r->mutable_pull()->mutable_part()->set_tokens(-1); },
      [](proto::Request* r) { r->mutable_lookup()->set_codec(1); },
      [](proto::Request* r) { r->mutable_lookup()->set_identities(Identities(1)); },
      [](proto::Request* r) {
        r->mutable_lookup()->set_codec(1);
        r->mutable_lookup()->set_identities(Identities(4097));
      },
      [](proto::Request* r) {
        r->mutable_lookup()->set_codec(1);
        r->mutable_lookup()->set_identities(Identities(1) + "x");
      },
      [](proto::Request* r) {
        r->mutable_push_begin()->set_codec(1);
        r->mutable_push_begin()->set_identity(Identities(1));
      },
      [](proto::Request* r) {
        r->mutable_push_begin()->set_codec(1);
        r->mutable_push_begin()->set_identity(Identities(1));
        r->mutable_push_begin()->add_lengths(100);
      },
      [](proto::Request* r) {
        r->mutable_push_begin()->set_codec(1);
        r->mutable_push_begin()->set_identity(Identities(1));
        r->mutable_push_begin()->add_lengths(-4096);
      },
      [](proto::Request* r) {
        r->mutable_push_begin()->set_codec(1);
        r->mutable_push_begin()->set_identity(Identities(1));
        for (int i = 0; i < 1025; ++i) r->mutable_push_begin()->add_lengths(4096);
      },
      [](proto::Request* r) { r->mutable_action()->set_identities(Identities(1)); },
      [](proto::Request* r) {
        r->mutable_action()->set_action(proto::EncodingAction::PIN);
        r->mutable_action()->set_identities(Identities(1));
      },
      [](proto::Request* r) { r->mutable_release(); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    proto::Request request = PullRequest();
    request.set_id(9);
    changes[i](&request);
    uint64_t id = 0;
    const auto read = ParseRequest(View(SerializeRequest(request)), &id);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument) << i;
    EXPECT_EQ(id, 9u) << i;
  }
}

TEST(Data, BodiesOfTheFutureAreNamedAsSuch) {
  // Field 90, a message, which this build does not know.
  const std::string bytes = WrapEnvelope(kRequestKind, absl::string_view("\x08\x05\xd2\x05\x00", 5));
  uint64_t id = 0;
  EXPECT_EQ(ParseRequest(View(bytes), &id).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(id, 5u);
}

TEST(Data, AnswersOutOfBoundsAreRefused) {
  using Change = std::function<void(proto::Answer*)>;
  const std::vector<Change> changes = {
      [](proto::Answer* a) { a->mutable_welcome()->set_node_id("short"); },
      [](proto::Answer* a) { a->mutable_moved()->set_epoch(1); },  // without its code
      [](proto::Answer* a) { a->mutable_found()->set_records("short"); },
      [](proto::Answer* a) { a->mutable_found()->set_records(std::string(40, '\4')); },
      [](proto::Answer* a) { a->mutable_found()->set_records(std::string(40 * 4097, '\0')); },
      [](proto::Answer* a) { a->mutable_push_ready()->set_etag("x"); },
      [](proto::Answer* a) { a->mutable_push_done(); },
      [](proto::Answer* a) { a->mutable_pull_started()->set_tier(3); },
      [](proto::Answer* a) { a->mutable_action_done()->set_codes(std::string(4097, '\0')); },
      [](proto::Answer* a) { a->mutable_leased()->set_tier(3); },
      [](proto::Answer* a) {
        for (int i = 0; i < 1025; ++i) a->mutable_leased()->add_offsets(0);
      },
      [](proto::Answer* a) {
        for (int i = 0; i < 1025; ++i) a->mutable_leased()->add_memories(1);
      },
      [](proto::Answer* a) { a->mutable_shared_memory()->set_ns(std::string(256, 'n')); },
      [](proto::Answer* a) {
        a->mutable_pull_done();
        a->set_code(17);
      },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    proto::Answer answer;
    answer.set_id(1);
    changes[i](&answer);
    EXPECT_EQ(ParseAnswer(View(SerializeAnswer(answer))).status().code(), absl::StatusCode::kInvalidArgument) << i;
  }
  proto::Answer refused;
  refused.set_code(8);
  EXPECT_TRUE(ParseAnswer(View(SerializeAnswer(refused))).ok());
  refused.set_code(0);
  EXPECT_EQ(ParseAnswer(View(SerializeAnswer(refused))).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace kvlink
