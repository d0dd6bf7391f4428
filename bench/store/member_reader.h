// The client whose reads bench_members measures: a process of its own, as an inference worker is, so that it shares no
// thread with nodes and their repair. Not thread-safe.
#ifndef KVLINK_BENCH_STORE_MEMBER_READER_H_
#define KVLINK_BENCH_STORE_MEMBER_READER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/slab.h"
#include "bench/store/member_cluster.h"
#include "bench/transfer/transfer.h"

namespace kvlink::bench::members {

inline constexpr SlabShape kDocument{Codec::kRawBf16, 1, 64, 512};
inline constexpr char kDocuments[] = "documents";  // the namespace

struct Window {
  double begin, end;  // Now()
};

// One read, as the process records it.
struct TimedRead {
  double due, seconds;  // Now() when it should have begun; from then to its end
  bool ok;
};

class Reader {
 public:
  // Starts reading random documents at a fixed rate, until destroyed. Returns after the first read.
  Reader(const std::string& endpoints, int documents, const std::string& scratch);

  // Seconds taken by the reads so far that were due in the windows, counted from when they were due.
  std::vector<double> In(absl::Span<const Window> windows) const;
  int64_t failed() const;

 private:
  std::vector<TimedRead> reads() const;

  const std::string path_;
  std::unique_ptr<ServingProcess> process_;
};

// The process: appends what its reads took to the file at `path`.
[[noreturn]] void ReadForever(const std::string& endpoints, int documents, const std::string& path);

}  // namespace kvlink::bench::members

#endif  // KVLINK_BENCH_STORE_MEMBER_READER_H_
