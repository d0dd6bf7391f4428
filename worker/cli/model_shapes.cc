#include "worker/cli/model_shapes.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/cli/args.h"

namespace kvlink::cli {
namespace {

// From the config.json of each model's published checkpoint.
const ModelShape kShapes[] = {
    // name, layers, hidden, intermediate, heads, kv_heads, head_dim, context
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 8192},      {"smollm2-360m", 32, 960, 2560, 15, 5, 64, 8192},
    {"smollm2-1.7b", 24, 2048, 8192, 32, 32, 64, 8192},   {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 131072},
    {"llama-3.2-3b", 28, 3072, 8192, 24, 8, 128, 131072}, {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 131072},
    {"llama-70b", 80, 8192, 28672, 64, 8, 128, 131072},   {"mistral-7b", 32, 4096, 14336, 32, 8, 128, 32768},
    {"qwen2.5-0.5b", 24, 896, 4864, 14, 2, 64, 32768},    {"qwen2.5-1.5b", 28, 1536, 8960, 12, 2, 128, 32768},
    {"qwen2.5-3b", 36, 2048, 11008, 16, 2, 128, 32768},   {"qwen2.5-7b", 28, 3584, 18944, 28, 4, 128, 32768},
    {"qwen2.5-14b", 48, 5120, 13824, 40, 8, 128, 32768},  {"qwen2.5-32b", 64, 5120, 27648, 40, 8, 128, 32768},
    {"qwen2.5-72b", 80, 8192, 29568, 64, 8, 128, 32768},  {"qwen3-0.6b", 28, 1024, 3072, 16, 8, 128, 40960},
    {"qwen3-1.7b", 28, 2048, 6144, 16, 8, 128, 40960},    {"qwen3-4b", 36, 2560, 9728, 32, 8, 128, 40960},
    {"qwen3-8b", 36, 4096, 12288, 32, 8, 128, 40960},     {"qwen3-14b", 40, 5120, 17408, 40, 8, 128, 40960},
    {"qwen3-32b", 64, 5120, 25600, 64, 8, 128, 40960},
};

}  // namespace

int64_t ModelShape::layer_parameters() const {
  const int64_t attention = hidden * head_dim * (heads + 2 * kv_heads) + heads * head_dim * hidden;
  return layers * (attention + 3 * hidden * intermediate);
}

ModelShape ShapeOf(absl::string_view name, const model::ModelConfig& config) {
  return {std::string(name), config.layers,   config.hidden,   config.intermediate,
          config.heads,      config.kv_heads, config.head_dim, config.context};
}

std::vector<std::string> BuiltInNames() {
  std::vector<std::string> names;
  for (const ModelShape& shape : kShapes) names.push_back(shape.name);
  return names;
}

absl::StatusOr<ModelShape> BuiltInShape(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  for (const ModelShape& shape : kShapes) {
    if (shape.name == lower) return shape;
  }
  const std::string nearest = Nearest(lower, BuiltInNames());
  return absl::NotFoundError(absl::StrCat(
      "'", name, "' is neither a model file or directory nor a built-in name; ",
      nearest.empty() ? "kvlink plan --list shows the built-in names" : absl::StrCat("did you mean ", nearest, "?")));
}

}  // namespace kvlink::cli
