#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/ref/ref.h"
#include "worker/model/model.h"

namespace kvlink::model {
namespace {

using ::testing::ElementsAre;

ModelConfig Config() {
  ModelConfig config;
  config.layers = 3;
  config.kv_heads = 2;
  config.head_dim = 8;
  return config;
}

std::vector<int64_t> Positions(int64_t begin, int64_t count) {
  std::vector<int64_t> positions(count);
  std::iota(positions.begin(), positions.end(), begin);
  return positions;
}

class KvPagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    backend_ = kernels::MakeRefBackend();
    pages_ = *KvPages::Create(backend_.get(), Config(), kernels::Dtype::kBf16, 4);
  }
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<KvPages> pages_;
};

TEST_F(KvPagesTest, GeometryIsThatOfASlabBlock) {
  EXPECT_EQ(KvPages::PageBytes(Config(), kernels::Dtype::kBf16), 3 * 2 * 128 * 8 * 2);
  EXPECT_EQ(pages_->head_stride(), 128 * 8 * 2);
  EXPECT_EQ(pages_->block_stride(), 2 * 128 * 8 * 2);
  EXPECT_EQ(pages_->layer(2).data, pages_->layer_data()[2]);
  EXPECT_THAT(pages_->layer(0).sizes, ElementsAre(4, 2, 128, 8));
  EXPECT_FALSE(KvPages::Create(backend_.get(), Config(), kernels::Dtype::kI32, 4).ok());
  EXPECT_FALSE(KvPages::Create(backend_.get(), Config(), kernels::Dtype::kF32, 0).ok());
}

TEST_F(KvPagesTest, TakesAllOrNothing) {
  const auto taken = pages_->Take(3);
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(pages_->Take(2).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pages_->free_pages(), 1);
  pages_->Give(*taken);
  EXPECT_EQ(pages_->free_pages(), 4);
}

TEST_F(KvPagesTest, SequenceGrowsShrinksAndGivesBack) {
  {
    KvSequence sequence(pages_.get());
    const auto slots = sequence.Append(Positions(10, 65));
    ASSERT_TRUE(slots.ok()) << slots.status();
    EXPECT_EQ(pages_->free_pages(), 2);
    EXPECT_EQ((*slots)[0], sequence.block_table()[0] * 64);
    EXPECT_EQ((*slots)[64], sequence.block_table()[1] * 64);
    EXPECT_EQ(sequence.segment().tokens, 65);
    EXPECT_TRUE(sequence.segment().padded_blocks);
    EXPECT_EQ(sequence.segment().positions[64], 74);
    EXPECT_EQ(sequence.Append({74}).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(sequence.Append({-1}).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(sequence.Append({80, 80}).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(sequence.Append(Positions(100, 500)).status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(sequence.tokens(), 65);
    EXPECT_EQ(pages_->free_pages(), 2);
    sequence.Truncate(64);
    EXPECT_EQ(pages_->free_pages(), 3);
    EXPECT_TRUE(sequence.Append({74}).ok());
    EXPECT_EQ(sequence.tokens(), 65);
    sequence.Truncate(0);
    EXPECT_EQ(pages_->free_pages(), 4);
    EXPECT_TRUE(sequence.Append({0}).ok());
  }
  EXPECT_EQ(pages_->free_pages(), 4);
}

}  // namespace
}  // namespace kvlink::model
