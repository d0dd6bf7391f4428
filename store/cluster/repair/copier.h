// Copies encodings from peers, several at a time and within the rate. Each arrives in parts
// (RepairOptions::part_bytes), so that its size is bounded by the stores alone, and it may take as long as its parts
// make progress.
//
// Thread-safety: by one thread at a time. Lifetime: within that of the context.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_
#define KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
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

// The encoding with the greatest etag that peers list under one name, and which of them list it.
struct Offered {
  SlotEntry entry;
  std::vector<CopySource> sources;  // empty: no peer lists it

  void Add(SlotEntry listed, CopySource source) {
    if (!sources.empty() && listed.etag.bytes < entry.etag.bytes) return;
    const int heat = !sources.empty() && listed.etag == entry.etag ? std::max(entry.heat, listed.heat) : listed.heat;
    if (listed.etag != entry.etag) sources.clear();
    entry = std::move(listed);
    entry.heat = heat;
    sources.push_back(std::move(source));
  }
};

// From this heat on, an encoding has been used again since it came, and not only by a repair: copying it may evict
// something else.
inline constexpr int kHeatToEvict = 2;

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

// What is asked of a peer at a time.
struct CopyPart {
  client::EncodingPart what;
  int64_t bytes = 0;
};

class Copier {
 public:
  // `threads`: copies at a time.
  Copier(RepairContext* context, int threads);

  // Sets the outcome of each; what the repairer's end leaves undone has failed.
  void Run(std::vector<Copy>* copies);

 private:
  void One(Copy* copy);
  absl::StatusOr<Copy::Outcome> From(const CopySource& source, const Copy& copy);
  absl::StatusOr<Copy::Outcome> Failed(const CopySource& source, const absl::Status& why);
  // Waits for the rate, then asks. CANCELLED: the repairer is to end.
  absl::StatusOr<std::unique_ptr<client::PartLease>> Read(RepairPeer* peer, const Copy& copy, const CopyPart& part);
  // Moves what arrives of the part into the push; of whole layers, to the disk.
  absl::Status Fill(const Manifest& manifest, const CopyPart& part, client::PartLease* lease,
                    engine::StreamingPut* push);
  absl::StatusOr<Copy::Outcome> Commit(const CopySource& source, const Copy& copy,
                                       std::unique_ptr<engine::StreamingPut> push);

  RepairContext* const context_;
  Worker worker_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_
