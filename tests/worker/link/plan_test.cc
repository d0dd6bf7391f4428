#include "worker/link/plan.h"

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvlink::link {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The first stage.
absl::StatusOr<LinkPlan> MakePlan(const PlanInput& input) {
  absl::StatusOr<Stages> stages = Stages::Create(input);
  if (!stages.ok()) return stages.status();
  return stages->Next({});
}

class PlanTest : public testing::Test {
 protected:
  PlanTest() {
    profile_ = *LoadLinkProfile("untuned");
    input_.profile = &profile_;
    input_.vocab = 1000;
    input_.context = 100;
    input_.prompt = {{1, 2}, {3, 4, 5}};
    documents_ = {{10, 11, 12}, {20}, {30, 31}};
    for (const auto& document : documents_) input_.documents.push_back(document);
  }
  void TrainedLinks(int64_t n, int64_t slots) {
    profile_.trained = true;
    profile_.links_per_document = n;
    profile_.slots = slots;
  }
  LinkProfile profile_;
  std::vector<std::vector<int32_t>> documents_;
  PlanInput input_;
};

TEST_F(PlanTest, ConcatPlacesDocumentsOneAfterAnother) {
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->length, 11);
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 8, 9, 10));
  ASSERT_EQ(plan->documents.size(), 3);
  EXPECT_EQ(plan->documents[0].offset, 2);
  EXPECT_EQ(plan->documents[1].offset, 5);
  EXPECT_EQ(plan->documents[2].offset, 6);
  EXPECT_EQ(plan->documents[2].document, 2);
}

TEST_F(PlanTest, LinksStandBehindEachDocumentByItsSlot) {
  TrainedLinks(2, 3);
  profile_.first_link_id = 500;
  profile_.mem_start = 900;
  profile_.mem_end = 901;
  input_.linker = Linker::kLinks;
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 900, 500, 501, 502, 503, 504, 505, 901, 3, 4, 5));
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 2, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18));
  EXPECT_EQ(plan->documents[1].offset, 8);
  EXPECT_EQ(plan->length, 19);
}

TEST_F(PlanTest, LinkEmbeddingsAreRowsBehindTheVocabulary) {
  TrainedLinks(1, 40);
  profile_.link_embeddings_file = "links.safetensors";
  input_.linker = Linker::kLinks;
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 1000, 1001, 1002, 3, 4, 5));
}

TEST_F(PlanTest, FullIsAnOrdinaryPrefill) {
  profile_.mem_start = 900;
  input_.linker = Linker::kFull;
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->documents, IsEmpty());
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 20, 30, 31, 3, 4, 5));
  std::vector<int64_t> positions(11);
  std::iota(positions.begin(), positions.end(), 0);
  EXPECT_EQ(plan->fresh_positions, positions);
}

TEST_F(PlanTest, HeadsOfLaterDocumentsAreComputedAgain) {
  input_.linker = *ParseLinker("head-1");
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->length, 11);
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 20, 30, 3, 4, 5));
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 5, 6, 8, 9, 10));
  // The second document is all head, so nothing of it is read.
  ASSERT_EQ(plan->documents.size(), 2);
  EXPECT_EQ(plan->documents[0].offset, 2);
  EXPECT_THAT(plan->documents[0].hidden, IsEmpty());
  EXPECT_EQ(plan->documents[1].document, 2);
  EXPECT_EQ(plan->documents[1].offset, 6);
  EXPECT_THAT(plan->documents[1].hidden, ElementsAre(1));
}

TEST_F(PlanTest, AHeadMayBeLongerThanAWordOfBits) {
  std::vector<int32_t> tokens(130);
  std::iota(tokens.begin(), tokens.end(), 100);
  input_.documents = {tokens, tokens};
  input_.context = 1000;
  input_.linker = Linker(Linker::kConcat, 66);
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->documents[1].hidden, ElementsAre(~uint64_t{0}, 3, 0));
  EXPECT_EQ(plan->length, 265);
}

