// How long a test waits for what is to happen.
#ifndef KVLINK_TESTS_SUPPORT_PATIENCE_H_
#define KVLINK_TESTS_SUPPORT_PATIENCE_H_

#include "absl/time/time.h"
#include "base/clock.h"

namespace kvlink::testing {

// A test fails after it; nothing waits for all of it where all is well.
inline absl::Time Patience() { return SteadyNow() + absl::Minutes(1); }

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_PATIENCE_H_
