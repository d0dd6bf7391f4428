// A transport with faults on demand: wraps another one and damages the traffic of its connections. For tests.
//
// Faults apply to what is sent through the wrapped transport; wrap both sides to damage both directions. The same seed
// and order of calls give the same faults. Operations held back by the decorator keep their deadline and quarantine.
//
//   drop     a message or payload vanishes; Send completes with OK, as if the network lost it later
//   delay    it waits `delay` before it continues, and others overtake it
//   reorder  it follows the next one of its connection (or waits `delay` if there is none)
//   corrupt  one bit is flipped; the source itself stays unchanged
//   cut      the connection is closed
//   freeze   no message or payload leaves and no message reaches the connection for `freeze`
//
// Thread-safety and lifetime as transport.h; the inner transport is owned.
#ifndef KVLINK_TESTS_SUPPORT_TRANSPORT_FAULTY_FAULTY_H_
#define KVLINK_TESTS_SUPPORT_TRANSPORT_FAULTY_FAULTY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "transport/transport.h"

namespace kvlink::transport {

enum class Fault : uint8_t { kNone, kDrop, kDelay, kReorder, kCorrupt, kCut, kFreeze };
inline constexpr int kFaults = 7;

// The probability of each fault, per message and per payload; together at most 1.
struct FaultRates {
  double drop = 0, delay = 0, reorder = 0, corrupt = 0, cut = 0, freeze = 0;
};

struct FaultOptions {
  uint64_t seed = 1;
  FaultRates messages, payloads;
  absl::Duration delay = absl::Milliseconds(20);
  absl::Duration freeze = absl::Milliseconds(100);
  // Called before the rates apply: returns the fault of the transport's `n`th (from 0) message or payload, or nullopt
  // to leave it to the rates. Called under a lock.
  std::function<absl::optional<Fault>(bool payload, int64_t n)> schedule;
};

class FaultyTransport : public Transport {
 public:
  // When off, everything passes unharmed. Initially on.
  virtual void Enable(bool on) = 0;
  // The number of faults of each kind so far.
  virtual std::map<Fault, int64_t> struck() const = 0;
};

// RESOURCE_EXHAUSTED: no file descriptors.
absl::StatusOr<std::unique_ptr<FaultyTransport>> NewFaultyTransport(std::unique_ptr<Transport> inner,
                                                                    FaultOptions options);

}  // namespace kvlink::transport

#endif  // KVLINK_TESTS_SUPPORT_TRANSPORT_FAULTY_FAULTY_H_
