// cuBLASLt behind the interface that tests emulate. The algorithm for each shape is selected once and kept.
#include "kernels/cuda/matmul.h"

#include <cublasLt.h>

#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status.h"

namespace kvlink::kernels::cuda {
namespace {

// NVIDIA's recommendation for Hopper; on older devices fewer algorithms need a workspace.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
// Prefills have many row counts: the cache is cleared instead of growing without bound.
constexpr size_t kMaxAlgorithms = 4096;

absl::Status Check(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string text = absl::StrCat("cuBLASLt: ", what, ": ", cublasLtGetStatusString(status));
  return status == CUBLAS_STATUS_ALLOC_FAILED ? absl::ResourceExhaustedError(text) : absl::InternalError(text);
}

// Descriptors are small host objects; each is destroyed with its holder.
template <typename T, cublasStatus_t (*kDestroy)(T)>
class Holder {
 public:
  Holder() = default;
  ~Holder() {
    if (value_ != nullptr) kDestroy(value_);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  T* out() { return &value_; }
  T get() const { return value_; }

 private:
  T value_ = nullptr;
};
using Operation = Holder<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Holder<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Holder<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// cuBLASLt's matrices are column-major: our rows are its columns, and out^T = weight x^T.
struct Problem {
  Operation operation;
  Layout weight, x, out;

  absl::Status Describe(const MatmulArgs& args) {
    KVLINK_RETURN_IF_ERROR(
        Check(cublasLtMatmulDescCreate(operation.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation"));
    const cublasOperation_t transpose = CUBLAS_OP_T;
    KVLINK_RETURN_IF_ERROR(Set(CUBLASLT_MATMUL_DESC_TRANSA, transpose));
    if (args.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const cudaDataType_t type = CUDA_R_32F;
      KVLINK_RETURN_IF_ERROR(Set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue));
      KVLINK_RETURN_IF_ERROR(Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type));
      KVLINK_RETURN_IF_ERROR(Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias));
    }
    const auto create = [](Layout& layout, cudaDataType_t type, int64_t rows, int64_t columns, int64_t stride) {
      return Check(cublasLtMatrixLayoutCreate(layout.out(), type, static_cast<uint64_t>(rows),
                                              static_cast<uint64_t>(columns), stride),
                   "layout");
    };
    KVLINK_RETURN_IF_ERROR(create(weight, CUDA_R_16BF, args.k, args.n, args.k));
    KVLINK_RETURN_IF_ERROR(create(x, CUDA_R_16BF, args.k, args.rows, args.x_stride));
    return create(out, args.out.bf16 ? CUDA_R_16BF : CUDA_R_32F, args.n, args.rows, args.out.strides[0]);
  }

 private:
  template <typename T>
  absl::Status Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return Check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)), "attribute");
  }
};

class CublasLtMatmul : public Matmul {
 public:
  explicit CublasLtMatmul(cublasLtHandle_t handle) : handle_(handle) {}
  ~CublasLtMatmul() override { cublasLtDestroy(handle_); }

  int64_t WorkspaceBytes() const override { return kWorkspaceBytes; }

  absl::Status Run(void* stream, const MatmulArgs& args) override {
    Problem problem;
    KVLINK_RETURN_IF_ERROR(problem.Describe(args));
    KVLINK_ASSIGN_OR_RETURN(const cublasLtMatmulAlgo_t algorithm, Choose(args, problem));
    const float one = 1, zero = 0;
    return Check(cublasLtMatmul(handle_, problem.operation.get(), &one, args.weight, problem.weight.get(), args.x,
                                problem.x.get(), &zero, args.out.data, problem.out.get(), args.out.data,
                                problem.out.get(), &algorithm, args.workspace.data,
                                static_cast<size_t>(args.workspace.bytes), static_cast<cudaStream_t>(stream)),
                 absl::StrCat("product of ", args.rows, " x ", args.k, " by ", args.n));
  }

 private:
  // Everything that the choice depends on.
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool>;

  absl::StatusOr<cublasLtMatmulAlgo_t> Choose(const MatmulArgs& args, const Problem& problem) {
    const Key key(args.rows, args.n, args.k, args.x_stride, args.out.strides[0], args.out.bf16, args.bias != nullptr);
    {
      MutexLock lock(&mutex_);
      const auto found = algorithms_.find(key);
      if (found != algorithms_.end()) return found->second;
    }
    Preference preference;
    KVLINK_RETURN_IF_ERROR(Check(cublasLtMatmulPreferenceCreate(preference.out()), "preference"));
    const uint64_t most = static_cast<uint64_t>(kWorkspaceBytes);
    KVLINK_RETURN_IF_ERROR(Check(cublasLtMatmulPreferenceSetAttribute(
                                     preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof(most)),
                                 "preference"));
    // The alignment that MatmulArgs guarantees; cuBLASLt would assume 256 bytes.
    const uint32_t alignment = 16;
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      KVLINK_RETURN_IF_ERROR(
          Check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &alignment, sizeof(alignment)),
                "preference"));
    }
    cublasLtMatmulHeuristicResult_t result{};
    int count = 0;
    KVLINK_RETURN_IF_ERROR(Check(
        cublasLtMatmulAlgoGetHeuristic(handle_, problem.operation.get(), problem.weight.get(), problem.x.get(),
                                       problem.out.get(), problem.out.get(), preference.get(), 1, &result, &count),
        absl::StrCat("no algorithm for ", args.rows, " x ", args.k, " by ", args.n)));
    if (count == 0) {
      return absl::InternalError(absl::StrCat("cuBLASLt: no algorithm for ", args.rows, " x ", args.k, " by ", args.n));
    }
    MutexLock lock(&mutex_);
    if (algorithms_.size() >= kMaxAlgorithms) algorithms_.clear();
    algorithms_.insert_or_assign(key, result.algo);
    return result.algo;
  }

  const cublasLtHandle_t handle_;
  Mutex mutex_;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Matmul>> MakeMatmul() {
  cublasLtHandle_t handle = nullptr;
  KVLINK_RETURN_IF_ERROR(Check(cublasLtCreate(&handle), "start"));
  return std::make_unique<CublasLtMatmul>(handle);
}

}  // namespace kvlink::kernels::cuda
