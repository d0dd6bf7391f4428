// Names of tests that run in every mode.
#ifndef KVLINK_TESTS_WORKER_TRAIN_MODE_NAME_H_
#define KVLINK_TESTS_WORKER_TRAIN_MODE_NAME_H_

#include <algorithm>
#include <string>

#include "gtest/gtest.h"
#include "worker/train/settings.h"

namespace kvlink::train {

inline std::string TestNameOf(const ::testing::TestParamInfo<Mode>& mode) {
  std::string name(ModeName(mode.param));
  std::replace(name.begin(), name.end(), '+', '_');
  return name;
}

}  // namespace kvlink::train

#endif  // KVLINK_TESTS_WORKER_TRAIN_MODE_NAME_H_
