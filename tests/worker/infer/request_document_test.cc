// Documents that are computed as part of the prompt, and documents whose encodings are their own.
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/infer/fixture.h"

namespace kvlink::infer {
namespace {

class RequestDocumentTest : public GeneratorTest {
 protected:
  static void Append(const std::vector<int32_t>& from, std::vector<int32_t>* to) {
    to->insert(to->end(), from.begin(), from.end());
  }
  static Request Under(const std::string& secret, Request request) {
    for (RequestDocument& document : request.documents) document.secret = secret;
    return request;
  }
  static int64_t Loaded(const RequestStats& stats) { return stats.documents_dram + stats.documents_disk; }
};

TEST_P(RequestDocumentTest, TextAloneIsAFullPrefill) {
  Request text = Ask(), full = Ask();
  for (RequestDocument& document : text.documents) document.text = true;
  full.linker = link::Linker::kFull;
  const auto generator = MakeGenerator(store_.get(), Options());
  const std::vector<float> expected = LogitsOf(*Start(*generator, full));
  for (const char* linker : {"concat", "head-2", "blend-20", "prophet-20"}) {
    text.linker = *link::ParseLinker(linker);
    const auto conversation = Start(*generator, text);
    EXPECT_LE(LargestDifference(LogitsOf(*conversation), expected), tolerance()) << linker;
    const RequestStats& stats = conversation->stats();
    EXPECT_EQ(stats.documents_text, 4);
    EXPECT_EQ(stats.documents_encoded, 0);
    EXPECT_EQ(stats.recomputed_tokens, 265);
    EXPECT_EQ(stats.read_tokens + stats.stored_tokens, 0);
  }
  EXPECT_EQ(generator->stats().encoded, 0);
}

// As if its tokens were the prompt's own, whether or not the store has its encoding.
TEST_P(RequestDocumentTest, TextStandsAmongEncodings) {
  FillStore();
  const auto generator = MakeGenerator(store_.get(), Options());
  Request last = Ask({0, 2});
  last.documents[1].text = true;
  Request behind = Ask({0});
  behind.prompt.after = documents_[2].tokens;
  Append(prompt_.after, &behind.prompt.after);
  Request first = Ask({2, 0});
  first.documents[0].text = true;
  Request before = Ask({0});
  Append(documents_[2].tokens, &before.prompt.before);
  for (const auto& [text, prompt] : {std::pair(last, behind), std::pair(first, before)}) {
    const auto expected = Start(*generator, prompt), conversation = Start(*generator, text);
    EXPECT_LE(LargestDifference(LogitsOf(*conversation), LogitsOf(*expected)), tolerance());
    EXPECT_EQ(conversation->stats().read_tokens, 70);
    EXPECT_EQ(conversation->stats().recomputed_tokens, 130);
    EXPECT_EQ(conversation->stats().documents_text, 1);
    EXPECT_EQ(conversation->stats().prompt_tokens, expected->stats().prompt_tokens);
  }
  // With everything that is read chosen, nothing is read.
  Request full = Ask();
  full.linker = link::Linker::kFull;
  const std::vector<float> expected = Expected(full);
  for (const link::Linker::Choice choice : {link::Linker::kBlend, link::Linker::kProphet}) {
    Request all = Ask();
    all.linker = link::Linker(link::Linker::kConcat, 0, choice, 100);
    all.documents[1].text = all.documents[3].text = true;
    EXPECT_LE(LargestDifference(LogitsOf(*Start(*generator, all)), expected), tolerance());
  }
}

TEST_P(RequestDocumentTest, EncodingsAreFoundUnderTheirOwnSecretAlone) {
  const std::vector<float> expected = Expected(Ask());
  {
    const auto generator = MakeGenerator(store_.get(), Options());
    for (const std::string secret : {"", "alice", "bob"}) {
      const auto first = Start(*generator, Under(secret, Ask())), again = Start(*generator, Under(secret, Ask()));
      EXPECT_EQ(first->stats().documents_encoded, 4) << secret;
      EXPECT_EQ(first->stats().stored_tokens, 265);
      EXPECT_EQ(again->stats().documents_resident, 4);
      EXPECT_LE(LargestDifference(LogitsOf(*first), expected), tolerance());
    }
    ASSERT_TRUE(generator->DrainWriteBack(SteadyNow() + absl::Seconds(60)));
    EXPECT_EQ(generator->stats().write_back.written, 12) << generator->stats().write_back.last_error;
  }
  store_ = nullptr;  // a restart
  store_ = OpenStore(directory_.path() + "/store");
  const auto generator = MakeGenerator(store_.get(), Options());
  for (const std::string secret : {"bob", ""}) {
    const auto conversation = Start(*generator, Under(secret, Ask()));
    EXPECT_EQ(Loaded(conversation->stats()), 4) << secret;
    EXPECT_LE(LargestDifference(LogitsOf(*conversation), expected), tolerance());
  }
  EXPECT_EQ(Start(*generator, Under("carol", Ask()))->stats().documents_encoded, 4);
  // A request may have both.
  Request mixed = Ask();
  mixed.documents[1].secret = "alice";
  mixed.documents[2].secret = "dave";
  const auto conversation = Start(*generator, mixed);
  EXPECT_EQ(conversation->stats().documents_resident, 2);
  EXPECT_EQ(Loaded(conversation->stats()), 1);
  EXPECT_EQ(conversation->stats().documents_encoded, 1);
  EXPECT_EQ(generator->stats().pool.store_errors, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, RequestDocumentTest, ::testing::ValuesIn(GeneratorBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kvlink::infer
