// Writes to the owners of an encoding. Semantics as replicated.h says.
//
// Thread-safety: all methods. Lifetime: the destructor waits for what goes on in the background, which is bounded.
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
  // What goes on after an acknowledgement does so for so long at most.
  static constexpr absl::Duration kRest = absl::Seconds(30);

  // `max_rest_bytes`: as ReplicatedOptions.
  Puts(const Cluster* cluster, int64_t max_rest_bytes);
  ~Puts();

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
  // One that goes on in the background.
  struct Rest {
    std::shared_ptr<Body> body;
    std::unique_ptr<Target> target;  // goes before the body that it sends
    absl::Time limit;
  };

  // Ends the puts of `targets`, whose deadline that is, in the background; `arrivals` hears of them.
  void GoOn(const std::shared_ptr<Body>& body, std::vector<std::unique_ptr<Target>> targets, client::Arrivals* arrivals,
            absl::Time deadline);
  void Follow();
  // Those of `rest` that have ended, or whose time is over, taken from it.
  std::vector<Rest> TakeEnded(std::optional<uint64_t> tag);

  const Cluster* const cluster_;
  const int64_t max_rest_bytes_;
  std::atomic<int64_t> rest_bytes_{0};
  const std::shared_ptr<client::Arrivals> ends_ = std::make_shared<client::Arrivals>();
  Mutex mutex_;
  std::list<Rest> rest_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  Thread follower_ ABSL_GUARDED_BY(mutex_);  // once there was any
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPLICAS_PUTS_H_
