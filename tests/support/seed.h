// The seed of randomised tests, and whether they run with full counts.
#ifndef KVLINK_TESTS_SUPPORT_SEED_H_
#define KVLINK_TESTS_SUPPORT_SEED_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace kvlink::testing {

// KVLINK_SEED, or a fixed number. Printed once per process.
inline uint64_t TestSeed() {
  static const uint64_t seed = [] {
    const char* text = std::getenv("KVLINK_SEED");
    const uint64_t value = text != nullptr ? std::strtoull(text, nullptr, 10) : 20250217;
    std::printf("KVLINK_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

// KVLINK_SOAK=1: long counts.
inline bool Soak() {
  const char* text = std::getenv("KVLINK_SOAK");
  return text != nullptr && std::string(text) == "1";
}

// The number of seeds for a fault test with processes: TestSeed() and those after it. Fewer where everything is slow.
inline int FaultSeeds() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  return Soak() ? 20 : 1;
#else
  return Soak() ? 100 : 3;
#endif
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_SEED_H_
