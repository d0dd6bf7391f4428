// The cost of a forward pass for any implementation: the numerators of the floors. Pure functions.
#ifndef KVLINK_BENCH_MODEL_PASS_COST_H_
#define KVLINK_BENCH_MODEL_PASS_COST_H_

#include <cstdint>

#include "worker/files/config.h"

namespace kvlink::bench {

// Numbers in the matrices of all layers and of the output.
double Weights(const model::ModelConfig& config);
// Bytes of keys and values of one token in all layers, in bf16.
double KvBytes(const model::ModelConfig& config);

struct PassShape {
  int64_t rows = 0;
  double pairs = 0;  // of a row and a key it sees
  // Keys seen by the row whose logits are requested; 0: no logits, the pass encodes.
  int64_t last_keys = 0;
};
// Pairs among `rows` rows that see each other causally, and themselves.
double CausalPairs(int64_t rows);
// `concat`: half of the `fresh` rows come before the documents' tokens and half after.
PassShape ConcatPass(int64_t fresh, int64_t cached);
// Floating-point operations. For most rows, the last layer computes only keys and values.
double PassOperations(const model::ModelConfig& config, const PassShape& pass);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_MODEL_PASS_COST_H_
