// The records of a cluster in etcd, byte by byte, and errors that name what is wrong in malformed ones.
#include "store/cluster/members/records.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "store/cluster/members/connection.h"
#include "store/cluster/node/binding.h"

namespace kvlink::store::cluster {
namespace {

using ::testing::HasSubstr;

constexpr char kId[] = "000102030405060708090a0b0c0d0e0f";

NodeId Id() {
  NodeId id;
  for (size_t i = 0; i < id.size(); ++i) id[i] = static_cast<uint8_t>(i);
  return id;
}

Identity IdentityNumbered(uint8_t number) {
  Identity identity;
  identity.bytes[0] = number;
  return identity;
}

constexpr char kCluster[] =
    R"({"acknowledged":1,"copies":2,"database":"postgresql://db/kvlink","format":1,"id":"000102030405060708090a0b0c0d0e0f"})";
constexpr char kMember[] =
    R"({"address":"host:7400","build":"kvlink 1","format":1,"protocol":[2,3],"state":"draining","weight":64,"zone":"a-1"})";
constexpr char kMovingMember[] =
    R"({"address":"host:7400","build":"kvlink 1","format":1,"former":{"weight":3,"zone":"b"},"protocol":[2,3],"state":"draining","weight":64,"zone":"a-1"})";
constexpr char kAlive[] = R"({"address":"host:7400","format":1,"incarnation":1700000000000000})";
constexpr char kProgress[] =
    R"({"bytes_left":5000000000,"bytes_per_second":1000,"epoch":42,"format":1,"slots":65536,"slots_done":7})";
constexpr char kHot[] =
    R"({"format":1,"held":[{"codec":"q8","identity":"0100000000000000000000000000000000000000000000000000000000000000","namespace":"b"}],)"
    R"("read":[{"codec":"raw-bf16","copies":3,"identity":"0200000000000000000000000000000000000000000000000000000000000000","namespace":"a","reads_per_second":900}]})";
constexpr char kEpoch[] =
    R"({"change":"a: weight 2","format":1,"founders":2,"removed":["000102030405060708090a0b0c0d0e0f"]})";

TEST(ClusterRecords, GoldenBytes) {
  ClusterSettings settings;
  settings.id = Id();
  settings.name = "default";
  settings.copies = 2;
  settings.acknowledged = 1;
  settings.database = "postgresql://db/kvlink";
  EXPECT_EQ(SerializeCluster(settings), kCluster);
  const auto cluster = ParseCluster("default", kCluster);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  EXPECT_EQ(cluster->id, settings.id);
  EXPECT_EQ(SerializeCluster(*cluster), kCluster);

  const MemberRecord member{"host:7400", "a-1", 64, MemberState::kDraining, "kvlink 1", {2, 3}};
  EXPECT_EQ(SerializeMember(member), kMember);
  EXPECT_EQ(*ParseMember(kMember), member);
  MemberRecord moving = member;
  moving.former = Standing{"b", 3};
  EXPECT_EQ(SerializeMember(moving), kMovingMember);
  EXPECT_EQ(*ParseMember(kMovingMember), moving);

  EXPECT_EQ(SerializeAlive({1700000000000000, "host:7400"}), kAlive);
  EXPECT_EQ(ParseAlive(kAlive)->incarnation, 1700000000000000u);

  const ProgressRecord progress{42, 65536, 7, 5000000000, 1000};
  EXPECT_EQ(SerializeProgress(progress), kProgress);
  EXPECT_EQ(*ParseProgress(kProgress), progress);

  HotRecord hot;
  hot.read = {{{"a", IdentityNumbered(2), Codec::kRawBf16}, 3, 900}};
  hot.held = {{"b", IdentityNumbered(1), Codec::kQ8}};
  EXPECT_EQ(SerializeHot(hot), kHot);
  EXPECT_EQ(*ParseHot(kHot), hot);

  EXPECT_EQ(SerializeEpoch({2, "a: weight 2", {Id()}}), kEpoch);
  EXPECT_EQ(ParseEpoch(kEpoch)->founders, 2);
  EXPECT_EQ(ParseEpoch(kEpoch)->removed, std::vector{Id()});

  EXPECT_EQ(KeyOf("x", KeyKind::kMember, Id()), absl::StrCat("x/members/", kId));
  for (const KeyKind kind : {KeyKind::kCluster, KeyKind::kEpoch}) {
    EXPECT_EQ(ParseKey("x", KeyOf("x", kind))->kind, kind);
  }
  for (const KeyKind kind : {KeyKind::kMember, KeyKind::kEntered, KeyKind::kAlive, KeyKind::kProgress, KeyKind::kHot}) {
    const auto key = ParseKey("x", KeyOf("x", kind, Id()));
    ASSERT_TRUE(key.has_value());
    EXPECT_EQ(key->kind, kind);
    EXPECT_EQ(key->id, Id());
  }
  for (const char* other : {"x", "x/", "y/cluster", "xx/cluster", "x/members/", "x/members/00", "x/other/1"}) {
    EXPECT_FALSE(ParseKey("x", other).has_value()) << other;
  }
}

template <typename Parse>
void ExpectRefused(const std::string& good, const Parse& parse,
                   const std::vector<std::pair<std::string, std::string>>& changes) {
  ASSERT_TRUE(parse(good).ok()) << parse(good).status();
  // Fields that a later build adds are ignored.
  EXPECT_TRUE(parse(absl::StrReplaceAll(good, {{"{", R"({"a_new_field":{"x":[1]},)"}})).ok());
  const auto newer = parse(absl::StrReplaceAll(good, {{R"("format":1)", R"("format":2)"}}));
  EXPECT_EQ(newer.status().code(), absl::StatusCode::kUnimplemented) << newer.status();
  EXPECT_THAT(std::string(newer.status().message()), HasSubstr("format 2"));
  for (const auto& [from, to] : changes) {
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    ASSERT_NE(bad, good) << from;
    const auto parsed = parse(bad);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    const std::string name = from.substr(1, from.find('"', 1) - 1);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("'" + name + "'")) << bad;
  }
  for (const std::string& bad : {std::string(), std::string("{"), std::string("[]"), std::string("1"), good + "x",
                                 std::string(20000, ' ') + good, std::string("{}"), good.substr(0, good.size() / 2)}) {
    EXPECT_EQ(parse(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad.substr(0, 100);
  }
}

// Every record that is written can be read.
TEST(ClusterRecords, TruncatesLongText) {
  const auto epoch = ParseEpoch(SerializeEpoch({1, std::string(511, 'x') + "\xc3\xa9 and more", {}}));
  ASSERT_TRUE(epoch.ok()) << epoch.status();
  EXPECT_EQ(epoch->change, std::string(511, 'x'));
  const auto progress = ParseProgress(SerializeProgress({1, 2, 1, UINT64_MAX, UINT64_MAX}));
  EXPECT_TRUE(progress.ok()) << progress.status();
  HotRecord hot;
  for (uint8_t i = 0; i < 100; ++i) {
    hot.read.push_back({{std::string(255, '"'), IdentityNumbered(i), Codec::kQ4}, 1000, UINT64_MAX});
    hot.held.push_back(hot.read.back().name);
  }
  const auto cut = ParseHot(SerializeHot(hot));
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_GT(cut->read.size(), 5u);
  EXPECT_GT(cut->held.size(), 5u);
  for (HotName* name : {&hot.read[0].name, &hot.held[0]}) name->ns = "a";
  hot.read.resize(kMaxHotRead + 1, hot.read[0]);
  hot.held.resize(kMaxHotHeld + 1, hot.held[0]);
  hot.read.resize(1);
  EXPECT_EQ(ParseHot(SerializeHot(hot))->read[0].copies, kMaxCopies);
}

TEST(ClusterRecords, EveryFieldIsChecked) {
  ExpectRefused(kMember, [](const std::string& bytes) { return ParseMember(bytes); },
                {{R"("address":"host:7400")", R"("address":"host")"},
                 {R"("address":"host:7400")", R"("address":7)"},
                 {R"("address":"host:7400",)", ""},
                 {R"("weight":64)", R"("weight":0)"},
                 {R"("weight":64)", R"("weight":1048577)"},
                 {R"("weight":64)", R"("weight":-1)"},
                 {R"("weight":64)", R"("weight":1.5)"},
                 {R"("weight":64)", R"("weight":18446744073709551616)"},
                 {R"("weight":64)", R"("weight":"64")"},
                 {R"("state":"draining")", R"("state":"gone")"},
                 {R"("state":"draining")", R"("state":null)"},
                 {R"("build":"kvlink 1")", "\"build\":\"a\\u0000b\""},
                 {R"("format":1)", R"("format":0)"},
                 {R"("format":1,)", ""},
                 {R"("protocol":[2,3])", R"("protocol":[3,2])"},
                 {R"("protocol":[2,3])", R"("protocol":[2])"},
                 {R"("protocol":[2,3])", R"("protocol":[0,3])"},
                 {R"("protocol":[2,3])", R"("protocol":2)"}});
  EXPECT_FALSE(ParseMember(absl::StrReplaceAll(kMember, {{"a-1", "a/1"}})).ok());
  ExpectRefused(kMovingMember, [](const std::string& bytes) { return ParseMember(bytes); },
                {{R"("weight":3)", R"("weight":0)"},
                 {R"("weight":3,)", ""},
                 {R"("zone":"b")", R"("zone":7)"},
                 {R"("former":{)", R"("former":7,"x":{)"},
                 {R"("former":{)", R"("former":null,"x":{)"}});
  ExpectRefused(kCluster, [](const std::string& bytes) { return ParseCluster("default", bytes); },
                {{R"("copies":2)", R"("copies":0)"},
                 {R"("copies":2)", R"("copies":17)"},
                 {R"("acknowledged":1)", R"("acknowledged":0)"},
                 {R"("id":"0001)", R"("id":"X001)"},
                 {R"("id":"0001)", R"("id":"01)"}});
  EXPECT_FALSE(
      ParseCluster("default", absl::StrReplaceAll(kCluster, {{R"("acknowledged":1)", R"("acknowledged":3)"}})).ok());
  ExpectRefused(kAlive, [](const std::string& bytes) { return ParseAlive(bytes); },
                {{R"("incarnation":17)", R"("incarnation":-17)"}, {R"("address":"host:7400")", R"("address":"")"}});
  ExpectRefused(kProgress, [](const std::string& bytes) { return ParseProgress(bytes); },
                {{R"("slots":65536)", R"("slots":65537)"},
                 {R"("slots_done":7)", R"("slots_done":65537)"},
                 {R"("epoch":42)", R"("epoch":null)"},
                 {R"("bytes_left":5000000000)", R"("bytes_left":-1)"}});
  ExpectRefused(kHot, [](const std::string& bytes) { return ParseHot(bytes); },
                {{R"("copies":3)", R"("copies":17)"},
                 {R"("copies":3)", R"("copies":-1)"},
                 {R"("copies":3,)", ""},
                 {R"("reads_per_second":900)", R"("reads_per_second":-1)"},
                 {R"("identity":"02)", R"("identity":"2)"},
                 {R"("identity":"02)", R"("identity":"XX)"},
                 {R"("codec":"q8")", R"("codec":"q9")"},
                 {R"("codec":"q8",)", ""},
                 {R"("namespace":"b")", R"("namespace":"")"},
                 {R"("namespace":"b")", "\"namespace\":\"a\\u0000b\""},
                 {R"("namespace":"b")", R"("namespace":7)"},
                 {R"("held":[)", R"("held":[7,)"},
                 {R"("held":[)", R"("held":{},"x":[)"},
                 {R"("read":[)", R"("read":[{},)"}});
  const std::string one = R"({"codec":"q8","identity":")" + std::string(64, '1') + R"(","namespace":"b"})";
  const auto held = [&one](size_t count) {
    std::string list;
    for (size_t i = 0; i < count; ++i) absl::StrAppend(&list, i == 0 ? "" : ",", one);
    return ParseHot(absl::StrCat(R"({"format":1,"read":[],"held":[)", list, "]}")).status();
  };
  EXPECT_TRUE(held(kMaxHotHeld).ok()) << held(kMaxHotHeld);
  EXPECT_THAT(std::string(held(kMaxHotHeld + 1).message()), HasSubstr("'held'"));
  ExpectRefused(kEpoch, [](const std::string& bytes) { return ParseEpoch(bytes); },
                {{R"("founders":2)", R"("founders":17)"},
                 {R"("change":"a: weight 2")", R"("change":2)"},
                 {R"("removed":["0001)", R"("removed":["001)"},
                 {R"("removed":["0001)", R"("removed":["X001)"},
                 {R"("removed":["0001)", R"("removed":[1,"0001)"}});
  EpochRecord many;
  many.removed.resize(kMaxRemoved);
  EXPECT_TRUE(ParseEpoch(SerializeEpoch(many)).ok());
  many.removed.emplace_back();
  EXPECT_EQ(ParseEpoch(SerializeEpoch(many)).status().code(), absl::StatusCode::kInvalidArgument);
}

// Nested too deeply for a recursive parser.
TEST(ClusterRecords, DeepNestingIsRefused) {
  const std::string deep = absl::StrCat(R"({"x":)", std::string(7000, '['), std::string(7000, ']'), "}");
  EXPECT_FALSE(ParseMember(deep).ok());
  EXPECT_FALSE(ParseMember(std::string(16000, '[')).ok());
}

TEST(ClusterRecords, PasswordsAreNotPublished) {
  ClusterSettings settings;
  settings.name = "default";
  for (const char* database :
       {"postgresql://user:secret@db/kvlink", "postgres://user:secret@db", "host=db password=secret",
        "host=db PASSWORD = x", "postgresql://db/kvlink?password=secret"}) {
    settings.database = database;
    const absl::Status status = ValidateSettings(settings);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << database;
    EXPECT_THAT(std::string(status.message()), HasSubstr("PGPASSFILE"));
    EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("secret")));
  }
  for (const char* database : {"", "postgresql://user@a:5432,b:5432/kvlink", "host=db user=x dbname=y"}) {
    settings.database = database;
    EXPECT_TRUE(ValidateSettings(settings).ok()) << database;
  }
}

TEST(ClusterAddress, Parses) {
  const auto plain = ParseClusterAddress("a:1");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->etcd.endpoints, "a:1");
  EXPECT_EQ(plain->name, "default");
  const auto named = ParseClusterAddress("a:1,[::1]:2/my-cluster");
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ(named->etcd.endpoints, "a:1,[::1]:2");
  EXPECT_EQ(named->name, "my-cluster");
  for (const char* bad : {"", "a", "a:1,", "a:1/", "a:1/b/c", "http://a:1", "a:0", "a:99999", "a:1/b c", "/x"}) {
    const auto parsed = ParseClusterAddress(bad);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("HOST:PORT")) << bad;
  }
}

TEST(Binding, GoldenBytes) {
  const Binding binding{Id(), "default"};
  const std::string bytes = SerializeBinding(binding);
  EXPECT_EQ(absl::BytesToHexString(bytes),
            "4b56434c01000000180000000e9b1f59000102030405060708090a0b0c0d0e0f0764656661756c74");
  EXPECT_EQ(*ParseBinding(bytes), binding);
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string bad = bytes;
    bad[i] = static_cast<char>(bad[i] ^ 0x40);
    // A later minor version is read.
    EXPECT_EQ(ParseBinding(bad).ok(), i == 5) << i;
    EXPECT_FALSE(ParseBinding(bytes.substr(0, i)).ok()) << i;
  }
}

TEST(Entered, GoldenBytes) {
  const std::string bytes = SerializeEntered(0x0102030405060708);
  EXPECT_EQ(absl::BytesToHexString(bytes.substr(0, 12)) + absl::BytesToHexString(bytes.substr(16)),
            "4b56454e0100000008000000"
            "0807060504030201");
  EXPECT_EQ(*ParseEntered(bytes), uint64_t{0x0102030405060708});
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string bad = bytes;
    bad[i] = static_cast<char>(bad[i] ^ 0x40);
    EXPECT_EQ(ParseEntered(bad).ok(), i == 5) << i;
    EXPECT_FALSE(ParseEntered(bytes.substr(0, i)).ok()) << i;
  }
}

}  // namespace
}  // namespace kvlink::store::cluster
