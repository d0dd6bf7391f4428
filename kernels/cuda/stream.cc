// Streams with a ring of pinned memory for small host arrays, a record of errors that only the device can see, and
// graphs.
#include "kernels/cuda/stream.h"

#include <algorithm>
#include <cstring>
#include <numbers>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cuda/runtime.h"

namespace kvlink::kernels::cuda {
namespace {

constexpr int64_t kRopeBytes = 2048 * sizeof(double);  // of the largest rotary_dim
constexpr int64_t kAlignment = 64;

class CudaGraph : public Graph {
 public:
  explicit CudaGraph(void* executable) : executable_(executable) {}
  ~CudaGraph() override { DestroyExecutable(executable_); }
  void* executable() const { return executable_; }

 private:
  void* const executable_;
};

std::string Text(const FaultRecord& record) {
  switch (static_cast<Fault>(record.fault)) {
    case Fault::kEmbedId:
      return absl::StrCat("Embed: row ", record.index, " has id ", record.value, " of ", record.limit);
    case Fault::kQkvSlot:
      return absl::StrCat("QkvFinish: row ", record.index, " has slot ", record.value, " of ", record.limit);
    case Fault::kPackNotFinite:
      return absl::StrCat("Pack: head ", record.index, ", tokens ", record.value, " to ", record.limit,
                          " hold a key or value that is not finite");
    case Fault::kShiftSlot:
      return absl::StrCat("ShiftKeys: token ", record.index, " has slot ", record.value, " of ", record.limit);
    case Fault::kDeviationToken:
      return absl::StrCat("KvDeviation: row ", record.index, " has token ", record.value, " of ", record.limit);
    case Fault::kDeviationSlot:
      return absl::StrCat("KvDeviation: row ", record.index, " has slot ", record.value, " of ", record.limit);
    case Fault::kNone:
      break;
  }
  return absl::StrCat("fault ", record.fault);
}

}  // namespace

CudaStream::CudaStream(int device) : device_(device) { status_ = Create(); }

CudaStream::~CudaStream() {
  if (!UseDevice(device_).ok()) return;
  if (handle_ != nullptr) {
    static_cast<void>(SynchronizeStream(handle_));
    DestroyStream(handle_);
  }
  if (pinned_ != nullptr) FreePinned(pinned_);
  if (memory_ != nullptr) FreeDevice(memory_);
}

absl::Status CudaStream::Create() {
  KVLINK_RETURN_IF_ERROR(UseDevice(device_));
  KVLINK_ASSIGN_OR_RETURN(handle_, CreateStream());
  KVLINK_ASSIGN_OR_RETURN(void* pinned, AllocatePinned(kMaxStaged + kAlignment));
  pinned_ = static_cast<std::byte*>(pinned);
  KVLINK_ASSIGN_OR_RETURN(void* memory, AllocateDevice(kMaxStaged + kRopes * kRopeBytes + kAlignment));
  memory_ = static_cast<std::byte*>(memory);
  fault_ = reinterpret_cast<FaultRecord*>(memory_ + kMaxStaged + kRopes * kRopeBytes);
  return Fill(handle_, fault_, 0, sizeof(FaultRecord));
}

absl::Status CudaStream::Use() {
  KVLINK_RETURN_IF_ERROR(status_);
  return UseDevice(device_);
}

absl::Status CudaStream::Synchronize() {
  KVLINK_RETURN_IF_ERROR(Use());
  std::byte* record = pinned_ + kMaxStaged;
  KVLINK_RETURN_IF_ERROR(Copy(handle_, record, fault_, sizeof(FaultRecord)));
  KVLINK_RETURN_IF_ERROR(SynchronizeStream(handle_));
  used_ = 0;
  FaultRecord fault;
  std::memcpy(&fault, record, sizeof(fault));
  if (fault.fault == 0) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(Fill(handle_, fault_, 0, sizeof(FaultRecord)));
  return absl::InternalError(Text(fault));
}

absl::Status CudaStream::BeginCapture() {
  KVLINK_RETURN_IF_ERROR(Use());
  KVLINK_RETURN_IF_ERROR(cuda::BeginCapture(handle_));
  capturing_ = true;
  return absl::OkStatus();
}

absl::Status CudaStream::EndCapture(std::unique_ptr<Graph>* graph) {
  const absl::Status status = LaunchRecorded(graph);
  if (!status.ok()) {
    graph->reset();
    for (std::vector<double>& rope : ropes_) rope.clear();  // those staged meanwhile never arrived
  }
  awaited_.clear();
  return status;
}

absl::Status CudaStream::LaunchRecorded(std::unique_ptr<Graph>* graph) {
  capturing_ = false;
  KVLINK_ASSIGN_OR_RETURN(void* const recorded, cuda::EndCapture(handle_));
  const std::unique_ptr<void, void (*)(void*)> owned(recorded, DestroyGraph);
  auto* executable = static_cast<CudaGraph*>(graph->get());
  if (executable == nullptr || !UpdateExecutable(executable->executable(), recorded)) {
    graph->reset();
    KVLINK_ASSIGN_OR_RETURN(void* const made, MakeExecutable(recorded));
    *graph = std::make_unique<CudaGraph>(made);
    executable = static_cast<CudaGraph*>(graph->get());
  }
  for (void* event : awaited_) KVLINK_RETURN_IF_ERROR(WaitEvent(handle_, event));
  return LaunchExecutable(executable->executable(), handle_);
}

void CudaStream::DropCapture() {
  capturing_ = false;
  awaited_.clear();
  for (std::vector<double>& rope : ropes_) rope.clear();  // as above
  const auto recorded = cuda::EndCapture(handle_);
  if (recorded.ok()) DestroyGraph(*recorded);
}

absl::Status CudaStream::WaitFor(void* event) {
  if (!capturing_) return WaitEvent(handle_, event);
  // It is not part of the recording, which cannot wait for it.
  if (std::find(awaited_.begin(), awaited_.end(), event) == awaited_.end()) awaited_.push_back(event);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CudaStream::Reserve(int64_t bytes) {
  if (bytes > kMaxStaged) return absl::InternalError(absl::StrCat("staging ", bytes, " bytes at once"));
  if (used_ + bytes > kMaxStaged) {
    if (capturing_) return absl::ResourceExhaustedError("staging: the ring is full while operations are recorded");
    KVLINK_RETURN_IF_ERROR(SynchronizeStream(handle_));
    used_ = 0;
  }
  const int64_t at = used_;
  used_ = (used_ + bytes + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}

absl::StatusOr<const void*> CudaStream::Stage(const void* data, int64_t bytes) {
  KVLINK_ASSIGN_OR_RETURN(const int64_t at, Reserve(bytes));
  if (bytes > 0) std::memcpy(pinned_ + at, data, static_cast<size_t>(bytes));
  KVLINK_RETURN_IF_ERROR(Copy(handle_, memory_ + at, pinned_ + at, bytes));
  return memory_ + at;
}

absl::StatusOr<RopeView> CudaStream::StageRope(const Rope& rope) {
  int found = 0;
  while (found < kRopes && ropes_[static_cast<size_t>(found)] != rope.inv_freq) ++found;
  if (found == kRopes) {
    found = next_rope_;
    next_rope_ = (next_rope_ + 1) % kRopes;
  }
  std::byte* at = memory_ + kMaxStaged + found * kRopeBytes;
  std::vector<double>& kept = ropes_[static_cast<size_t>(found)];
  if (kept != rope.inv_freq) {
    const int64_t bytes = static_cast<int64_t>(rope.inv_freq.size() * sizeof(double));
    kept.clear();  // until the copy is launched
    KVLINK_ASSIGN_OR_RETURN(const int64_t staged, Reserve(bytes));
    double* turns = reinterpret_cast<double*>(pinned_ + staged);
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) turns[i] = rope.inv_freq[i] / (2 * std::numbers::pi);
    KVLINK_RETURN_IF_ERROR(Copy(handle_, at, turns, bytes));
    kept = rope.inv_freq;
  }
  return RopeView{reinterpret_cast<const double*>(at), rope.rotary_dim / 2, rope.attention_factor};
}

}  // namespace kvlink::kernels::cuda
