// memcpy and bare io_uring as movers, without another process.
#include "bench/transfer/transfer_machine.h"

#include <cstring>
#include <utility>

#include "base/status.h"
#include "bench/bench_common.h"
#include "bench/store/bare_disk.h"

namespace kvlink::bench {
namespace {

constexpr int64_t kDiskMemory = int64_t{256} << 20;

class DiskMover : public Mover {
 public:
  explicit DiskMover(std::unique_ptr<BareDisk> disk) : disk_(std::move(disk)), place_(disk_->bytes()) {}
  std::string name() const override { return "bare io_uring"; }
  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override {
    const int64_t at = place_.Next(shape.bytes());
    const double start = Now();
    KVLINK_RETURN_IF_ERROR(disk_->Transfer(false, at, shape.bytes()));
    const double took = Now() - start;
    return MoveTime{took, took};
  }

 private:
  const std::unique_ptr<BareDisk> disk_;
  RingPlace place_;
};

class CopyMover : public Mover {
 public:
  explicit CopyMover(int64_t ring_bytes) : from_(ring_bytes), to_(ring_bytes), place_(ring_bytes) {
    FillRing(from_.as<std::byte>(), ring_bytes);
  }
  std::string name() const override { return "memcpy"; }
  absl::StatusOr<MoveTime> Move(const EncodingShape& shape) override {
    const int64_t at = place_.Next(shape.bytes());
    MoveTime time;
    const double start = Now();
    for (int64_t i = 0; i < shape.slabs(); ++i) {
      const int64_t slab = at + i * shape.slab_bytes;
      std::memcpy(to_.as<std::byte>() + slab, from_.as<std::byte>() + slab, static_cast<size_t>(shape.slab_bytes));
      if (i == 0) time.first = Now() - start;
    }
    time.whole = Now() - start;
    return time;
  }

 private:
  const Memory from_, to_;
  RingPlace place_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Mover>> NewDiskMover(const std::string& path, int64_t ring_bytes) {
  KVLINK_ASSIGN_OR_RETURN(auto disk, BareDisk::Create(path, ring_bytes, kDiskMemory));
  return std::make_unique<DiskMover>(std::move(disk));
}

std::unique_ptr<Mover> NewCopyMover(int64_t ring_bytes) { return std::make_unique<CopyMover>(ring_bytes); }

}  // namespace kvlink::bench
