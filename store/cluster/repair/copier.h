// Copies encodings from peers, several at a time and within the rate.
//
// Thread-safety: by one thread at a time. Lifetime: within that of the context.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_
#define KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "base/worker.h"
#include "store/cluster/repair/context.h"

namespace kvlink::store::cluster {

// Who lists an encoding, where it is reached, and how far it had carried out the drops then.
struct CopySource {
  NodeId node = {};
  std::string address;
  DropPosition dropped;
};

struct Copy {
  SlotEntry entry;
  uint16_t slot = 0;
  absl::InlinedVector<CopySource, 2> sources;
  enum class Outcome : uint8_t {
    kFailed,  // to be tried again
    kCopied,
    kThere,    // what is here is as good by now
    kGone,     // no source has it any more
    kDropped,  // the identity was dropped
    kNoRoom,   // the store does not take it
  } outcome = Outcome::kFailed;
};

class Copier {
 public:
  explicit Copier(RepairContext* context);

  // Sets the outcome of each; what the repairer's end leaves undone has failed.
  void Run(std::vector<Copy>* copies);

 private:
  void One(Copy* copy);
  absl::StatusOr<Copy::Outcome> From(const CopySource& source, const Copy& copy);
  absl::StatusOr<Copy::Outcome> Put(const CopySource& source, const Copy& copy, Lease* lease, absl::Time deadline);

  RepairContext* const context_;
  Worker worker_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_
