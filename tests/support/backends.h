// Every backend of this build, for tests that run on each. Add new backends only in backends.cc.
#ifndef KVLINK_TESTS_SUPPORT_BACKENDS_H_
#define KVLINK_TESTS_SUPPORT_BACKENDS_H_

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace kvlink::testing {

struct BackendFactory {
  std::string name;  // letters, digits and underscores: part of test names
  std::function<std::unique_ptr<kernels::Backend>()> make;
  bool on_device = false;  // the host must not access its memory
};
inline std::ostream& operator<<(std::ostream& out, const BackendFactory& factory) { return out << factory.name; }

std::vector<BackendFactory> AllBackends();
// Backends with host memory.
std::vector<BackendFactory> HostBackends();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_BACKENDS_H_
