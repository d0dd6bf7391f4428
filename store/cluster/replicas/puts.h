// Writes to the owners of an encoding. Semantics as replicated.h says.
//
// Thread-safety: all methods. Lifetime: the destructor waits for what goes on in the background, which is bounded.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_PUTS_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_PUTS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/worker.h"
#include "store/cluster/replicas/scatter.h"
#include "store/encodings.h"

namespace kvlink::store::cluster {

class Puts {
 public:
  // What goes on after an acknowledgement, at most: so many bytes of copies, and each for so long.
  static constexpr int64_t kMaxRestBytes = int64_t{256} << 20;
  static constexpr absl::Duration kRest = absl::Seconds(30);

  explicit Puts(const Cluster* cluster) : cluster_(cluster) {}

  absl::StatusOr<PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline);
  // Bytes of puts that are acknowledged and go on.
  int64_t rest_bytes() const { return rest_bytes_; }

 private:
  class Call;
  struct Body;
  struct Target;

  // A copy of what is put, for as long as it goes on; null: there are too many.
  std::shared_ptr<Body> Copy(const Manifest& manifest, absl::Span<const absl::Span<const std::byte>> slabs);
  // Ends the puts of `targets` in the background.
  void GoOn(std::shared_ptr<Body> body, std::vector<std::unique_ptr<Target>> targets);

  const Cluster* const cluster_;
  std::atomic<int64_t> rest_bytes_{0};
  Mutex mutex_;
  std::unique_ptr<Worker> rest_ ABSL_GUARDED_BY(mutex_);  // once there was any
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_PUTS_H_
