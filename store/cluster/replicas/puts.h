// Writes to the owners of an encoding. replicated.h defines the semantics.
//
// Thread-safety: all methods. Ownership: starts one thread, `put-rest`, when first needed. Lifetime: the cluster must
// outlive it; the destructor waits for puts in the background, kRest at most.
#ifndef KVLINK_STORE_CLUSTER_REPLICAS_PUTS_H_
#define KVLINK_STORE_CLUSTER_REPLICAS_PUTS_H_

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "store/client/pending.h"
#include "store/cluster/replicas/scatter.h"
#include "store/encodings.h"

namespace kvlink::store::cluster {

class Puts {
 public:
  // The longest that a put continues in the background after it was acknowledged.
  static constexpr absl::Duration kRest = absl::Seconds(30);

  // `max_rest_bytes`: as ReplicatedOptions.
  Puts(const Cluster* cluster, int64_t max_rest_bytes);
  ~Puts();

  absl::StatusOr<PutResult> Put(absl::string_view ns, const Manifest& manifest,
                                absl::Span<const absl::Span<const std::byte>> slabs, absl::Time deadline);
  // Bytes copied for puts that are in progress or continue in the background.
  int64_t rest_bytes() const { return rest_bytes_; }

 private:
  class Call;
  struct Body;
  struct Target;

  // A copy of the slabs for puts that may continue after the acknowledgement; null if copies would exceed
  // max_rest_bytes.
  std::shared_ptr<Body> Copy(const Manifest& manifest, absl::Span<const absl::Span<const std::byte>> slabs);
  // A put that continues in the background.
  struct Rest {
    std::shared_ptr<Body> body;
    std::unique_ptr<Target> target;  // destroyed before the body that it sends
    absl::Time limit;
  };

  // Completes the puts of `targets` in the background, until `deadline` at most. Their arrivals are forwarded from
  // `arrivals`.
  void GoOn(const std::shared_ptr<Body>& body, std::vector<std::unique_ptr<Target>> targets, client::Arrivals* arrivals,
            absl::Time deadline);
  void Follow();
  // Removes from rest_ and returns the put with this tag, and those whose time is over.
  std::vector<Rest> TakeEnded(std::optional<uint64_t> tag);

  const Cluster* const cluster_;
  const int64_t max_rest_bytes_;
  std::atomic<int64_t> rest_bytes_{0};
  const std::shared_ptr<client::Arrivals> ends_ = std::make_shared<client::Arrivals>();
  Mutex mutex_;
  std::list<Rest> rest_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  Thread follower_ ABSL_GUARDED_BY(mutex_);  // started with the first rest
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_PUTS_H_