TEST_F(PlanTest, AHeadGoesWithLinksAndNotWithFull) {
  TrainedLinks(1, 3);
  profile_.first_link_id = 500;
  input_.linker = *ParseLinker("links+head-1");
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 500, 20, 501, 30, 502, 3, 4, 5));
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 5, 6, 7, 8, 10, 11, 12, 13));
  EXPECT_THAT(plan->recomputed, ElementsAre(3, 5));
  input_.linker = Linker(Linker::kFull, 1);
  EXPECT_EQ(MakePlan(input_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PlanTest, APacketHasItsWrapperAroundEachDocument) {
  profile_.wrapper = {"", 2, 1};
  input_.linker = *ParseLinker("packet");
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->packet);
  EXPECT_EQ(plan->length, 20);
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 17, 18, 19));
  ASSERT_EQ(plan->documents.size(), 3);
  EXPECT_EQ(plan->documents[0].offset, 2);
  EXPECT_EQ(plan->documents[1].offset, 8);
  EXPECT_EQ(plan->documents[2].offset, 12);
  // The other linkers read documents as they are.
  input_.linker = Linker::kConcat;
  EXPECT_EQ(MakePlan(input_)->length, 11);
  EXPECT_FALSE(MakePlan(input_)->packet);
}

TEST_F(PlanTest, TokensOfAWrapperAreNeverComputedAgain) {
  profile_.wrapper = {"", 2, 1};
  input_.linker = *ParseLinker("packet+head-1");
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 20, 30, 3, 4, 5));
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 10, 14, 17, 18, 19));
  // The second document's only token is fresh, but its wrapper is read.
  ASSERT_EQ(plan->documents.size(), 3);
  EXPECT_THAT(plan->documents[0].hidden, IsEmpty());
  EXPECT_THAT(plan->documents[1].hidden, ElementsAre(4));
  EXPECT_THAT(plan->documents[2].hidden, ElementsAre(4));

  input_.linker = *ParseLinker("packet+prophet-17");  // 2 of 6 tokens
  auto stages = Stages::Create(input_);
  ASSERT_TRUE(stages.ok()) << stages.status();
  EXPECT_TRUE(stages->Next({}).packet);
  const LinkPlan answer = stages->Next({{9, 9, 1, 2, 3, 9}, {9, 9, 5, 9}, {9, 9, 0, 0, 9}});
  EXPECT_THAT(answer.documents[0].hidden, ElementsAre(16));
  EXPECT_THAT(answer.documents[1].hidden, ElementsAre(4));
  EXPECT_THAT(answer.documents[2].hidden, IsEmpty());
  EXPECT_THAT(answer.fresh_tokens, ElementsAre(1, 2, 12, 20, 3, 4, 5));
}

TEST_F(PlanTest, APacketNeedsAProfileWithAWrapper) {
  input_.linker = *ParseLinker("packet");
  const auto refused = MakePlan(input_);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.status().message(), HasSubstr("'untuned' has no wrapper"));
}

TEST_F(PlanTest, NoDocumentsIsAPlainChat) {
  profile_.mem_start = 900;
  input_.documents.clear();
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 3, 4, 5));
}

TEST_F(PlanTest, UntrainedLinksAreRefused) {
  input_.linker = Linker::kLinks;
  EXPECT_EQ(MakePlan(input_).status().code(), absl::StatusCode::kFailedPrecondition);
  TrainedLinks(5, 8);
  profile_.trained = false;
  const auto refused = MakePlan(input_);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.status().message(), HasSubstr("never trained"));
  input_.allow_untrained_links = true;
  EXPECT_TRUE(MakePlan(input_).ok());
}

TEST_F(PlanTest, MoreDocumentsThanSlotsAreRefused) {
  TrainedLinks(1, 2);
  input_.linker = Linker::kLinks;
  const auto plan = MakePlan(input_);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(plan.status().message(), HasSubstr("3 documents"));
  EXPECT_THAT(plan.status().message(), HasSubstr("2 slots"));
}

