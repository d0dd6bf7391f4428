// Shapes of well-known models, for planning without the model files.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_CLI_MODEL_SHAPES_H_
#define KVLINK_WORKER_CLI_MODEL_SHAPES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/files/config.h"

namespace kvlink::cli {

struct ModelShape {
  std::string name;
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t context = 0;

  // Weights in the layers that each token is multiplied with: the cost of prefill, without embeddings and head.
  int64_t layer_parameters() const;
};

ModelShape ShapeOf(absl::string_view name, const model::ModelConfig& config);
// Looks up a built-in name, ignoring case. NOT_FOUND suggests the nearest name.
absl::StatusOr<ModelShape> BuiltInShape(absl::string_view name);
std::vector<std::string> BuiltInNames();

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_MODEL_SHAPES_H_
