// Shared by benches over a whole model: the model, its tokenizer, text, and a separate store.
// Not thread-safe.
#ifndef KVLINK_BENCH_MODEL_BENCH_MODEL_H_
#define KVLINK_BENCH_MODEL_BENCH_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/bench_common.h"
#include "kernels/kernels.h"
#include "proto/digest.h"
#include "store/store.h"
#include "worker/files/weights.h"
#include "worker/link/profile.h"
#include "worker/model/model.h"
#include "worker/text/tokenizer.h"

namespace kvlink::bench {

// In order of lifetime.
struct BenchModel {
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Weights> weights;
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::unique_ptr<model::Model> model;
  Fingerprint fingerprint;
  link::LinkProfile untuned;
  int threads = 0;
};
// The flags that OpenBenchModel reads.
inline constexpr FlagHelp kModelFlag = {
    "model", "PATH", "The model; else KVLINK_MODEL, else models/SmolLM2-135M-Instruct.Q4_1.gguf here or above."};
inline constexpr FlagHelp kThreadsFlag = {"threads", "N", "Threads; 0, the default: every core this process may use."};
inline constexpr FlagHelp kComputeFlag = {"compute", "auto|f32|bf16", "What to multiply in (default auto)."};
absl::StatusOr<BenchModel> OpenBenchModel(const Flags& flags);

struct BenchDocument {
  std::string id;
  std::vector<int32_t> tokens;
};
struct BenchQuestion {
  std::string text;
  std::vector<std::string> documents;
};
// The demo's documents and questions, from deploy/demo here or in a parent directory. NOT_FOUND if there are none.
absl::StatusOr<std::vector<BenchDocument>> DemoDocuments(const BenchModel& model);
absl::StatusOr<std::vector<BenchQuestion>> DemoQuestions();
// `count` different documents of exactly `tokens` tokens each, cut from the demo's text (from pseudo-random tokens if
// there is none).
std::vector<std::vector<int32_t>> DocumentsOf(const BenchModel& model, int64_t count, int64_t tokens);

// A store in its own directory, removed with the object.
class BenchStore {
 public:
  // In `parent`, or in the directory for temporary files if empty.
  static absl::StatusOr<std::unique_ptr<BenchStore>> Create(const std::string& parent, int64_t dram_bytes);
  ~BenchStore();
  store::Store* get() { return store_.get(); }

 private:
  std::string directory_;
  std::unique_ptr<store::Store> store_;
};

// Mean divergence and agreement of distributions with a reference.
struct Agreement {
  int64_t positions = 0;
  double divergence = 0;  // sum, nats
  int64_t top1 = 0;
  double mean_divergence() const { return positions == 0 ? 0 : divergence / static_cast<double>(positions); }
  double top1_percent() const {
    return positions == 0 ? 0 : 100.0 * static_cast<double>(top1) / static_cast<double>(positions);
  }
  // Logits [n, vocab] of both.
  void Add(absl::Span<const float> reference, absl::Span<const float> other, int64_t vocab);
};

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_MODEL_BENCH_MODEL_H_