TEST_F(PlanTest, SaysHowManyTokensTooMany) {
  input_.context = 12;
  EXPECT_TRUE(MakePlan(input_).ok());
  input_.answer_tokens = 4;
  for (Linker linker : {Linker::kConcat, Linker::kFull}) {
    input_.linker = linker;
    const auto plan = MakePlan(input_);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(plan.status().message(),
                HasSubstr("3 tokens too many (6 of documents, 5 around them, 4 for the answer"));
  }
}

TEST_F(PlanTest, EmptyDocumentsAndPromptsAreRefused) {
  input_.documents[1] = {};
  EXPECT_THAT(MakePlan(input_).status().message(), HasSubstr("document 2 of 3 is empty"));
  input_.documents.pop_back();
  input_.prompt.after.clear();
  EXPECT_EQ(MakePlan(input_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PlanTest, BlendComparesEveryTokenAndThenComputesTheMostDeviating) {
  input_.linker = *ParseLinker("blend-30");
  auto stages = Stages::Create(input_);
  ASSERT_TRUE(stages.ok()) << stages.status();
  const LinkPlan first = stages->Next({});
  EXPECT_EQ(first.observe, Observe::kDeviation);
  EXPECT_EQ(first.layers, 2);
  EXPECT_EQ(first.kept, 0);
  EXPECT_EQ(first.length, 8);
  EXPECT_THAT(first.fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 20, 30, 31));
  EXPECT_THAT(first.fresh_positions, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(first.recomputed, ElementsAre(2, 3, 4, 5, 6, 7));
  ASSERT_EQ(first.documents.size(), 3);
  EXPECT_THAT(first.documents[0].hidden, ElementsAre(7));
  EXPECT_THAT(first.documents[1].hidden, ElementsAre(1));
  EXPECT_EQ(first.documents[2].offset, 6);
  // 30% of six tokens, rounded up.
  const LinkPlan last = stages->Next({{0.1f, 0.5f, 0.2f}, {0}, {0.4f, 0.3f}});
  EXPECT_EQ(last.observe, Observe::kNothing);
  EXPECT_EQ(last.layers, 0);
  EXPECT_EQ(last.kept, 0);
  EXPECT_EQ(last.length, 11);
  EXPECT_THAT(last.fresh_tokens, ElementsAre(1, 2, 11, 30, 3, 4, 5));
  EXPECT_THAT(last.fresh_positions, ElementsAre(0, 1, 3, 6, 8, 9, 10));
  EXPECT_THAT(last.recomputed, ElementsAre(2, 3));
  EXPECT_THAT(last.documents[0].hidden, ElementsAre(2));
  EXPECT_THAT(last.documents[1].hidden, IsEmpty());
  EXPECT_THAT(last.documents[2].hidden, ElementsAre(1));
}

TEST_F(PlanTest, ProphetAsksFirstAndKeepsWhatComesBeforeTheChosenTokens) {
  TrainedLinks(1, 3);
  profile_.first_link_id = 500;
  profile_.mem_start = 900;
  profile_.mem_end = 901;
  input_.linker = *ParseLinker("links+head-1+prophet-20");
  auto stages = Stages::Create(input_);
  ASSERT_TRUE(stages.ok()) << stages.status();
  const LinkPlan first = stages->Next({});
  EXPECT_EQ(first.observe, Observe::kKeyMass);
  EXPECT_EQ(first.layers, 0);
  EXPECT_THAT(first.fresh_tokens, ElementsAre(1, 2, 900, 500, 20, 501, 30, 502, 901, 3, 4, 5));
  EXPECT_EQ(first.question, 9);
  // A head is computed anyway, and takes nobody's place.
  const LinkPlan last = stages->Next({{0.1f, 0.2f, 0.3f}, {9}, {9, 0.4f}});
  EXPECT_EQ(last.observe, Observe::kNothing);
  EXPECT_THAT(last.fresh_tokens, ElementsAre(1, 2, 900, 12, 500, 20, 501, 30, 31, 502, 901, 3, 4, 5));
  EXPECT_EQ(last.kept, 3);
  ASSERT_EQ(last.documents.size(), 1);
  EXPECT_THAT(last.documents[0].hidden, ElementsAre(4));
}

TEST_F(PlanTest, NothingChosenComputesTheQuestionAgain) {
  input_.linker = Linker(Linker::kConcat, 0, Linker::kProphet, 0);
  auto stages = Stages::Create(input_);
  ASSERT_TRUE(stages.ok()) << stages.status();
  stages->Next({});
  const LinkPlan last = stages->Next({{1, 1, 1}, {1}, {1, 1}});
  EXPECT_THAT(last.fresh_tokens, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(last.kept, 2);
  for (const PlacedDocument& placed : last.documents) EXPECT_THAT(placed.hidden, IsEmpty());
}

TEST_F(PlanTest, EverythingChosenReadsNothing) {
  for (const Linker::Choice choice : {Linker::kBlend, Linker::kProphet}) {
    input_.linker = Linker(Linker::kConcat, 0, choice, 100);
    auto stages = Stages::Create(input_);
    ASSERT_TRUE(stages.ok()) << stages.status();
    stages->Next({});
    const LinkPlan last = stages->Next({{0, 0, 0}, {0}, {0, 0}});
    EXPECT_THAT(last.documents, IsEmpty());
    EXPECT_THAT(last.fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 20, 30, 31, 3, 4, 5));
  }
}

TEST_F(PlanTest, EqualTokensAreChosenInOrderAndWhatIsNoNumberFirst) {
  input_.linker = *ParseLinker("prophet-50");
  auto stages = Stages::Create(input_);
  ASSERT_TRUE(stages.ok()) << stages.status();
  stages->Next({});
  const LinkPlan last = stages->Next({{1, 1, 1}, {std::nanf("")}, {1, 1}});
  EXPECT_THAT(last.fresh_tokens, ElementsAre(1, 2, 10, 11, 20, 3, 4, 5));
}

TEST_F(PlanTest, TextIsComputedWhereItStands) {
  input_.text = {false, true, false};
  auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->length, 11);
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 20, 3, 4, 5));
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 5, 8, 9, 10));
  EXPECT_THAT(plan->recomputed, ElementsAre(2));
  ASSERT_EQ(plan->documents.size(), 2);
  EXPECT_EQ(plan->documents[0].offset, 2);
  EXPECT_EQ(plan->documents[1].offset, 6);
  EXPECT_EQ(plan->documents[1].document, 2);
  // No wrapper stands around it.
  profile_.wrapper = {"", 2, 1};
  input_.linker = *ParseLinker("packet");
  plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->length, 17);
  EXPECT_THAT(plan->fresh_positions, ElementsAre(0, 1, 8, 14, 15, 16));
  ASSERT_EQ(plan->documents.size(), 2);
  EXPECT_EQ(plan->documents[1].offset, 9);
  // A first document is not spared.
  input_.text = {true, false, false};
  input_.linker = *ParseLinker("head-1");
  plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 20, 30, 3, 4, 5));
  ASSERT_EQ(plan->documents.size(), 1);
  EXPECT_THAT(plan->documents[0].hidden, ElementsAre(1));
  input_.text = {true, true, true};
  plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->documents, IsEmpty());
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 20, 30, 31, 3, 4, 5));
}

