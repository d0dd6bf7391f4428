#include "worker/cli/model_shapes.h"

#include <gtest/gtest.h>

#include "base/slab.h"

namespace kvlink::cli {
namespace {

// Parameters of the layers, from the published totals less embeddings (and less the head where it is not tied).
TEST(ModelShapes, WeighWhatIsPublished) {
  const struct {
    const char* name;
    double billions;
    double kib_per_token;  // raw-bf16
  } cases[] = {
      {"smollm2-135m", 0.1062, 22.5}, {"llama-3.2-1b", 0.973, 32},  {"llama-3.1-8b", 6.979, 128},
      {"llama-70b", 68.45, 320},      {"qwen2.5-0.5b", 0.3578, 12}, {"qwen2.5-7b", 6.525, 56},
      {"qwen3-8b", 6.946, 144},       {"mistral-7b", 6.979, 128},   {"SmolLM2-1.7B", 1.61, 192},
  };
  for (const auto& expected : cases) {
    const auto shape = BuiltInShape(expected.name);
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_NEAR(static_cast<double>(shape->layer_parameters()) / 1e9, expected.billions, expected.billions * 0.01)
        << expected.name;
    const SlabShape slab{Codec::kRawBf16, shape->kv_heads, shape->head_dim, 512};
    EXPECT_EQ(static_cast<double>(slab.used_bytes() * shape->layers) / 512 / 1024, expected.kib_per_token)
        << expected.name;
  }
}

TEST(ModelShapes, UnknownNamesGetTheNearest) {
  const auto shape = BuiltInShape("llama-3.1-9b");
  EXPECT_EQ(shape.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(shape.status().message().find("llama-3.1-8b"), absl::string_view::npos);
}

}  // namespace
}  // namespace kvlink::cli
