// Every backend this build has, for tests that run on each. A new backend is added in backends.cc, nowhere else.
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
  bool on_device = false;  // its memory is not to be touched by the host
};
inline std::ostream& operator<<(std::ostream& out, const BackendFactory& factory) { return out << factory.name; }

std::vector<BackendFactory> AllBackends();
// Those whose memory is the host's.
std::vector<BackendFactory> HostBackends();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_BACKENDS_H_
