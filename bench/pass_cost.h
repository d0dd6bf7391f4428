// What a forward pass costs any implementation: the numerators of the floors. Pure functions.
#ifndef KVLINK_BENCH_PASS_COST_H_
#define KVLINK_BENCH_PASS_COST_H_

#include <cstdint>

#include "worker/model/config.h"

namespace kvlink::bench {

// Numbers in the matrices that every row of a pass is multiplied by: those of one layer, and of the output.
double LayerWeights(const model::ModelConfig& config);
double HeadWeights(const model::ModelConfig& config);
// Of all layers and the output matrix.
double Weights(const model::ModelConfig& config);
// Bytes of keys and values of one token in all layers, `number_bytes` for each number.
double KvBytes(const model::ModelConfig& config, double number_bytes);
// Floating-point operations of attention in one layer: `fresh` rows that see `cached` tokens and, causally, each other.
double AttentionOperations(const model::ModelConfig& config, double fresh, double cached);
// Of a whole pass that ends in the logits of one row.
double PassOperations(const model::ModelConfig& config, int64_t fresh, int64_t cached);
// Of encoding `documents` of `tokens` tokens each: nothing follows the keys and values of the last layer.
double EncodeOperations(const model::ModelConfig& config, int64_t documents, int64_t tokens);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_PASS_COST_H_
