// Shared by the parts of bench_isolation: encodings to read, a node in its own process with a key for each tenant, and
// the reader whose latencies are measured. Not thread-safe unless noted.
#ifndef KVLINK_BENCH_STORE_ISOLATION_H_
#define KVLINK_BENCH_STORE_ISOLATION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "bench/bench_common.h"
#include "proto/manifest.h"
#include "store/client/remote.h"

namespace kvlink::bench::isolation {

// An encoding of SmolLM2-135M: 512 tokens.
inline constexpr int64_t kLayers = 30;
inline constexpr SlabShape kShape{Codec::kRawBf16, 3, 64, 512};
inline const int64_t kEncodingBytes = kLayers * kShape.slab_bytes();

inline constexpr int64_t kDramBytes = int64_t{384} << 20;
inline constexpr int kNice = 19;  // of processes beside the reader

// A deadline for operations that should take milliseconds.
absl::Time Soon();
// Lowers the priority of this process and of the threads it starts from now on.
void BeNice();

// One encoding's slabs, ready to be written under any name.
struct Slabs {
  // Fills kEncodingBytes from `data` on, which must outlive the object.
  explicit Slabs(std::byte* data);
  Manifest manifest;
  std::vector<absl::Span<const std::byte>> spans;
};
// The same encoding, named by this number.
Manifest Named(Manifest manifest, uint64_t number);

// Encodings of a namespace, named by consecutive numbers from `first` on.
struct Set {
  absl::string_view ns;
  int first, count;
};
inline constexpr Set kResident{"resident", 0, 8};       // pulled from DRAM
inline constexpr Set kOnDisk{"on-disk", 100, 40};       // pulled from segments: more than fits into the tier
inline constexpr Set kSmall{"small", 200, 4};           // of the well-behaved tenant
inline constexpr Set kLarge{"hostile", 300, 64};        // of the hostile one: twice the tier
inline constexpr absl::string_view kPushed = "pushed";  // new pushes evict earlier ones

// Keys of the node's access file.
inline constexpr absl::string_view kTenantKey = "the-key-of-a-good-tenant";
inline constexpr absl::string_view kHostileKey = "the-key-of-a-hostile-tenant";
inline constexpr absl::string_view kOperatorKey = "the-key-of-the-operator";

// Serves a node with `sets` stored, over UCX and a socket; prints its address. Does not return.
[[noreturn]] void Serve(const std::string& directory, absl::Span<const Set> sets);
std::unique_ptr<store::client::RemoteStore> Connect(const std::string& address, absl::string_view key,
                                                    store::client::Carrier carrier = store::client::Carrier::kUcx);

// Reads like a worker: a lookup, a read, and every layer verified. Thread-safety: one thread.
class Reader {
 public:
  Reader(store::Store* store, const Set& set, const Manifest& manifest)
      : store_(store), set_(set), manifest_(manifest) {}

  // Reads the next encoding of the set; returns the tier it came from.
  absl::StatusOr<store::Tier> Read();
  // Makes `reads` reads, which must come from `tier` (kNone: any). Otherwise ends the program.
  void ReadFrom(store::Tier tier, int reads, std::vector<double>* seconds);

 private:
  store::Store* const store_;
  const Set set_;
  const Manifest manifest_;
  int next_ = 0;
};

}  // namespace kvlink::bench::isolation

#endif  // KVLINK_BENCH_STORE_ISOLATION_H_
