// Counts multiply-adds and bytes by shape alone, so that a floor does not depend on our implementation.
#include "bench/model/pass_cost.h"

namespace kvlink::bench {
namespace {

double KvWeights(const model::ModelConfig& config) {
  return static_cast<double>(2 * config.hidden * config.kv_heads * config.head_dim);
}

double LayerWeights(const model::ModelConfig& config) {
  return KvWeights(config) + 2.0 * static_cast<double>(config.hidden * config.heads * config.head_dim) +
         3.0 * static_cast<double>(config.hidden * config.intermediate);
}

double HeadWeights(const model::ModelConfig& config) { return static_cast<double>(config.vocab * config.hidden); }

}  // namespace

double Weights(const model::ModelConfig& config) {
  return static_cast<double>(config.layers) * LayerWeights(config) + HeadWeights(config);
}

double KvBytes(const model::ModelConfig& config) {
  return 2.0 * static_cast<double>(2 * config.layers * config.kv_heads * config.head_dim);
}

double CausalPairs(int64_t rows) { return 0.5 * static_cast<double>(rows) * static_cast<double>(rows + 1); }

PassShape ConcatPass(int64_t fresh, int64_t cached) {
  const double behind = static_cast<double>(fresh - fresh / 2) * static_cast<double>(cached);
  return {fresh, CausalPairs(fresh) + behind, fresh + cached};
}

double PassOperations(const model::ModelConfig& config, const PassShape& pass) {
  const auto rows = static_cast<double>(pass.rows), layers = static_cast<double>(config.layers);
  const double of_pair = 4.0 * static_cast<double>(config.heads * config.head_dim);
  double operations =
      2 * rows * ((layers - 1) * LayerWeights(config) + KvWeights(config)) + (layers - 1) * of_pair * pass.pairs;
  if (pass.last_keys > 0) {
    operations += 2 * (LayerWeights(config) - KvWeights(config) + HeadWeights(config)) +
                  of_pair * static_cast<double>(pass.last_keys);
  }
  return operations;
}

}  // namespace kvlink::bench
