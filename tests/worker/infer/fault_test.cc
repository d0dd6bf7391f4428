// A store that fails in every way it can: requests are answered all the same, as if nothing had happened.
#include <algorithm>

#include "base/clock.h"
#include "gmock/gmock.h"
#include "tests/worker/infer/faulty_store.h"
#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

using ::testing::HasSubstr;

constexpr int kTokens = 6;
constexpr int kAlways = 1 << 20;

class FaultTest : public GeneratorTest {
 protected:
  Identity IdentityOf(int document) const {
    return ComputeIdentity({loaded_.fingerprint, "", documents_[document].tokens}, "");
  }
  // Everything a conversation gives out: an answer, a turn behind it, scores of that turn.
  struct Transcript {
    std::vector<int32_t> tokens;
    std::vector<float> logits;
    std::vector<float> scores;
  };
  Transcript Talk(Generator& generator, link::Linker linker = link::Linker::kConcat) {
    Transcript transcript;
    Request request = Ask();
    request.linker = linker;
    const auto conversation = Start(generator, request);
    if (conversation == nullptr) return transcript;
    transcript.tokens = Decode(generator, *conversation, kTokens);
    const std::vector<int32_t> turn = {conversation->next(), 20, 30, 40, 50};
    EXPECT_TRUE(generator.Extend(*conversation, turn, {}).ok());
    transcript.tokens.push_back(conversation->next());
    auto scores = generator.Score(*conversation, turn, {});
    EXPECT_TRUE(scores.ok()) << scores.status();
    if (scores.ok()) transcript.scores = *std::move(scores);
    transcript.logits = LogitsOf(*conversation);
    return transcript;
  }
  void ExpectSame(const Transcript& actual, const Transcript& expected) {
    EXPECT_EQ(actual.tokens, expected.tokens);
    EXPECT_LE(LargestDifference(actual.logits, expected.logits), tolerance());
    EXPECT_LE(LargestDifference(actual.scores, expected.scores), tolerance());
  }
};

TEST_P(FaultTest, TheStoreIsAskedForAllDocumentsOfARequestTogether) {
  FillStore();
  testing::FaultyStore counted(store_.get());
  const auto generator = MakeGenerator(&counted, Options());
  ASSERT_NE(Start(*generator, Ask({0, 1, 2, 3})), nullptr);
  EXPECT_EQ(counted.asked(), 2);  // one lookup, one read
}

TEST_P(FaultTest, EveryErrorOfEveryLayerCostsOneEncode) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  const Transcript expected = Talk(*quiet);
  const int step = GetParam().on_device || testing::kSanitized ? 4 : 1;  // emulation is slow
  for (int code = step == 1 ? 1 : 3; code <= 16; code += step) {
    const absl::Status fault(static_cast<absl::StatusCode>(code), "as told");
    SCOPED_TRACE(fault.ToString());
    for (int64_t layer = 0; layer < loaded_.model->config().layers; ++layer) {
      testing::FaultyStore faulty(store_.get());
      faulty.FailLayer(IdentityOf(2), layer, fault);
      const auto generator = MakeGenerator(&faulty, Options());
      ExpectSame(Talk(*generator), expected);
      EXPECT_EQ(generator->stats().encoded, 1);
      EXPECT_EQ(generator->stats().damaged, absl::IsDataLoss(fault) ? 1 : 0);
      EXPECT_EQ(generator->stats().late, absl::IsDataLoss(fault) ? 0 : 1);
    }
  }
}

TEST_P(FaultTest, WhatComesLateIsEncoded) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  const Transcript expected = Talk(*quiet);
  testing::FaultyStore faulty(store_.get());
  faulty.DelayLayer(IdentityOf(0), 0);
  faulty.DelayLayer(IdentityOf(3), loaded_.model->config().layers - 1);
  GeneratorOptions options = Options();
  options.load_timeout = absl::Milliseconds(20);
  const auto generator = MakeGenerator(&faulty, options);
  ExpectSame(Talk(*generator), expected);
  EXPECT_GE(generator->stats().late, 2);
  EXPECT_GE(generator->stats().encoded, 2);
}

