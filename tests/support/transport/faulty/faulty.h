// A transport that goes wrong as told: wraps another one and harms what its connections carry. For tests.
//
// Faults strike what is sent through the wrapped transport; wrap both sides to harm both ways. With one seed and one
// order of calls the same calls are struck. What the decorator holds back keeps its deadline and its quarantine.
//
//   drop     a message or payload vanishes; Send completes with OK, as it would where the network lost it later
//   delay    it waits `delay` before it goes on, and others overtake it
//   reorder  it goes behind the next one of its connection (or `delay`, where none follows)
//   corrupt  one bit is flipped; the source itself stays as it is
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

// The chance of each fault, for each message and each payload; together at most 1.
struct FaultRates {
  double drop = 0, delay = 0, reorder = 0, corrupt = 0, cut = 0, freeze = 0;
};

struct FaultOptions {
  uint64_t seed = 1;
  FaultRates messages, payloads;
  absl::Duration delay = absl::Milliseconds(20);
  absl::Duration freeze = absl::Milliseconds(100);
  // Asked before the rates: the fault of the `n`th (from 0) message or payload of the transport, or nothing to leave it
  // to the rates. Called under a lock.
  std::function<absl::optional<Fault>(bool payload, int64_t n)> schedule;
};

class FaultyTransport : public Transport {
 public:
  // Off: everything passes unharmed. On at first.
  virtual void Enable(bool on) = 0;
  // How often each fault has struck.
  virtual std::map<Fault, int64_t> struck() const = 0;
};

// RESOURCE_EXHAUSTED: no file descriptors.
absl::StatusOr<std::unique_ptr<FaultyTransport>> NewFaultyTransport(std::unique_ptr<Transport> inner,
                                                                    FaultOptions options);

}  // namespace kvlink::transport

#endif  // KVLINK_TESTS_SUPPORT_TRANSPORT_FAULTY_FAULTY_H_
