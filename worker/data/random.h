// A seeded sequence of random numbers that is the same on every machine and with every standard library, which the
// distributions of <random> are not. SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number
// generators", OOPSLA 2014.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_DATA_RANDOM_H_
#define KVLINK_WORKER_DATA_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

namespace kvlink::data {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // 0..count-1. The bias is below count / 2^64. REQUIRES: count > 0.
  size_t Below(size_t count) { return static_cast<size_t>(Next() % count); }
  // At least 0 and below 1, of 2^53 equally probable numbers.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // REQUIRES: `values` is not empty.
  template <typename Values>
  const auto& Pick(const Values& values) {
    return values[Below(std::size(values))];
  }
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(i)]);
  }

 private:
  uint64_t state_;
};

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_RANDOM_H_
