// traceparent and tracestate, by the examples and rules of W3C Trace Context.
#include "worker/serve/trace/context.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/support/seed.h"

namespace kvlink::serve {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;
using kvlink::testing::TestSeed;

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736", kParent[] = "00f067aa0ba902b7";
constexpr char kGood[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TraceContext OfParent(const std::string& parent) { return TraceContext::Of({{"traceparent", parent}}, 0); }
std::string StateOf(const std::string& state) {
  return TraceContext::Of({{"traceparent", kGood}, {"tracestate", state}}, 0).state;
}

TEST(TraceContextTest, AClientsTraceIsContinued) {
  const TraceContext context = OfParent(kGood);
  EXPECT_TRUE(context.given);
  EXPECT_TRUE(context.sampled);
  EXPECT_EQ(ToHex(context.trace), kTrace);
  EXPECT_EQ(ToHex(context.parent), kParent);
  EXPECT_NE(context.span, SpanId{});
  EXPECT_NE(context.span, context.parent);
  EXPECT_EQ(context.ToParent(), absl::StrCat("00-", kTrace, "-", ToHex(context.span), "-01"));
}

TEST(TraceContextTest, OnlyTheLastBitOfTheFlagsSaysWhetherItIsSampled) {
  const std::string head = absl::StrCat("00-", kTrace, "-", kParent, "-");
  for (const auto& [flags, sampled] : std::vector<std::pair<std::string, bool>>{
           {"00", false}, {"01", true}, {"02", false}, {"03", true}, {"fe", false}, {"ff", true}}) {
    const TraceContext context = OfParent(head + flags);
    EXPECT_TRUE(context.given) << flags;
    EXPECT_EQ(context.sampled, sampled) << flags;
    // What a client does not sample is not sampled here, whatever the ratio.
    EXPECT_EQ(TraceContext::Of({{"traceparent", head + flags}}, 1).sampled, sampled) << flags;
    EXPECT_TRUE(absl::EndsWith(context.ToParent(), sampled ? "-01" : "-00"));
  }
}

TEST(TraceContextTest, LaterVersionsAreReadAsFarAsThisOneGoes) {
  const std::string rest = std::string(kGood).substr(2);
  for (const std::string& good :
       {"01" + rest, "cc" + rest, "fe" + rest, "01" + rest + "-", "01" + rest + "-what-the-future"}) {
    const TraceContext context = OfParent(good);
    EXPECT_TRUE(context.given && context.sampled) << good;
    EXPECT_EQ(ToHex(context.trace), kTrace) << good;
    EXPECT_TRUE(absl::StartsWith(context.ToParent(), "00-")) << good;
  }
  for (const std::string& bad :
       {"ff" + rest, "00" + rest + "-", "00" + rest + "-00", "01" + rest + ".", "01" + rest + "0"}) {
    EXPECT_FALSE(OfParent(bad).given) << bad;
  }
}

TEST(TraceContextTest, WhatIsMalformedIsIgnored) {
  const std::string good = kGood;
  std::vector<std::string> bad = {"",
                                  "00",
                                  "00-",
                                  "-",
                                  std::string(55, '-'),
                                  std::string(55, '0'),
                                  good.substr(0, 54),
                                  "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                                  "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                                  "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                                  "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067aa0ba902b7-01",
                                  "0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                                  "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
                                  "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
                                  "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                                  "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
                                  "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
                                  std::string("00-4bf92f3577b34da6a3ce929d0e0e47\0006-00f067aa0ba902b7-01", 55),
                                  good + "," + good};
  for (size_t i = 0; i < good.size(); ++i) {
    for (const char wrong : {'g', ' ', '\x80', 'F'}) {
      std::string one = good;
      one[i] = wrong;
      bad.push_back(one);
    }
  }
  for (const std::string& parent : bad) {
    const TraceContext context =
        TraceContext::Of({{"traceparent", parent}, {"tracestate", "vendor=value"}}, /*ratio=*/0);
    EXPECT_FALSE(context.given) << parent;
    EXPECT_FALSE(context.sampled) << parent;
    EXPECT_EQ(context.parent, SpanId{}) << parent;
    EXPECT_NE(context.trace, TraceId{}) << parent;
    EXPECT_NE(ToHex(context.trace), kTrace) << parent;
    EXPECT_EQ(context.state, "") << parent;
  }
  EXPECT_FALSE(TraceContext::Of({{"traceparent", good}, {"traceparent", good}}, 0).given);
}

TEST(TraceContextTest, RandomBytesAreIgnored) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 20000; ++round) {
    std::string parent(random() % 70, '\0'), state(random() % 70, '\0');
    for (char& c : parent) c = static_cast<char>(random());
    for (char& c : state) c = static_cast<char>(random());
    if (round % 2 == 0 && parent.size() >= 55) parent = absl::StrCat("00-", kTrace, "-", kParent, parent.substr(52));
    const TraceContext context = TraceContext::Of({{"traceparent", parent}, {"tracestate", state}}, 1);
    EXPECT_NE(context.trace, TraceId{});
    EXPECT_TRUE(context.given || context.sampled);
    for (const char c : context.state) EXPECT_TRUE(c >= 0x20 && c <= 0x7e);
  }
}