TEST_F(PlanTest, OnlyTokensThatAreReadAreChosen) {
  input_.text = {false, false, true};
  input_.linker = *ParseLinker("blend-30");
  auto stages = Stages::Create(input_);
  ASSERT_TRUE(stages.ok()) << stages.status();
  const LinkPlan first = stages->Next({});
  EXPECT_EQ(first.observe, Observe::kDeviation);
  EXPECT_EQ(first.length, 6);
  EXPECT_THAT(first.fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 20));
  EXPECT_EQ(first.documents.size(), 2);
  const LinkPlan last = stages->Next({{0.1f, 0.5f, 0.2f}, {0}, {9, 9}});  // 2 of 4 tokens
  EXPECT_THAT(last.fresh_tokens, ElementsAre(1, 2, 11, 12, 30, 31, 3, 4, 5));
  EXPECT_EQ(last.documents.size(), 2);

  input_.text = {true, false, false};
  input_.linker = *ParseLinker("prophet-50");
  stages = Stages::Create(input_);
  ASSERT_TRUE(stages.ok()) << stages.status();
  EXPECT_THAT(stages->Next({}).fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 3, 4, 5));
  const LinkPlan answer = stages->Next({{9, 9, 9}, {1}, {2, 3}});  // 2 of 3 tokens
  EXPECT_THAT(answer.fresh_tokens, ElementsAre(1, 2, 10, 11, 12, 30, 31, 3, 4, 5));
  EXPECT_EQ(answer.kept, 5);
  EXPECT_GE(stages->max_fresh_tokens(), 10);

  input_.text = {true, true, true};
  for (const char* linker : {"blend-30", "prophet-50"}) {
    input_.linker = *ParseLinker(linker);
    const auto plan = MakePlan(input_);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->observe, Observe::kNothing);
    EXPECT_EQ(plan->length, 11);
  }
}

