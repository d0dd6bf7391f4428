// oneDNN primitives are created once per shape; row counts are rounded up to a few values to limit their number.
#include "kernels/cpu/linear/dnnl_matmul.h"

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"

#ifdef KVLINK_HAVE_DNNL
#include "dnnl.hpp"
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

namespace kvlink::kernels::cpu {
namespace {

constexpr std::array<int64_t, 14> kRowCounts = {16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048};

}  // namespace

int64_t DnnlMatmul::PaddedRows(int64_t rows) {
  const auto found = std::lower_bound(kRowCounts.begin(), kRowCounts.end(), rows);
  return found == kRowCounts.end() ? kRowCounts.back() : *found;
}

#ifndef KVLINK_HAVE_DNNL

absl::StatusOr<std::unique_ptr<DnnlMatmul>> DnnlMatmul::Make(int) {
  return absl::UnimplementedError("this build has no oneDNN");
}

#else
namespace {

constexpr size_t kMaxPrimitives = 256;  // a model has a handful of shapes, each at most kRowCounts.size()

// Sets the number of OpenMP threads, which oneDNN queries, during its lifetime.
class TeamSize {
 public:
#ifdef _OPENMP
  explicit TeamSize(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~TeamSize() { omp_set_num_threads(before_); }

 private:
  const int before_;
#else
  explicit TeamSize(int) {}
#endif
};

template <typename F>
absl::Status Catch(absl::string_view what, F&& f) {
  try {
    f();
    return absl::OkStatus();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("oneDNN: ", what, ": ", error.what()));
  }
}

struct DnnlWeights : DnnlMatmul::Weights {
  int64_t n = 0, k = 0;
  dnnl::memory memory;
  int64_t bytes() const override { return static_cast<int64_t>(memory.get_desc().get_size()); }
};

class DnnlMatmulImpl : public DnnlMatmul {
 public:
  explicit DnnlMatmulImpl(int threads) : threads_(threads), engine_(dnnl::engine::kind::cpu, 0) {}

  absl::StatusOr<std::unique_ptr<Weights>> Pack(const uint16_t* weight, int64_t n, int64_t k) override {
    auto packed = std::make_unique<DnnlWeights>();
    packed->n = n;
    packed->k = k;
    const absl::Status status = Catch("packing weights", [&] {
      const TeamSize team(threads_);
      const dnnl::memory::desc any({k, n}, dnnl::memory::data_type::bf16, dnnl::memory::format_tag::any);
      packed->memory = dnnl::memory(Describe(64, n, k, any).weights_desc(), engine_);
      const dnnl::memory::desc plain({k, n}, dnnl::memory::data_type::bf16, dnnl::memory::format_tag::ba);
      dnnl::memory source(plain, engine_, const_cast<uint16_t*>(weight));
      dnnl::stream stream(engine_);
      dnnl::reorder(source, packed->memory).execute(stream, source, packed->memory);
      stream.wait();
    });
    if (!status.ok()) return status;
    return packed;
  }

  absl::Status Run(const uint16_t* x, int64_t rows, const Weights& weights, float* out) override {
    const auto& packed = static_cast<const DnnlWeights&>(weights);
    return Catch("multiplying", [&] {
      const TeamSize team(threads_);
      const dnnl::matmul multiply = Primitive(rows, packed);
      dnnl::memory source({{rows, packed.k}, dnnl::memory::data_type::bf16, dnnl::memory::format_tag::ab}, engine_,
                          const_cast<uint16_t*>(x));
      dnnl::memory result({{rows, packed.n}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab}, engine_, out);
      dnnl::stream stream(engine_);
      multiply.execute(stream, {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, packed.memory}, {DNNL_ARG_DST, result}});
      stream.wait();
    });
  }

 private:
  dnnl::matmul::primitive_desc Describe(int64_t rows, int64_t n, int64_t k, const dnnl::memory::desc& weights) const {
    const dnnl::memory::desc x({rows, k}, dnnl::memory::data_type::bf16, dnnl::memory::format_tag::ab);
    const dnnl::memory::desc out({rows, n}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
    return dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, weights, out), engine_);
  }

  dnnl::matmul Primitive(int64_t rows, const DnnlWeights& weights) {
    const std::tuple<int64_t, int64_t, int64_t> key(rows, weights.n, weights.k);
    MutexLock lock(&mutex_);
    const auto found = primitives_.find(key);
    if (found != primitives_.end()) return found->second;
    if (primitives_.size() >= kMaxPrimitives) primitives_.clear();
    return primitives_.emplace(key, dnnl::matmul(Describe(rows, weights.n, weights.k, weights.memory.get_desc())))
        .first->second;
  }

  const int threads_;
  const dnnl::engine engine_;
  Mutex mutex_;
  std::map<std::tuple<int64_t, int64_t, int64_t>, dnnl::matmul> primitives_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<DnnlMatmul>> DnnlMatmul::Make(int threads) {
  std::unique_ptr<DnnlMatmul> made;
  absl::Status status = Catch("starting", [&] { made = std::make_unique<DnnlMatmulImpl>(threads); });
  if (!status.ok()) return status;
  const uint16_t zero[64] = {};
  if (!made->Pack(zero, 8, 8).ok()) return absl::UnimplementedError("oneDNN does not multiply bf16 on this CPU");
  return made;
}

#endif

}  // namespace kvlink::kernels::cpu