TEST(TraceContextTest, TheStateIsPassedOn) {
  EXPECT_EQ(StateOf("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
  EXPECT_EQ(StateOf(" a=1 ,\t, b@tenant-_*/=2 x"), "a=1,b@tenant-_*/=2 x");
  EXPECT_EQ(StateOf("1a=~"), "1a=~");
  EXPECT_EQ(StateOf(""), "");
  EXPECT_EQ(TraceContext::Of({{"tracestate", "b=2"}, {"traceparent", kGood}, {"tracestate", "a=1"}}, 0).state,
            "b=2,a=1");
  EXPECT_EQ(TraceContext::Of({{"tracestate", "b=2"}}, 0).state, "");
}

TEST(TraceContextTest, AMalformedStateLeavesTheTrace) {
  std::vector<std::string> many;
  for (int i = 0; i < 33; ++i) many.push_back(absl::StrCat("k", i, "=v"));
  const std::string all = absl::StrJoin(many, ",");
  for (const std::string& bad :
       {std::string("a"), std::string("=1"), std::string("a="), std::string("A=1"), std::string("a b=1"),
        std::string("a=1=2"), std::string("a=\x01"), std::string("a=\xc3\xa4"), std::string("a=1,a=2"),
        "a=" + std::string(257, 'v'), std::string(257, 'k') + "=1", all}) {
    const TraceContext context = TraceContext::Of({{"traceparent", kGood}, {"tracestate", bad}}, 0);
    EXPECT_TRUE(context.given) << bad;
    EXPECT_EQ(context.state, "") << bad;
  }
  many.pop_back();
  EXPECT_EQ(StateOf(absl::StrJoin(many, ",")), absl::StrJoin(many, ","));
}

TEST(TraceContextTest, TracesThatBeginHereAreSampledByTheRatio) {
  std::set<TraceId> seen;
  int sampled = 0;
  for (int i = 0; i < 4000; ++i) {
    const TraceContext context = TraceContext::Of({}, 0.25);
    EXPECT_FALSE(context.given);
    EXPECT_TRUE(seen.insert(context.trace).second);
    sampled += context.sampled ? 1 : 0;
  }
  // Ten standard deviations.
  EXPECT_GT(sampled, 1000 - 280);
  EXPECT_LT(sampled, 1000 + 280);
  EXPECT_TRUE(TraceContext::Of({}, 1).sampled);
  EXPECT_FALSE(TraceContext::Of({}, 0).sampled);
}

}  // namespace
}  // namespace kvlink::serve
