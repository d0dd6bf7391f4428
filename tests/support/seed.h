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

// Whether a sanitizer makes everything slow: such a run takes fewer cases.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// The number of seeds for a fault test with processes: TestSeed() and those after it.
inline int FaultSeeds() {
  if (kSanitized) return Soak() ? 20 : 1;
  return Soak() ? 100 : 3;
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_SEED_H_
