// How long tests wait.
#ifndef KVLINK_TESTS_SUPPORT_PATIENCE_H_
#define KVLINK_TESTS_SUPPORT_PATIENCE_H_

#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace kvlink::testing {

// A test fails after this time; a passing test never waits this long.
inline absl::Time Patience() { return SteadyNow() + absl::Minutes(1); }

// Waits until the condition holds. False if it does not in time.
inline bool Eventually(const std::function<bool()>& holds) {
  for (const absl::Time deadline = Patience(); SteadyNow() < deadline; absl::SleepFor(absl::Milliseconds(2))) {
    if (holds()) return true;
  }
  return holds();
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_PATIENCE_H_