TEST_P(FaultTest, AStoreThatDoesNotAnswerIsAMiss) {
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  const Transcript expected = Talk(*quiet);
  for (const bool lookups : {true, false}) {
    testing::FaultyStore faulty(store_.get());
    const absl::Status gone = absl::UnavailableError("closing");
    lookups ? faulty.FailLookups(gone) : faulty.FailReads(gone);
    faulty.FailPuts(gone);
    const auto generator = MakeGenerator(&faulty, Options());
    ExpectSame(Talk(*generator), expected);
    EXPECT_EQ(generator->stats().pool.store_errors, lookups ? 1 : 4);
    EXPECT_EQ(generator->stats().encoded, 4);
    ASSERT_TRUE(generator->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
    EXPECT_EQ(generator->stats().write_back.failed, 4);
    EXPECT_THAT(generator->stats().write_back.last_error, HasSubstr("closing"));
  }
}

TEST_P(FaultTest, APassOverMemoryThatWasTakenBackIsDoneAgain) {
  const int layers = static_cast<int>(loaded_.model->config().layers);
  for (const Codec codec : {exact(), Codec::kQ8, Codec::kQ4}) {
    // A copy of its own is checked after each layer, and no longer when it is whole.
    const bool copied = GetParam().on_device || codec == Codec::kQ4;
    const int matter = copied ? layers - 1 : kTokens;
    if (testing::kSanitized && codec == Codec::kQ8) continue;  // goes the way of one of the others
    FillStore(codec);
    const auto quiet = MakeGenerator(store_.get(), Options(codec));
    const Transcript expected = Talk(*quiet);
    int64_t lapsed = 0;
    for (const int times : {1, 2, kAlways}) {
      for (int checks = -1; checks <= (copied ? layers : kTokens + 2); ++checks) {
        SCOPED_TRACE(absl::StrCat(std::string(CodecName(codec)), " after ", checks, " checks, ", times, " times"));
        testing::FaultyStore faulty(store_.get());
        faulty.TakeBack(IdentityOf(2), checks, times);
        if (checks % 2 == 0) faulty.TakeBack(IdentityOf(0), checks, times);
        const auto generator = MakeGenerator(&faulty, Options(codec));
        ExpectSame(Talk(*generator), expected);
        if (checks < matter) {
          EXPECT_GT(generator->stats().lapsed, 0);
          EXPECT_GE(faulty.taken_back(), generator->stats().lapsed);
        }
        EXPECT_EQ(generator->stats().damaged, 0);
        lapsed = std::max(lapsed, generator->stats().lapsed);
      }
    }
    EXPECT_GT(lapsed, 0);
  }
}

TEST_P(FaultTest, StagesOutliveDamageAndWhatIsTakenBack) {
  // A device rounds what is encoded again another way, which may change a choice, and its emulation is slow.
  const bool on_device = GetParam().on_device;
  const int64_t percent = on_device ? 100 : 20;
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  for (const link::Linker linker : {link::Linker(link::Linker::kConcat, 0, link::Linker::kBlend, percent),
                                    link::Linker(link::Linker::kConcat, 4, link::Linker::kProphet, percent)}) {
    const Transcript expected = Talk(*quiet, linker);
    for (int64_t layer = on_device ? 1 : 0; layer < loaded_.model->config().layers; ++layer) {
      SCOPED_TRACE(absl::StrCat(link::LinkerName(linker), " layer ", layer));
      testing::FaultyStore faulty(store_.get());
      faulty.FailLayer(IdentityOf(2), layer, absl::DataLossError("as told"));
      const auto generator = MakeGenerator(&faulty, Options());
      ExpectSame(Talk(*generator, linker), expected);
      EXPECT_EQ(generator->stats().encoded, 1);
      EXPECT_EQ(generator->stats().damaged, 1);
    }
    for (const int times : {1, kAlways}) {
      if (on_device && times > 1) break;
      for (int checks = on_device ? 0 : -1; checks <= (on_device ? 0 : 3); ++checks) {
        SCOPED_TRACE(absl::StrCat(link::LinkerName(linker), " after ", checks, " checks, ", times, " times"));
        testing::FaultyStore faulty(store_.get());
        faulty.TakeBack(IdentityOf(2), checks, times);
        const auto generator = MakeGenerator(&faulty, Options());
        ExpectSame(Talk(*generator, linker), expected);
        EXPECT_GT(generator->stats().lapsed, 0);
      }
    }
  }
}

TEST_P(FaultTest, ABatchIsDoneAgainForAllThatReadTheEncoding) {
  FillStore();
  const std::vector<std::vector<int>> asked = {{0, 1, 2, 3}, {2, 0}, {1}, {2, 2, 3}};
  const auto answers = [&](Generator& generator) {
    std::vector<std::unique_ptr<Conversation>> conversations;
    std::vector<Conversation*> batch;
    for (const auto& documents : asked) {
      conversations.push_back(Start(generator, Ask(documents)));
      batch.push_back(conversations.back().get());
    }
    std::vector<std::vector<int32_t>> tokens(asked.size());
    for (int step = 0; step < kTokens; ++step) {
      for (size_t i = 0; i < asked.size(); ++i) tokens[i].push_back(batch[i]->next());
      EXPECT_TRUE(generator.StepBatch(batch, {}).ok());
    }
    for (Conversation* one : batch) EXPECT_EQ(one->stats().decoded_tokens, kTokens);
    return tokens;
  };
  const auto quiet = MakeGenerator(store_.get(), Options());
  const auto expected = answers(*quiet);
  // The last one that matters: to a device, which copies, one of those while the layers arrive.
  const int last_check = GetParam().on_device ? static_cast<int>(loaded_.model->config().layers) - 2 : kTokens + 3;
  for (const int times : {1, kAlways}) {
    for (int checks = 0; checks <= last_check; ++checks) {
      SCOPED_TRACE(absl::StrCat(checks, " checks, ", times, " times"));
      testing::FaultyStore faulty(store_.get());
      faulty.TakeBack(IdentityOf(2), checks, times);
      const auto generator = MakeGenerator(&faulty, Options());
      EXPECT_EQ(answers(*generator), expected);
      EXPECT_GT(generator->stats().lapsed + generator->stats().pool.dropped, 0);
    }
  }
}

TEST_P(FaultTest, ThePoolGivesOutNothingThatWasTakenBack) {
  if (GetParam().on_device) GTEST_SKIP() << "a device has copies of its own";
  FillStore();
  const auto quiet = MakeGenerator(store_.get(), Options());
  const Transcript expected = Talk(*quiet);
  testing::FaultyStore faulty(store_.get());
  const auto generator = MakeGenerator(&faulty, Options());
  faulty.TakeBack(IdentityOf(1), kTokens + 1, 1);  // at the end of the first conversation
  ExpectSame(Talk(*generator), expected);
  EXPECT_EQ(faulty.taken_back(), 1);
  const int64_t lapsed = generator->stats().lapsed;
  ExpectSame(Talk(*generator), expected);
  EXPECT_EQ(generator->stats().lapsed, lapsed);
  EXPECT_GE(generator->stats().pool.dropped, 1);
  EXPECT_EQ(generator->stats().encoded, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, FaultTest, ::testing::ValuesIn(GeneratorBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
