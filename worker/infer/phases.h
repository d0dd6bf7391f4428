// When a request was at what, for whoever watches it. Thread-safety: plain values.
#ifndef KVLINK_WORKER_INFER_PHASES_H_
#define KVLINK_WORKER_INFER_PHASES_H_

#include <algorithm>

#include "absl/time/time.h"

namespace kvlink::infer {

// From its first beginning to its last end, in SteadyNow() time.
struct Phase {
  absl::Time began = absl::InfiniteFuture(), ended = absl::InfinitePast();

  bool empty() const { return ended < began; }
  absl::Duration took() const { return empty() ? absl::ZeroDuration() : ended - began; }
  void Add(absl::Time from, absl::Time to) {
    began = std::min(began, from);
    ended = std::max(ended, to);
  }
  void Add(const Phase& other) { Add(other.began, other.ended); }
};

// Encodings were read from one place. Layers that have arrived are used while the others do.
struct Load : Phase {
  absl::Duration waited;  // for what had not arrived when it was needed
};

// Of a request, until its first token. What did not happen, or has not ended, is empty.
struct Phases {
  Phase lookup;           // the store was asked which encodings it has
  Load host, dram, disk;  // encodings were read from there, until every layer was in its place
  Phase encode;           // documents were encoded on the spot
  Phase land;             // all of these, and waiting for room, until every layer was in its place
  Phase link;             // the fresh tokens of the prompt were computed, while layers may still have arrived

  // A pass computed a piece of the prompt; documents that it lacked were looked up and encoded first.
  void Computed(absl::Time from, absl::Time to) { link.Add(std::max({from, lookup.ended, encode.ended}), to); }
};

}  // namespace kvlink::infer

#endif  // KVLINK_WORKER_INFER_PHASES_H_
