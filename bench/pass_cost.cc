#include "bench/pass_cost.h"

namespace kvlink::bench {
namespace {

double QkvWeights(const model::ModelConfig& config) {
  return static_cast<double>(config.hidden * (config.heads + 2 * config.kv_heads) * config.head_dim);
}

}  // namespace

double LayerWeights(const model::ModelConfig& config) {
  return QkvWeights(config) + static_cast<double>(config.heads * config.head_dim * config.hidden) +
         3.0 * static_cast<double>(config.hidden * config.intermediate);
}

double HeadWeights(const model::ModelConfig& config) { return static_cast<double>(config.vocab * config.hidden); }

double Weights(const model::ModelConfig& config) {
  return static_cast<double>(config.layers) * LayerWeights(config) + HeadWeights(config);
}

double KvBytes(const model::ModelConfig& config, double number_bytes) {
  return number_bytes * static_cast<double>(2 * config.layers * config.kv_heads * config.head_dim);
}

double AttentionOperations(const model::ModelConfig& config, double fresh, double cached) {
  return 4.0 * static_cast<double>(config.heads * config.head_dim) * (fresh * cached + 0.5 * fresh * fresh);
}

double PassOperations(const model::ModelConfig& config, int64_t fresh, int64_t cached) {
  const auto rows = static_cast<double>(fresh), layers = static_cast<double>(config.layers);
  return 2 * layers * LayerWeights(config) * rows + 2 * HeadWeights(config) +
         layers * AttentionOperations(config, rows, static_cast<double>(cached));
}

double EncodeOperations(const model::ModelConfig& config, int64_t documents, int64_t tokens) {
  const auto rows = static_cast<double>(tokens), layers = static_cast<double>(config.layers);
  const double one = 2 * rows * ((layers - 1) * LayerWeights(config) + QkvWeights(config)) +
                     (layers - 1) * AttentionOperations(config, rows, 0);
  return static_cast<double>(documents) * one;
}

}  // namespace kvlink::bench
