// Copies encodings from peers, several at a time and within the rate limit. Each arrives in parts
// (RepairOptions::part_bytes), so that only the stores limit its size, and a copy may last as long as its parts make
// progress.
//
// Thread-safety: one thread at a time. Ownership: starts the threads `repair-copy`. Lifetime: the context must outlive
// it.
#ifndef KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_
#define KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "base/worker.h"
#include "store/cluster/repair/context.h"

namespace kvlink::store::cluster {

// A peer that lists an encoding, its address, and the drops that it had carried out when it listed it.
struct CopySource {
  NodeId node = {};
  std::string address;
  DropPosition dropped;
};

// The encoding with the greatest etag that peers list under one name, and the peers that list it.
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

// From this heat on, an encoding has been used again since it was stored, and not only by repair: copying it may evict
// others.
inline constexpr int kHeatToEvict = 2;

struct Copy {
  SlotEntry entry;
  uint16_t slot = 0;
  absl::InlinedVector<CopySource, 2> sources;
  enum class Outcome : uint8_t {
    kFailed,  // will be retried
    kCopied,
    kThere,    // the node now has as good a copy
    kGone,     // no source has it any more
    kDropped,  // the identity was dropped
    kNoRoom,   // the store refused it
  } outcome = Outcome::kFailed;
};

// One read from a peer.
struct CopyPart {
  client::EncodingPart what;
  int64_t bytes = 0;
};

class Copier {
 public:
  // `threads`: concurrent copies, 1 to 64.
  Copier(RepairContext* context, int threads);

  // Sets the outcome of each copy; when the repairer stops, unfinished copies are kFailed.
  void Run(std::vector<Copy>* copies);

 private:
  void One(Copy* copy);
  // Copies from one source. Errors: another source may do better; what this node cannot do is an outcome.
  absl::StatusOr<Copy::Outcome> From(const CopySource& source, const Copy& copy);
  absl::StatusOr<Copy::Outcome> Failed(const CopySource& source, const absl::Status& why);
  // Waits for the rate limit, then reads. CANCELLED: the repairer is stopping.
  absl::StatusOr<std::unique_ptr<client::PartLease>> Read(RepairPeer* peer, const Copy& copy, const CopyPart& part);
  // Moves the part into the push as it arrives, and writes each layer to disk once it is whole. Errors of the peer.
  // False: this node cannot take it now.
  absl::StatusOr<bool> Fill(const Manifest& manifest, const CopyPart& part, client::PartLease* lease,
                            engine::StreamingPut* push);
  Copy::Outcome Commit(const Copy& copy, std::unique_ptr<engine::StreamingPut> push,
                       std::function<absl::Status()> admission);

  RepairContext* const context_;
  Worker worker_;
};

}  // namespace kvlink::store::cluster

#endif  // KVLINK_STORE_CLUSTER_REPAIR_COPIER_H_
