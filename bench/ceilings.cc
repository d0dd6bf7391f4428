#include "bench/ceilings.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvlink::bench {
namespace {

constexpr int64_t kArray = int64_t{1} << 30;
constexpr int64_t kReadPiece = int64_t{64} << 20;  // for each thread
constexpr int64_t kCopyPiece = int64_t{32} << 20;

int Cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// Each returns the operations it did. 24 sums are more than latency times throughput on any of these.
constexpr int kSums = 24;
constexpr int64_t kSteps = 400000;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) double Fma512() {
  __m512 sum[kSums], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
  for (auto& s : sum) s = y;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+v"(x), "+v"(y));
#pragma GCC unroll 24
    for (int j = 0; j < kSums; ++j) sum[j] = _mm512_fmadd_ps(x, y, sum[j]);
  }
  for (auto& s : sum) asm volatile("" : : "v"(s));
  return 2.0 * 16 * kSums * kSteps;
}
__attribute__((target("avx2,fma"))) double Fma256() {
  constexpr int kSums256 = 12;
  __m256 sum[kSums256], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
  for (auto& s : sum) s = y;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+x"(x), "+x"(y));
#pragma GCC unroll 12
    for (int j = 0; j < kSums256; ++j) sum[j] = _mm256_fmadd_ps(x, y, sum[j]);
  }
  for (auto& s : sum) asm volatile("" : : "x"(s));
  return 2.0 * 8 * kSums256 * kSteps;
}
#endif

double FmaPlain() {
  constexpr int kLanes = 48;
  float sum[kLanes] = {}, x = 0.999f, y = 0.001f;
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+m"(x), "+m"(y));
    for (float& s : sum) s += x * y;
  }
  asm volatile("" : : "m"(sum));
  return 2.0 * kLanes * kSteps;
}

double Fma() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return Fma512();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Fma256();
#endif
  return FmaPlain();
}

void Read(const uint64_t* from, int64_t bytes) {
  uint64_t sum[8] = {};
  for (int64_t i = 0; i < bytes / 8; i += 8) {
    for (int j = 0; j < 8; ++j) sum[j] += from[i + j];
  }
  for (uint64_t& s : sum) asm volatile("" : "+m"(s));
}

}  // namespace

Ceilings::Ceilings(int threads) : threads_(threads > 0 ? threads : Cores()), from_(kArray), to_(kArray) {}

template <typename Body>
double Ceilings::Timed(Body&& body) const {
  const double start = Now();
  std::vector<std::thread> others;
  for (int i = 1; i < threads_; ++i) others.emplace_back([&body, i] { body(i); });
  body(0);
  for (std::thread& other : others) other.join();
  return Now() - start;
}

double Ceilings::FmaGflops() const {
  std::vector<double> done(threads_);
  const double seconds = Timed([&](int i) { done[i] = Fma(); });
  double total = 0;
  for (double operations : done) total += operations;
  return total / seconds / 1e9;
}

double Ceilings::ReadGbps() const {
  const int64_t piece = std::min(kReadPiece, kArray / threads_ / 4096 * 4096);
  const int64_t base = at_;
  at_ = (at_ + piece * threads_) % kArray;
  const double seconds =
      Timed([&](int i) { Read(from_.as<const uint64_t>() + (base + i * piece) % (kArray - piece + 1) / 8, piece); });
  return static_cast<double>(piece) * threads_ / seconds / 1e9;
}

double Ceilings::CopyGbps() const {
  const int64_t piece = std::min(kCopyPiece, kArray / threads_ / 4096 * 4096);
  const int64_t base = at_;
  at_ = (at_ + piece * threads_) % kArray;
  const double seconds = Timed([&](int i) {
    const int64_t offset = (base + i * piece) % (kArray - piece + 1);
    std::memcpy(to_.as<char>() + offset, from_.as<char>() + offset, static_cast<size_t>(piece));
  });
  return static_cast<double>(piece) * threads_ / seconds / 1e9;
}

}  // namespace kvlink::bench