TEST_F(PlanTest, WithoutDocumentsThereIsNothingToChoose) {
  input_.documents.clear();
  input_.linker = *ParseLinker("blend-15");
  const auto plan = MakePlan(input_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->observe, Observe::kNothing);
  EXPECT_THAT(plan->fresh_tokens, ElementsAre(1, 2, 3, 4, 5));
}

TEST_F(PlanTest, LinkersWhosePartsContradictEachOtherAreRefused) {
  for (const Linker& linker :
       {Linker(Linker::kFull, 0, Linker::kBlend, 10), Linker(Linker::kConcat, 0, Linker::kNone, 10),
        Linker(Linker::kConcat, 0, Linker::kProphet, 101), Linker(Linker::kConcat, -1)}) {
    input_.linker = linker;
    EXPECT_EQ(MakePlan(input_).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(LinkerNames, APacketGoesWithAllButConcatAndFull) {
  for (const char* name :
       {"packet", "packet+links", "packet+head-8", "packet+links+head-8+prophet-5", "packet+blend-15"}) {
    const auto linker = ParseLinker(name);
    ASSERT_TRUE(linker.ok()) << linker.status();
    EXPECT_TRUE(linker->packet);
    EXPECT_EQ(LinkerName(*linker), name);
  }
  EXPECT_EQ(LinkerName(*ParseLinker("prophet-5+links+packet")), "packet+links+prophet-5");
  for (const char* name : {"packet+concat", "full+packet", "packet+packet", "packets"}) {
    EXPECT_EQ(ParseLinker(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(LinkerNames, RoundTrip) {
  for (const char* name : {"concat", "links", "full", "head-8", "links+head-1048576", "blend-15", "prophet-100",
                           "links+prophet-5", "head-8+blend-1", "links+head-8+prophet-5"}) {
    const auto linker = ParseLinker(name);
    ASSERT_TRUE(linker.ok()) << linker.status();
    EXPECT_EQ(LinkerName(*linker), name);
  }
  EXPECT_EQ(*ParseLinker("head-8+links"), Linker(Linker::kLinks, 8));
  EXPECT_EQ(*ParseLinker("concat+head-8"), Linker(Linker::kConcat, 8));
  EXPECT_EQ(*ParseLinker("prophet-5+head-8"), Linker(Linker::kConcat, 8, Linker::kProphet, 5));
  EXPECT_THAT(ParseLinker("magic").status().message(), HasSubstr("linker 'magic': 'magic' is unknown; use concat"));
  for (const char* name : {"",
                           "+",
                           "head",
                           "head-",
                           "head-0",
                           "head--1",
                           "head-1048577",
                           "head-8+head-9",
                           "full+head-8",
                           "concat+links",
                           "links+",
                           "links +head-8",
                           "blend",
                           "blend-",
                           "blend-0",
                           "prophet-101",
                           "prophet-5%",
                           "blend-15+prophet-5",
                           "blend-15+blend-15",
                           "full+prophet-5"}) {
    EXPECT_EQ(ParseLinker(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

}  // namespace
}  // namespace kvlink::link
