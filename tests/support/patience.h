// How long tests wait.
#ifndef KVLINK_TESTS_SUPPORT_PATIENCE_H_
#define KVLINK_TESTS_SUPPORT_PATIENCE_H_

#include "absl/time/time.h"
#include "base/clock.h"

namespace kvlink::testing {

// A test fails after this time; a passing test never waits this long.
inline absl::Time Patience() { return SteadyNow() + absl::Minutes(1); }

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_PATIENCE_H_
