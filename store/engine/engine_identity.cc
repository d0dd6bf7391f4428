// The store's identity and clock: numbers that only grow, however the wall clock is set. The last values are records in
// the index, and the wall clock advances them.
#include <algorithm>
#include <string>

#include "absl/time/clock.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "store/engine/engine_impl.h"
#include "store/engine/index/index.h"

namespace kvlink::engine {
namespace {

constexpr absl::string_view kIncarnationName = "incarnation";
constexpr absl::string_view kTimeName = "time";

uint64_t WallClock() { return static_cast<uint64_t>(std::max<int64_t>(absl::ToUnixMicros(absl::Now()), 0)); }

absl::StatusOr<uint64_t> ReadNumber(const Index& index, absl::string_view name) {
  KVLINK_ASSIGN_OR_RETURN(const auto stored, index.GetMeta(name));
  if (!stored.has_value()) return 0;
  if (stored->size() != sizeof(uint64_t)) {
    return absl::DataLossError(absl::StrCat("the index holds ", stored->size(), " bytes under '", name,
                                            "' and not 8: restore the store from a copy, or move it away and ingest "
                                            "again"));
  }
  return FieldReader(*stored).Read<uint64_t>();
}

void PutNumber(absl::string_view name, uint64_t number, IndexBatch* batch) {
  std::string value;
  AppendField<uint64_t>(number, &value);
  batch->PutMeta(name, value);
}

}  // namespace

absl::Status EngineImpl::StartIncarnation() {
  KVLINK_ASSIGN_OR_RETURN(const uint64_t time, ReadNumber(*index_, kTimeName));
  time_.store(time);
  KVLINK_ASSIGN_OR_RETURN(const uint64_t last, ReadNumber(*index_, kIncarnationName));
  incarnation_ = std::max(WallClock(), last + 1);
  if (options_.read_only) return absl::OkStatus();
  IndexBatch batch(index_.get());
  PutNumber(kIncarnationName, incarnation_, &batch);
  const absl::Status kept = index_->Commit(&batch);
  if (!absl::IsResourceExhausted(kept)) return kept;
  // On a full disk, only the wall clock makes the next incarnation greater.
  index_->Resume().IgnoreError();
  return absl::OkStatus();
}

std::string EngineImpl::id() const {
  const Uuid& uuid = directory_->identity()->uuid;
  return std::string(reinterpret_cast<const char*>(uuid.data()), uuid.size());
}

uint64_t EngineImpl::Now() {
  uint64_t last = time_.load();
  uint64_t now = 0;
  do {
    now = std::max(WallClock(), last + 1);
  } while (!time_.compare_exchange_weak(last, now));
  return now;
}

void EngineImpl::KeepTime(IndexBatch* batch) const { PutNumber(kTimeName, time_.load(), batch); }

}  // namespace kvlink::engine
