// Shared by the rows of bench_transfer: encodings moved from one process to another, layer by layer. Not thread-safe
// unless noted.
#ifndef KVLINK_BENCH_TRANSFER_TRANSFER_H_
#define KVLINK_BENCH_TRANSFER_TRANSFER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvlink::bench {

inline constexpr int64_t kTransferUnit = int64_t{64} << 10;  // the unit of a checksum

// The unit of a move: several encodings with this many layers, the documents of a request.
struct EncodingShape {
  std::string name;
  int64_t encodings = 1;
  int64_t layers = 0;
  int64_t slab_bytes = 0;  // a multiple of kTransferUnit
  int64_t slabs() const { return encodings * layers; }
  int64_t encoding_bytes() const { return layers * slab_bytes; }
  int64_t bytes() const { return slabs() * slab_bytes; }
};

// Seconds from the request until the first layer has arrived, and until everything has.
struct MoveTime {
  double first = 0, whole = 0;
};

// One way of moving encodings. Bytes move between memories much larger than the caches.
class Mover {
 public:
  virtual ~Mover() = default;
  virtual std::string name() const = 0;
  // Moves the next encodings; returns when the reader has them.
  virtual absl::StatusOr<MoveTime> Move(const EncodingShape& shape) = 0;
};

struct Moved {
  double gigabytes_per_second = 0;              // median of the turns, over the time that moves took
  double first_seconds = 0, whole_seconds = 0;  // median of the moves
  std::vector<double> turns;                    // GB/s of each
};

// Lets the movers take turns: in each of `rounds` rounds, after one uncounted round, each moves encodings of `shape`
// until `round_bytes` have moved, in kTurnsOfRound turns.
inline constexpr int kTurnsOfRound = 4;
absl::StatusOr<std::vector<Moved>> MeasureMovers(absl::Span<Mover* const> movers, const EncodingShape& shape,
                                                 int64_t round_bytes, int rounds);

// The place of the next encoding in a ring of memory.
class RingPlace {
 public:
  explicit RingPlace(int64_t ring_bytes) : ring_bytes_(ring_bytes) {}
  // REQUIRES: bytes <= ring_bytes.
  int64_t Next(int64_t bytes) {
    if (at_ + bytes > ring_bytes_) at_ = 0;
    const int64_t place = at_;
    at_ += bytes;
    return place;
  }

 private:
  const int64_t ring_bytes_;
  int64_t at_ = 0;
};

// Fills a ring with the same bytes in every process.
void FillRing(std::byte* data, int64_t bytes);
// XXH3 of each unit of such a ring. Uses `data` as scratch and leaves zeros there.
std::vector<uint64_t> RingChecksums(std::byte* data, int64_t bytes);

// A server process, whose standard output carries its first messages. Killed with the object, and with this process.
class ServingProcess {
 public:
  // UNAVAILABLE: it did not start, or printed nothing.
  static absl::StatusOr<std::unique_ptr<ServingProcess>> Start(const std::vector<std::string>& arguments);
  ~ServingProcess();
  ServingProcess(const ServingProcess&) = delete;
  ServingProcess& operator=(const ServingProcess&) = delete;
  const std::string& first_line() const { return first_line_; }
  pid_t process() const { return process_; }

 private:
  explicit ServingProcess(pid_t process) : process_(process) {}
  const pid_t process_;
  std::string first_line_;
};
// Called in such a process: prints `line` and sleeps until killed.
[[noreturn]] void ServeForever(const std::string& line);

}  // namespace kvlink::bench

#endif  // KVLINK_BENCH_TRANSFER_TRANSFER_H_
